"""`--online`: between two discovery runs, how much arrives that the served run does not explain.

Novelty is the share of points that no cluster claims. Drift is how far a cluster's new members have moved from where
the run saw them, |E[x] - c| / E|x - c| over the fingerprints x and the cluster's centroid c: 0 where they scatter
around it, 1 where they have all left in one direction. Both forget exponentially. Ids and zones are never changed by
this; it only measures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from attn_core.classify import NO_CLUSTER
from attn_core.fingerprint import DIM
from attn_sidecar.discovery import Served
from attn_sidecar.store.jobs import Committed

HALF_LIFE_POINTS = 2000
"""A point counts half as much once this many newer ones have come."""
F64 = npt.NDArray[np.float64]


class OnlineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What `/stats` shows of the time since the served run was loaded."""

    run_id: str | None
    num_points: int
    novelty: float | None
    drift: float | None


class OnlineFollower:
    """Follows commits on the writing thread; `figures` may be read from any other."""

    def __init__(self, served: Callable[[], Served]) -> None:
        self._served = served
        self._lock = threading.Lock()
        self._start_over(None, np.zeros(0, np.int64), np.zeros((0, DIM)))

    def _start_over(self, run_id: str | None, cluster_ids: npt.NDArray[np.int64], centroids: F64) -> None:
        self._run_id = run_id
        self._cluster_ids, self._centroids = cluster_ids, centroids  # ascending [c]; [c, 20]
        self._num_points = 0
        self._weight = self._unclaimed = 0.0
        self._cluster_weight = np.zeros(len(cluster_ids))
        self._shift = np.zeros((len(cluster_ids), DIM))  # forgotten sum of x - c
        self._spread = np.zeros(len(cluster_ids))  # forgotten sum of |x - c|

    def committed(self, commit: Committed) -> None:
        """Take the points of one commit in."""
        served = self._served()
        if commit.run_id is None or commit.run_id != served.run_id or not len(commit.vectors):
            return
        with self._lock:
            if commit.run_id != self._run_id:
                rows = sorted(served.clusters, key=lambda row: int(row["cluster_id"]))
                ids = np.array([row["cluster_id"] for row in rows], dtype=np.int64)
                self._start_over(commit.run_id, ids, np.array([row["centroid"] for row in rows]).reshape(-1, DIM))
            self._take(commit.vectors.astype(np.float64), commit.cluster_ids)

    def _take(self, vectors: F64, cluster_ids: npt.NDArray[np.int32]) -> None:
        keep = 0.5 ** (len(vectors) / HALF_LIFE_POINTS)
        self._num_points += len(vectors)
        self._weight = self._weight * keep + len(vectors)
        self._unclaimed = self._unclaimed * keep + float((cluster_ids == NO_CLUSTER).sum())
        for total in (self._cluster_weight, self._shift, self._spread):
            total *= keep
        known = np.isin(cluster_ids, self._cluster_ids)
        at = np.searchsorted(self._cluster_ids, cluster_ids[known])
        offsets = vectors[known] - self._centroids[at]
        np.add.at(self._cluster_weight, at, 1.0)
        np.add.at(self._shift, at, offsets)
        np.add.at(self._spread, at, np.linalg.norm(offsets, axis=1))

    def figures(self) -> OnlineFigures:
        """Novelty and drift now; None where nothing has come since the run was loaded."""
        with self._lock:
            seen = self._spread > 0
            drift = None
            if seen.any():
                each = np.linalg.norm(self._shift[seen], axis=1) / self._spread[seen]
                drift = round(float(np.average(each, weights=self._cluster_weight[seen])), 4)
            novelty = round(self._unclaimed / self._weight, 4) if self._weight else None
            return OnlineFigures(run_id=self._run_id, num_points=self._num_points, novelty=novelty, drift=drift)
