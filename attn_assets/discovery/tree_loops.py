"""The k-d tree's loops: building it, the nearest rows of a query, and the spanning tree of mutual reachability.

A tree is arrays: rows in tree order, and nodes in which the children of node i are 2i + 1 and 2i + 2, each with the
range of its rows and the box around them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.compiled import compiled

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
STACK = 128


@compiled
def build(points: F32, order: I32, start: I32, stop: I32, low: F32, high: F32) -> None:
    """Fill the nodes over `points` [s, d]; `order` is permuted so that a node's rows are order[start:stop]."""
    num_nodes, dim = low.shape
    start[0], stop[0] = 0, len(order)
    for node in range(num_nodes):
        first, last = start[node], stop[node]
        for d in range(dim):
            smallest, largest = np.float32(np.inf), np.float32(-np.inf)
            for i in range(first, last):
                value = points[order[i], d]
                smallest, largest = min(smallest, value), max(largest, value)
            low[node, d], high[node, d] = smallest, largest
        if 2 * node + 2 >= num_nodes:
            continue
        axis, widest = 0, np.float32(-1.0)
        for d in range(dim):
            if high[node, d] - low[node, d] > widest:
                axis, widest = d, high[node, d] - low[node, d]
        middle = (first + last) // 2
        _halve(points, order, first, last, middle, axis)
        start[2 * node + 1], stop[2 * node + 1] = first, middle
        start[2 * node + 2], stop[2 * node + 2] = middle, last


