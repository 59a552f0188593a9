"""Exact nearest neighbours in the feature space: the one search that the map, the placement and the clusters share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The k nearest rows of a frame for each of m queries, nearest first."""

    index: npt.NDArray[np.int32]
    """[m, k], row numbers of the frame."""
    distance: F32
    """[m, k], Euclidean."""


class Frame:
    """Rows to search among: float32 [s, d]. Features have 21 columns but few free directions: a k-d tree pays."""

    def __init__(self, features: F32) -> None:
        self.features = features
        self._tree = cKDTree(features, balanced_tree=False)

    def nearest(self, queries: F32, *, k: int) -> Neighbours:
        """The `k` nearest rows (all rows, where the frame has fewer) for float32 [m, d]."""
        k = min(k, len(self.features))
        # `k=[1..k]` keeps two dimensions where k is 1.
        distance, index = self._tree.query(queries, k=list(range(1, k + 1)), workers=-1)
        return Neighbours(index=index.astype(np.int32), distance=distance.astype(np.float32))
