"""Which row of a clustered sample a new row joins, as a loop: the nearest by mutual reachability."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.compiled import compiled
from attn_assets.discovery.tree_loops import STACK, _outside

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@compiled
def _kth(values: F32, size: int, k: int) -> np.float32:
    """The k-th smallest (from 0) of values[:size], which are put into another order."""
    left, right = 0, size - 1
    while left < right:
        pivot = values[(left + right) // 2]
        i, j = left, right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            right = j
        elif k >= i:
            left = i
        else:
            break
    found: np.float32 = values[k]
    return found


@compiled
def join(
    queries: F32,
    first: int,
    last: int,
    nearest: I32,
    nearest_distance: F32,
    core: F32,
    min_samples: int,
    points: F32,
    order: I32,
    start: I32,
    stop: I32,
    low: F32,
    high: F32,
    neighbour: I32,
    own_core: F32,
) -> None:
    """For queries first..last their core distance, and the row within it whose own core is no larger (-1: none).

    Such a row is as near as any can be by mutual reachability; of several the nearest is taken. `nearest` [m] is each
    query's nearest row: the rows within its core distance of it bound the query's own. `core` [s] is in the callers'
    order.
    """
    num_nodes, dim = low.shape
    stack = np.empty(STACK, dtype=np.int32)
    met = np.empty(len(points), dtype=np.float32)
    rows = np.empty(len(points), dtype=np.int32)
    sorted_met = np.empty(len(points), dtype=np.float32)
    for q in range(first, last):
        query = queries[q]
        radius = (nearest_distance[q] + core[nearest[q]]) * np.float32(1.00001) + np.float32(1e-12)
        bound = radius * radius
        count, top = 0, 0
        stack[0] = 0
        while top >= 0:
            node = stack[top]
            top -= 1
            if _outside(query, low, high, node) > bound:
                continue
            left = 2 * node + 1
            if left + 1 < num_nodes:
                stack[top + 1], stack[top + 2] = left, left + 1
                top += 2
                continue
            for i in range(start[node], stop[node]):
                total = np.float32(0.0)
                for d in range(dim):
                    gap = points[i, d] - query[d]
                    total += gap * gap
                if total <= bound:
                    met[count], sorted_met[count], rows[count] = total, total, order[i]
                    count += 1
        squared = _kth(sorted_met, count, min(min_samples, count - 1))
        own = np.float32(np.sqrt(squared))
        own_core[q] = own
        neighbour[q] = -1
        nearest_yet = np.float32(np.inf)
        for i in range(count):
            if met[i] <= squared and met[i] < nearest_yet and core[rows[i]] <= own:
                nearest_yet, neighbour[q] = met[i], rows[i]
