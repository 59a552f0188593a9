"""What a cluster is about: the zone that its members speak for, how clearly, and on what evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_core.zones import EVIDENCE, ZONES, weigh_with_cluster

I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ClusterZones:
    """Zone scores of c clusters."""

    scores: F32
    """[c, 5], mean zone probability of the members; rows sum to 1."""
    usual: F32
    """[5], mean zone probability of all rows."""
    evidence: tuple[dict[str, dict[str, float]], ...]
    """For each cluster and each name of `EVIDENCE`: the members' `mean`, and `lift`, its distance from the mean of all
    rows in standard deviations of all rows."""

    @property
    def lift(self) -> F32:
        """[c, 5], how much more the members are of each zone than all rows are."""
        return zone_lift(self.scores, self.usual)

    @property
    def zone_index(self) -> npt.NDArray[np.int8]:
        """[c], index into `ZONES`: the zone with the highest score."""
        return np.asarray(self.scores.argmax(axis=1), dtype=np.int8)

    @property
    def margins(self) -> F32:
        """[c, 5], each zone's score minus the best score of the other zones."""
        ranked = np.sort(self.scores, axis=1)
        best, second = ranked[:, -1:], ranked[:, -2:-1]
        margins: F32 = np.where(self.scores == best, self.scores - second, self.scores - best).astype(np.float32)
        return margins


def label_clusters(
    labels: I32, *, num_clusters: int, probabilities: F32, evidence: npt.NDArray[np.float64]
) -> ClusterZones:
    """Zones of clusters 0..c-1 from their members' zone probabilities [m, 5] and zone features [m, 5].

    `labels` is int32 [m], -1 for noise. Every cluster has at least one member.
    """
    scores = np.zeros((num_clusters, len(ZONES)), dtype=np.float64)
    if len(labels) == 0:
        return ClusterZones(scores=scores.astype(np.float32), usual=np.zeros(len(ZONES), np.float32), evidence=())
    centre, spread = evidence.mean(axis=0), np.maximum(evidence.std(axis=0), 1e-9)
    reasons = []
    for cluster in range(num_clusters):
        member = labels == cluster
        scores[cluster] = probabilities[member].mean(axis=0, dtype=np.float64)
        mean = evidence[member].mean(axis=0)
        lift = (mean - centre) / spread
        reasons.append(
            {
                name: {"mean": round(float(mean[i]), 4), "lift": round(float(lift[i]), 3)}
                for i, name in enumerate(EVIDENCE)
            }
        )
    usual = probabilities.mean(axis=0, dtype=np.float64).astype(np.float32)
    return ClusterZones(scores=scores.astype(np.float32), usual=usual, evidence=tuple(reasons))


def zone_lift(scores: F32, usual: F32) -> F32:
    """[c, 5] cluster scores over the [5] usual ones."""
    return (scores / np.maximum(usual, 1e-6)).astype(np.float32)


def zone_of_rows(labels: I32, *, zones: ClusterZones, probabilities: F32) -> tuple[npt.NDArray[np.int8], F32]:
    """Offline zone (index, int8 [m]) and its score (float32 [m]): the row's own zone probabilities, weighed by its
    cluster's lift where a cluster claims it."""
    weighed = probabilities.astype(np.float32, copy=True)
    member = labels >= 0
    weighed[member] = weigh_with_cluster(probabilities[member], zones.lift[labels[member]])
    return weighed.argmax(axis=1).astype(np.int8), np.clip(weighed.max(axis=1, initial=0.0), 0.0, 1.0)
