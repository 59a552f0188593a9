"""The clusters' centres, followed: where they would stand if the newest points had their say. Pure arrays.

Each claimed point moves its cluster's centre (a mean with a forgetting factor). The served clusters, and with them
every answer, stay as they are: this only tells how far the two have come apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_core.baseline import Baseline

PRIOR_POINTS = 20.0
"""What a served centre weighs at first, and the least it ever weighs: one odd point moves nothing far."""


class FollowedCentres:
    """Centres beside those of one run's clusters, in the space of the averages."""

    def __init__(self, baseline: Baseline) -> None:
        seen = baseline.num_claimed > 0
        self._cluster = baseline.cluster_ids[seen]  # [c]
        self._served = baseline.mean[seen].astype(np.float64)  # [c, 21]
        self._radius = np.sqrt(baseline.scatter[seen])
        self.positions = self._served.copy()
        self._weight = np.full(len(self._served), PRIOR_POINTS)
        self._heard = np.zeros(len(self._served))  # forgotten number of points

    def forget(self, keep: float) -> None:
        """Let everything so far count `keep` times as much."""
        self._weight = np.maximum(self._weight * keep, PRIOR_POINTS)
        self._heard *= keep

    def take(self, averages: npt.NDArray[np.floating], *, cluster_ids: npt.NDArray[np.integer]) -> None:
        """Points [m, 21] and the cluster that each was given on arrival; those of none move nothing."""
        claimed = np.isin(cluster_ids, self._cluster)
        if not claimed.any():
            return
        x, centre = averages[claimed].astype(np.float64), np.searchsorted(self._cluster, cluster_ids[claimed])
        count = np.bincount(centre, minlength=len(self.positions)).astype(np.float64)
        total = np.zeros_like(self.positions)
        np.add.at(total, centre, x)
        self._weight += count
        self._heard += count
        self.positions += (total - count[:, None] * self.positions) / self._weight[:, None]

    def shift(self) -> float | None:
        """Mean distance between followed and served centres in cluster radii, weighed by points; None before any."""
        if not self._heard.sum() > 0:
            return None
        distance = np.linalg.norm(self.positions - self._served, axis=1) / np.maximum(self._radius, 1e-9)
        return float(np.average(distance, weights=self._heard))
