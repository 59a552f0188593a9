"""How far the present has left what a run saw: novelty and drift, each with an interval. Pure arrays.

Tokens of one request resemble one another, so a thousand tokens are no thousand independent draws. Every request
belongs to one of 16 groups, sums are kept by group, and what the groups disagree about makes the interval (the
delete-one jackknife). For drift the groups do more: the squared length of a mean is too large by the mean's own
variance; the product of two groups' means is not, so only products across groups are summed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_core.baseline import Baseline
from attn_core.features import NUM_FEATURES

NUM_GROUPS = 16
MIN_GROUPS = 12
"""Groups that must hold something: with fewer requests an interval would be a guess."""
MIN_CLUSTER_POINTS = 30.0
MIN_BASELINE_ROWS = 20
"""Clusters that fewer points or held-out rows speak for say nothing of drift."""
_WIDTH = 2.13
"""Standard errors to each side: 95% of Student's t with 15 degrees of freedom."""
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and where it lies with 95% confidence."""

    value: float
    low: float
    high: float


class Departure:
    """Forgotten sums over the points since a run was loaded, beside that run's baseline of c clusters."""

    def __init__(self, baseline: Baseline) -> None:
        num_clusters = len(baseline.cluster_ids)
        self._baseline = baseline
        self.points = np.zeros(NUM_GROUPS)  # [g]
        self._unclaimed = np.zeros(NUM_GROUPS)
        self._claimed = np.zeros((NUM_GROUPS, num_clusters))
        self._moved = np.zeros((NUM_GROUPS, num_clusters, NUM_FEATURES))  # sums of x - mean

    def forget(self, keep: float) -> None:
        """Let everything so far count `keep` times as much."""
        for total in (self.points, self._unclaimed, self._claimed, self._moved):
            total *= keep

    def take(self, features: npt.NDArray[np.floating], *, cluster_ids: npt.NDArray[np.integer], group: I64) -> None:
        """Points [m, 21], the cluster given to each on arrival (-1: none), and the group of its request."""
        ids = self._baseline.cluster_ids
        np.add.at(self.points, group, 1.0)
        at = np.searchsorted(ids, cluster_ids)
        known = np.zeros(len(cluster_ids), dtype=bool)
        inside = at < len(ids)
        known[inside] = ids[at[inside]] == cluster_ids[inside]
        np.add.at(self._unclaimed, group[~known], 1.0)
        at, group = at[known], group[known]
        np.add.at(self._claimed, (group, at), 1.0)
        np.add.at(self._moved, (group, at), features[known] - self._baseline.mean[at])

    @property
    def num_groups(self) -> int:
        """Groups that hold something that is not forgotten."""
        return int((self.points >= 1.0).sum())

    def novelty(self) -> float | None:
        """Share of points that no cluster claims; None where nothing has come."""
        total = self.points.sum()
        return float(self._unclaimed.sum() / total) if total > 0 else None

    def expected_novelty(self) -> float | None:
        """The unclaimed share among the run's own held-out rows; None where it has none."""
        rows = self._baseline.num_rows
        return self._baseline.num_unclaimed / rows if rows else None

    def novelty_excess(self) -> Interval | None:
        """Novelty beyond the expected one; None where too few requests speak or the run has no held-out rows."""
        expected, rows = self.expected_novelty(), self._baseline.num_rows
        if expected is None or self.num_groups < MIN_GROUPS:
            return None
        held = self.points > 0
        points, unclaimed = self.points[held], self._unclaimed[held]
        value = unclaimed.sum() / points.sum() - expected
        without = (unclaimed.sum() - unclaimed) / (points.sum() - points) - expected
        # Add-one, so that a run without a single unclaimed row does not pass for certain.
        share = (self._baseline.num_unclaimed + 1) / (rows + 2)
        error = float(np.sqrt(_jackknife_variance(without) + share * (1 - share) / rows))
        return Interval(value=float(value), low=float(value - _WIDTH * error), high=float(value + _WIDTH * error))

    def drift(self) -> Interval | None:
        """How far the clusters' points have moved from where the run saw them, in root mean square radii.

        The root of the mean over clusters, weighed by points, of |E[x] - mean|^2 / scatter; None where too little
        speaks.
        """
        usable = (
            (self._claimed.sum(axis=0) >= MIN_CLUSTER_POINTS)
            & (self._baseline.num_claimed >= MIN_BASELINE_ROWS)
            & (self._baseline.scatter > 0)
        )
        if self.num_groups < MIN_GROUPS or not usable.any():
            return None
        squared = self._squared_drift(usable, leave_out=None)
        held = np.flatnonzero(self.points > 0)
        without = np.array([self._squared_drift(usable, leave_out=int(group)) for group in held])
        error = _WIDTH * float(np.sqrt(_jackknife_variance(without)))
        value, low, high = (float(np.sqrt(max(x, 0.0))) for x in (squared, squared - error, squared + error))
        return Interval(value=value, low=low, high=high)

    def _squared_drift(self, usable: npt.NDArray[np.bool_], *, leave_out: int | None) -> float:
        keep = np.ones(NUM_GROUPS, dtype=bool)
        if leave_out is not None:
            keep[leave_out] = False
        claimed, moved = self._claimed[keep][:, usable], self._moved[keep][:, usable]
        weight = claimed.sum(axis=0)
        # Sums over pairs of different groups: the square of the sum less the sum of the squares.
        products = (moved.sum(axis=0) ** 2).sum(axis=1) - (moved**2).sum(axis=(0, 2))
        pairs = weight**2 - (claimed**2).sum(axis=0)
        scatter = self._baseline.scatter[usable]
        # The baseline's mean has a variance of its own.
        squared = np.where(pairs > 0, products / np.maximum(pairs, 1e-12), 0.0)
        squared = squared - scatter / self._baseline.num_claimed[usable]
        return float((weight * squared / scatter).sum() / max(weight.sum(), 1e-12))


def _jackknife_variance(without: F64) -> float:
    count = len(without)
    return float((count - 1) / count * ((without - without.mean()) ** 2).sum())
