"""Which rows the map and the clusters are fitted on, and which are set aside to judge the served classifier."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]


def sample_rows(num_rows: int, *, size: int, seed: int) -> I64:
    """`size` distinct row numbers below `num_rows` (all of them where there are fewer), ascending: int64 [s]."""
    if num_rows <= size:
        return np.arange(num_rows, dtype=np.int64)
    chosen = np.random.default_rng(seed).choice(num_rows, size=size, replace=False)
    return np.sort(chosen).astype(np.int64)


def lasting_rows(row_ids: I64, *, size: int, seed: int) -> I64:
    """As `sample_rows`, but by the rows' own ids [m]: windows that share rows share that part of their samples.

    The rows with the smallest hashes (bottom-k). From one hour to the next a day's sample changes by a 24th.
    """
    if len(row_ids) <= size:
        return np.arange(len(row_ids), dtype=np.int64)
    hashed = _mixed(row_ids.astype(np.uint64) ^ _mixed(np.array([seed], dtype=np.uint64)))
    # Ties (rows of one id) go by place, so that the sample has exactly its size.
    return np.sort(np.argsort(hashed, kind="stable")[:size]).astype(np.int64)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): every bit of the input changes half the bits of the output."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def split_rows(num_rows: int, *, shares: tuple[float, ...], seed: int) -> tuple[I64, ...]:
    """A seeded partition of 0..num_rows-1 into parts of these shares (which sum to 1), each ascending."""
    order = np.random.default_rng(seed).permutation(num_rows)
    ends = np.round(np.cumsum(shares) * num_rows).astype(np.int64)[:-1]
    return tuple(np.sort(part).astype(np.int64) for part in np.split(order, ends))
