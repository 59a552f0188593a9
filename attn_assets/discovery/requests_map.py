"""A map of requests, one point a request, beside the map of tokens and in a frame of its own.

A request is the mean of its tokens and its first token, by their sketches and by their averages, all relative to what
is usual at their context lengths: requests that answer in the same manner lie together whatever their length.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_assets.discovery.embedding import Embedding, NoKeeper, embed_all
from attn_assets.discovery.learned_space import Coordinates
from attn_assets.discovery.renewal import LastMap

MAX_FITTED = 4_000
"""Requests that the map is fitted on; more of them are placed against these."""
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def request_features(at: Coordinates, *, request_no: I64, step: npt.NDArray[np.integer]) -> Coordinates:
    """Mean and first token of r requests' tokens, [m] of them: 2 d columns for each set of d columns.

    `request_no` [m] counts the requests from 0, each with a token at least; `step` [m] orders a request's tokens. Where
    the map rests on sketches, so does a request that has one, and its averages count beside them.
    """
    order = np.lexsort((step, request_no))
    averages = _mean_and_first(at.averages, request_no=request_no, order=order)
    if at.sketch is None:
        return Coordinates(averages=averages, sketch=None)
    there = at.in_main
    found = np.full((len(averages), 2 * at.sketch.shape[1] + averages.shape[1]), np.nan, dtype=np.float32)
    sketched, number = np.unique(request_no[there], return_inverse=True)
    inner = np.lexsort((step[there], number))
    found[sketched] = np.column_stack(
        [_mean_and_first(at.sketch[there], request_no=number, order=inner), averages[sketched]]
    )
    return Coordinates(averages=averages, sketch=found)


def _mean_and_first(columns: F32, *, request_no: I64, order: I64) -> F32:
    num_requests, dim = int(request_no.max(initial=-1)) + 1, columns.shape[1]
    found = np.zeros((num_requests, 2 * dim), dtype=np.float32)
    if not len(order):
        return found
    starts = np.searchsorted(request_no[order], np.arange(num_requests))
    count = np.diff(starts, append=len(order))
    # Column by column: a million tokens at once would take half a gigabyte.
    for k in range(dim):
        column = columns[order, k].astype(np.float64)
        found[:, k] = np.add.reduceat(column, starts) / count
        found[:, dim + k] = column[starts]
    return found


def map_requests(at: Coordinates, *, request_ids: pa.Array, last: LastMap | None, now_us: int, seed: int) -> Embedding:
    """The map of r requests: their coordinates and ids; `last` and `now_us` as in `embed`."""
    hashed = np.array([zlib.crc32(text.encode()) for text in request_ids.to_pylist()], dtype=np.int64)
    return embed_all(
        at,
        sample_size=MAX_FITTED,
        batch_size=MAX_FITTED,
        seed=seed,
        keeper=NoKeeper(),
        report=lambda done, total: None,
        row_ids=hashed,
        last=last,
        now_us=now_us,
    )
