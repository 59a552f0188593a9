"""What a cluster is about: the zone that its members speak for, how clearly, and on what evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_core.zones import EVIDENCE, ZONES

I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ClusterZones:
    """Zone scores of c clusters."""

    scores: F32
    """[c, 5], mean zone probability of the members; rows sum to 1."""
    evidence: tuple[dict[str, dict[str, float]], ...]
    """For each cluster and each name of `EVIDENCE`: the members' `mean`, and `lift`, its distance from the mean of all
    rows in standard deviations of all rows."""

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
    return ClusterZones(scores=scores.astype(np.float32), evidence=tuple(reasons))


def zone_of_rows(labels: I32, *, zones: ClusterZones, probabilities: F32) -> tuple[npt.NDArray[np.int8], F32]:
    """Offline zone (index, int8 [m]) and its score (float32 [m]): the cluster's, or the rules' where none claims it."""
    zone = probabilities.argmax(axis=1).astype(np.int8)
    score = probabilities.max(axis=1)
    member = labels >= 0
    zone[member] = zones.zone_index[labels[member]]
    score[member] = zones.scores[labels[member], zone[member]]
    return zone, np.clip(score, 0.0, 1.0).astype(np.float32)