@compiled
def _halve(points: F32, order: I32, first: int, last: int, middle: int, axis: int) -> None:
    """Quickselect: rows before `middle` are not above, rows from it on not below the one at it along `axis`."""
    left, right = first, last - 1
    while left < right:
        pivot = points[order[(left + right) // 2], axis]
        i, j = left, right
        while i <= j:
            while points[order[i], axis] < pivot:
                i += 1
            while points[order[j], axis] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            return


@compiled
def _outside(query: F32, low: F32, high: F32, node: int) -> np.float32:
    """Squared distance from the query to the node's box."""
    total = np.float32(0.0)
    for d in range(len(query)):
        gap = max(max(low[node, d] - query[d], query[d] - high[node, d]), np.float32(0.0))
        total += gap * gap
    return total


@compiled
def _sink(distance: F32, index: I32, size: int, value: np.float32, row: int) -> None:
    """Put (value, row) in the place of a max-heap's root."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and distance[child + 1] > distance[child]:
            child += 1
        if distance[child] <= value:
            break
        distance[place], index[place] = distance[child], index[child]
        place = child
    distance[place], index[place] = value, row


@compiled
def nearest(
    queries: F32,
    first: int,
    last: int,
    points: F32,
    order: I32,
    start: I32,
    stop: I32,
    low: F32,
    high: F32,
    index: I32,
    distance: F32,
) -> None:
    """For queries first..last the k nearest rows, nearest first; `points` is in tree order, `index` in the caller's.

    `distance` comes out squared. Of rows equally far the one that was met first is kept.
    """
    num_nodes, dim = low.shape
    k = index.shape[1]
    stack = np.empty(STACK, dtype=np.int32)
    reach = np.empty(STACK, dtype=np.float32)
    for q in range(first, last):
        query, near, far = queries[q], index[q], distance[q]
        for i in range(k):
            far[i] = np.inf
            near[i] = -1
        top = 0
        stack[0], reach[0] = 0, 0.0
        while top >= 0:
            node, bound = stack[top], reach[top]
            top -= 1
            if bound >= far[0]:
                continue
            left = 2 * node + 1
            if left + 1 < num_nodes:
                to_left, to_right = _outside(query, low, high, left), _outside(query, low, high, left + 1)
                # The nearer child on top.
                if to_left <= to_right:
                    stack[top + 1], reach[top + 1] = left + 1, to_right
                    stack[top + 2], reach[top + 2] = left, to_left
                else:
                    stack[top + 1], reach[top + 1] = left, to_left
                    stack[top + 2], reach[top + 2] = left + 1, to_right
                top += 2
                continue
            for i in range(start[node], stop[node]):
                total = np.float32(0.0)
                for d in range(dim):
                    gap = points[i, d] - query[d]
                    total += gap * gap
                if total < far[0]:
                    _sink(far, near, k, total, order[i])
        for size in range(k - 1, 0, -1):
            value, row = far[size], near[size]
            far[size], near[size] = far[0], near[0]
            _sink(far, near, size, value, row)


@compiled
def join_round(
    points: F32,
    core: F64,
    by_core: I32,
    component: I32,
    start: I32,
    stop: I32,
    low: F32,
    high: F32,
    node_component: I32,
    node_core: F64,
    best: F64,
    best_from: I32,
    best_to: I32,
) -> None:
    """One round of Boruvka: for each component the edge of least mutual reachability that leaves it.

    All in tree order; `core` is squared. `best` [s] by component number, inf where there is no edge.
    """
    num_nodes = len(node_core)
    stack = np.empty(STACK, dtype=np.int32)
    reach = np.empty(STACK, dtype=np.float64)
    for place in range(len(by_core)):
        a = by_core[place]
        own = component[a]
        # From the densest row on: most rows have a core larger than what is found already.
        if core[a] >= best[own]:
            continue
        top = 0
        stack[0], reach[0] = 0, core[a]
        while top >= 0:
            node, bound = stack[top], reach[top]
            top -= 1
            if bound >= best[own] or node_component[node] == own:
                continue
            left = 2 * node + 1
            if left + 1 < num_nodes:
                to_left = max(max(np.float64(_outside(points[a], low, high, left)), node_core[left]), core[a])
                right = left + 1
                to_right = max(max(np.float64(_outside(points[a], low, high, right)), node_core[right]), core[a])
                if to_left <= to_right:
                    stack[top + 1], reach[top + 1] = right, to_right
                    stack[top + 2], reach[top + 2] = left, to_left
                else:
                    stack[top + 1], reach[top + 1] = left, to_left
                    stack[top + 2], reach[top + 2] = right, to_right
                top += 2
                continue
            for b in range(start[node], stop[node]):
                if component[b] == own:
                    continue
                total = 0.0
                for d in range(points.shape[1]):
                    gap = np.float64(points[b, d]) - np.float64(points[a, d])
                    total += gap * gap
                mutual = max(max(total, core[a]), core[b])
                if mutual < best[own]:
                    best[own], best_from[own], best_to[own] = mutual, a, b
            if best[own] <= core[a]:
                break  # nothing can be nearer than the row's own core


@compiled
def _root(parent: I32, row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@compiled
def merge_round(
    parent: I32, component: I32, best: F64, best_from: I32, best_to: I32, edges: I32, weights: F64, count: int
) -> int:
    """Add each component's best edge that still joins two; returns the number of edges there are."""
    for number in range(len(best)):
        if best[number] < np.inf:
            a, b = _root(parent, best_from[number]), _root(parent, best_to[number])
            if a != b:
                parent[a] = b
                edges[count, 0], edges[count, 1], weights[count] = best_from[number], best_to[number], best[number]
                count += 1
            best[number] = np.inf
    for row in range(len(component)):
        component[row] = _root(parent, row)
    return count


@compiled
def describe_nodes(
    component: I32, core: F64, start: I32, stop: I32, node_component: I32, node_core: F64, with_core: bool
) -> None:
    """The component that all of a node's rows are of (-1: several), and, where asked, its least core."""
    num_nodes = len(node_component)
    for node in range(num_nodes - 1, -1, -1):
        left = 2 * node + 1
        if left + 1 < num_nodes:
            one, other = node_component[left], node_component[left + 1]
            node_component[node] = one if one == other else -1
            if with_core:
                node_core[node] = min(node_core[left], node_core[left + 1])
            continue
        which = component[start[node]]
        for row in range(start[node], stop[node]):
            if component[row] != which:
                which = -1
        node_component[node] = which
        if with_core:
            least = np.inf
            for row in range(start[node], stop[node]):
                least = min(least, core[row])
            node_core[node] = least
