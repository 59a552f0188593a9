"""The served prototypes, followed: where they would stand if the newest points had their say. Pure arrays.

Each claimed point moves the nearest followed prototype of its cluster (k-means with a forgetting factor). The served
positions, and with them every answer, stay as they are: this only tells how far the two have come apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_core.classify import ClassifierArrays

PRIOR_POINTS = 20.0
"""What a served position weighs at first, and the least it ever weighs: one odd point moves nothing far."""
F32 = npt.NDArray[np.float32]


class FollowedPrototypes:
    """Positions beside those of one run's classifier."""

    def __init__(self, arrays: ClassifierArrays) -> None:
        self._served = arrays.prototypes.astype(np.float64)  # [p, 21]
        counts = np.diff(arrays.prototype_start, append=len(arrays.prototypes))
        self._cluster = np.repeat(arrays.cluster_ids.astype(np.int64), counts)  # [p]
        self._radius = np.repeat(arrays.cluster_radius.astype(np.float64), counts)
        self.positions = self._served.copy()
        self._weight = np.full(len(self._served), PRIOR_POINTS)
        self._heard = np.zeros(len(self._served))  # forgotten number of points
        self._claimed = self._elsewhere = 0.0

    def forget(self, keep: float) -> None:
        """Let everything so far count `keep` times as much."""
        self._weight = np.maximum(self._weight * keep, PRIOR_POINTS)
        self._heard *= keep
        self._claimed *= keep
        self._elsewhere *= keep

    def take(self, features: npt.NDArray[np.floating], *, cluster_ids: npt.NDArray[np.integer]) -> None:
        """Points [m, 21] and the cluster that each was given on arrival; those of none move nothing."""
        claimed = np.isin(cluster_ids, self._cluster)
        if not claimed.any():
            return
        x, ids = features[claimed].astype(np.float64), cluster_ids[claimed]
        # |x - q|^2 / 2 without |x|^2 / 2, which is the same for every prototype.
        half = 0.5 * (self.positions**2).sum(axis=1) - x @ self.positions.T
        self._claimed += len(x)
        self._elsewhere += float((self._cluster[half.argmin(axis=1)] != ids).sum())
        half[self._cluster[None, :] != ids[:, None]] = np.inf
        nearest = half.argmin(axis=1)
        count = np.bincount(nearest, minlength=len(self.positions)).astype(np.float64)
        total = np.zeros_like(self.positions)
        np.add.at(total, nearest, x)
        self._weight += count
        self._heard += count
        self.positions += (total - count[:, None] * self.positions) / self._weight[:, None]

    def shift(self) -> float | None:
        """Mean distance between followed and served positions in cluster radii, weighed by points; None before any."""
        if not self._heard.sum() > 0:
            return None
        distance = np.linalg.norm(self.positions - self._served, axis=1) / np.maximum(self._radius, 1e-9)
        return float(np.average(distance, weights=self._heard))

    def elsewhere(self) -> float | None:
        """Share of claimed points that lie nearest to another cluster's followed prototype; None before any."""
        return self._elsewhere / self._claimed if self._claimed > 0 else None
