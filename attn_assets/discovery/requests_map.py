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
I64 = npt.NDArray[np.int64]


def request_features(features: F32, *, request_no: I64, step: npt.NDArray[np.integer]) -> F32:
    """float32 [r, 3 d] of the tokens' features [m, d]: mean, standard deviation, mean absolute step.

    `request_no` [m] counts the requests from 0, each with a token at least; `step` [m] orders a request's tokens. A
    single token has no spread and no step: zeros.
    """
    num_tokens, dim = features.shape
    num_requests = int(request_no.max(initial=-1)) + 1
    found = np.zeros((num_requests, 3 * dim), dtype=np.float32)
    if not num_tokens:
        return found
    order = np.lexsort((step, request_no))
    numbers = request_no[order]
    starts = np.searchsorted(numbers, np.arange(num_requests))
    count = np.diff(starts, append=num_tokens)
    same = numbers[1:] == numbers[:-1]
    # Column by column: a million tokens at once would take half a gigabyte.
    for k in range(dim):
        column = features[order, k].astype(np.float64)
        mean = np.add.reduceat(column, starts) / count
        spread = np.sqrt(np.add.reduceat((column - mean[numbers]) ** 2, starts) / count)
        steps = np.append(np.abs(np.diff(column)) * same, 0.0)
        found[:, [k, dim + k, 2 * dim + k]] = np.column_stack(
            [mean, spread, np.add.reduceat(steps, starts) / np.maximum(count - 1, 1)]
        )
    return found


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
