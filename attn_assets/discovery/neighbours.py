"""Exact nearest neighbours: the one search that the map, the placement and the clusters share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAF_ROWS = 16
"""Rows in a leaf, at most twice as many."""
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The k nearest rows of a frame for each of m queries, nearest first."""

    index: npt.NDArray[np.int32]
    """[m, k], row numbers of the frame."""
    distance: F32
    """[m, k], Euclidean."""


class Frame:
    """Rows to search among: float32 [s, d]. Features have 21 columns but few free directions: a k-d tree pays.

    The tree stands on the principal axes, where its boxes are tight; distances are the same there.
    """

    def __init__(self, features: F32) -> None:
        # Imported here, as everywhere: compiled loops take a second to load.
        from attn_assets.discovery import tree_loops

        self.features = features
        self._axes = _principal_directions(features)
        turned = self.turned(features)
        size, dim = turned.shape
        depth = max(int(np.log2(max(size / LEAF_ROWS, 1))), 0)
        num_nodes = 2 ** (depth + 1) - 1
        self.order: I32 = np.arange(size, dtype=np.int32)
        self.start, self.stop = np.zeros(num_nodes, np.int32), np.zeros(num_nodes, np.int32)
        self.low, self.high = np.zeros((num_nodes, dim), np.float32), np.zeros((num_nodes, dim), np.float32)
        tree_loops.build(turned, self.order, self.start, self.stop, self.low, self.high)
        self.points: F32 = np.ascontiguousarray(turned[self.order])
        """The rows in tree order, turned to the principal axes: [s, d]."""

    def nearest(self, queries: F32, *, k: int) -> Neighbours:
        """The `k` nearest rows (all rows, where the frame has fewer) for float32 [m, d]."""
        from attn_assets.discovery import tree_loops
        from attn_assets.discovery.compiled import over_rows

        k, count = min(k, len(self.features)), len(queries)
        turned = self.turned(queries)
        index, distance = np.empty((count, k), np.int32), np.empty((count, k), np.float32)

        def work(first: int, last: int) -> None:
            tree_loops.nearest(
                turned, first, last, self.points, self.order, self.start, self.stop, self.low, self.high,
                index, distance,
            )  # fmt: skip

        over_rows(count, work)
        return Neighbours(index=index, distance=np.sqrt(distance, out=distance))

    def turned(self, rows: F32) -> F32:
        """The rows on the frame's axes, float32 [m, d]: as `points` are."""
        # Centred first: float32 keeps small distances best near the origin.
        centre, axes = self._axes
        return np.ascontiguousarray((rows.astype(np.float64) - centre) @ axes, dtype=np.float32)


def _principal_directions(features: F32) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean [d] and orthonormal axes [d, d] of the rows, the widest first."""
    rows = features.astype(np.float64)
    centre = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
    _, axes = np.linalg.eigh((rows - centre).T @ (rows - centre))
    return centre, axes[:, ::-1]
