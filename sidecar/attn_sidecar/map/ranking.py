"""Which points to draw first: an order of all points whose every beginning is a fair, small map.

Points are taken in turn from strata, a stratum being the points of one cluster and one zone. Stratum s of n_s points
gives its j-th at rank time ``j / sqrt(n_s)``, so that any beginning of the order holds of each stratum a number in
proportion to the square root of its size, until it is used up. Why the root: equal shares would let noise of three
points weigh as much as a cluster of a hundred thousand, shares by size would hide a rare zone (10 tokens in a million)
from every map of fewer than 100,000 points. Every stratum's first point comes before any stratum's second.

Within a stratum the order is that of a hash of (request_id, step): chosen without regard to place, so that the points
shown of a stratum are a uniform sample of it, each standing for ``num_points / num_returned`` of its kind, and the same
token is chosen in every run that holds it: the picture does not flicker from hour to hour. The order is one
permutation, so a larger map contains the smaller one, and zooming in only ever adds points.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


def order_of(strata: npt.NDArray[np.integer], keys: U64) -> I64:
    """Row numbers by rank: int64 [m] from stratum numbers [m] and hashes [m]."""
    m = len(strata)
    if m == 0:
        return np.zeros(0, dtype=np.int64)
    grouped = np.lexsort((keys, strata))
    of_group = strata[grouped]
    starts = np.flatnonzero(np.concatenate([[True], of_group[1:] != of_group[:-1]]))
    sizes = np.diff(np.append(starts, m))
    place = np.arange(m) - np.repeat(starts, sizes)
    time = place / np.sqrt(np.repeat(sizes, sizes))
    ranked = np.lexsort((keys[grouped], time))
    order: I64 = grouped[ranked].astype(np.int64)
    return order


def keys_of(request_ids: pa.DictionaryArray, steps: npt.NDArray[np.integer]) -> U64:
    """A hash of each (request_id, step): uint64 [m]. The same in every process and run."""
    seeds = np.array(
        [
            int.from_bytes(hashlib.blake2b(str(text).encode(), digest_size=8).digest(), "little")
            for text in request_ids.dictionary.to_pylist()
        ],
        dtype=np.uint64,
    )
    indices = request_ids.indices.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        return _mixed(seeds[indices] + _mixed(steps.astype(np.uint64)))


def _mixed(values: U64) -> U64:
    """The finaliser of splitmix64: a bijection of 64 bits whose every output bit depends on every input bit."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: U64 = z ^ (z >> np.uint64(31))
    return mixed
