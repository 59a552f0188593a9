"""The minimum spanning tree of mutual reachability, which HDBSCAN's hierarchy is read from.

Boruvka's rounds over a k-d tree (March, Ram, Gray, KDD 2010, without the second tree), in float64 as hdbscan computes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.neighbours import Frame

F64 = npt.NDArray[np.float64]


def spanning_tree(frame: Frame, core_distance: npt.NDArray[np.float32]) -> F64:
    """float64 [s - 1, 3]: two rows and their mutual reachability, ascending by it."""
    from attn_assets.discovery import tree_loops

    size, num_nodes = len(frame.points), len(frame.start)
    core = core_distance[frame.order].astype(np.float64) ** 2
    by_core = np.argsort(core, kind="stable").astype(np.int32)
    component, parent = np.arange(size, dtype=np.int32), np.arange(size, dtype=np.int32)
    node_component, node_core = np.empty(num_nodes, np.int32), np.empty(num_nodes)
    best, best_from, best_to = np.full(size, np.inf), np.zeros(size, np.int32), np.zeros(size, np.int32)
    edges, weights = np.empty((max(size - 1, 0), 2), np.int32), np.empty(max(size - 1, 0))
    count, first = 0, True
    while count < size - 1:
        tree_loops.describe_nodes(component, core, frame.start, frame.stop, node_component, node_core, first)
        tree_loops.join_round(
            frame.points, core, by_core, component, frame.start, frame.stop, frame.low, frame.high,
            node_component, node_core, best, best_from, best_to,
        )  # fmt: skip
        count = tree_loops.merge_round(parent, component, best, best_from, best_to, edges, weights, count)
        first = False
    order = np.argsort(weights, kind="stable")
    return np.column_stack([frame.order[edges[order]].astype(np.float64), np.sqrt(weights[order])])
