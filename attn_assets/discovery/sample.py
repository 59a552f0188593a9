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


def split_rows(num_rows: int, *, shares: tuple[float, ...], seed: int) -> tuple[I64, ...]:
    """A seeded partition of 0..num_rows-1 into parts of these shares (which sum to 1), each ascending."""
    order = np.random.default_rng(seed).permutation(num_rows)
    ends = np.round(np.cumsum(shares) * num_rows).astype(np.int64)[:-1]
    return tuple(np.sort(part).astype(np.int64) for part in np.split(order, ends))
