"""A map of requests, one point a request, beside the map of tokens and in a frame of its own.

A request is the mean of its tokens' features, their spread, and the mean step from one token to the next: where it
looks, how variously, and how restlessly. Requests that answer in the same manner lie together whatever their length.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_assets.discovery.embedding import Embedding, NoKeeper, embed
from attn_assets.discovery.renewal import LastMap

MAX_FITTED = 4_000
"""Requests that the map is fitted on; more of them are placed against these."""
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def request_features(features: F32, *, request_no: I64, step: npt.NDArray[np.integer]) -> F32:
    """float32 [r, 3 d] of the tokens' features [m, d]: mean, standard deviation, mean absolute step.

    `request_no` [m] counts the requests from 0, `step` [m] orders a request's tokens. A single token has no spread and
    no step: zeros.
    """
    num_requests = int(request_no.max(initial=-1)) + 1
    order = np.lexsort((step, request_no))
    rows, numbers = features[order].astype(np.float64), request_no[order]
    count = np.maximum(np.bincount(numbers, minlength=num_requests), 1)[:, None]
    mean = _sums(rows, numbers, num_requests) / count
    spread = np.sqrt(_sums((rows - mean[numbers]) ** 2, numbers, num_requests) / count)
    same = numbers[1:] == numbers[:-1]
    steps = _sums(np.abs(np.diff(rows, axis=0))[same], numbers[1:][same], num_requests) / np.maximum(count - 1, 1)
    return np.concatenate([mean, spread, steps], axis=1).astype(np.float32)


def map_requests(features: F32, *, request_ids: pa.Array, last: LastMap | None, now_us: int, seed: int) -> Embedding:
    """The map of requests: their features [r, 3 d] and ids; `last` and `now_us` as in `embed`."""
    hashed = np.array([zlib.crc32(text.encode()) for text in request_ids.to_pylist()], dtype=np.int64)
    return embed(
        features,
        sample_size=MAX_FITTED,
        batch_size=MAX_FITTED,
        seed=seed,
        keeper=NoKeeper(),
        report=lambda done, total: None,
        row_ids=hashed,
        last=last,
        now_us=now_us,
    )


def _sums(rows: F64, numbers: I64, count: int) -> F64:
    total = np.zeros((count, rows.shape[1]))
    np.add.at(total, numbers, rows)
    return total
