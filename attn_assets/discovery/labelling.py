"""What a cluster is about: the zone of most of its members, how clear that is, and what sets the members apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_core.zones import CHARACTERISTICS, USUAL, VALUES, Z_LIMIT, ZONES, Z

I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ClusterZones:
    """Zones of c clusters. A cluster's zone changes no member's."""

    shares: F32
    """[c, 5], the share of the members in each zone; rows sum to 1."""
    evidence: tuple[dict[str, dict[str, float]], ...]
    """For each cluster and each name of `attn_core.zones.CHARACTERISTICS`: the members' `mean`, the `usual` value at
    their context lengths, and `lift`, how far the members lie from the usual in the mean, in spreads. Members whose
    context has no position as far away have no part in the lift of such a share."""

    @property
    def zone_index(self) -> npt.NDArray[np.int8]:
        """[c], index into `ZONES`: the zone of most members."""
        return np.asarray(self.shares.argmax(axis=1), dtype=np.int8)

    @property
    def margins(self) -> F32:
        """[c, 5], each zone's share minus the largest share of the other zones."""
        ranked = np.sort(self.shares, axis=1)
        best, second = ranked[:, -1:], ranked[:, -2:-1]
        margins: F32 = np.where(self.shares == best, self.shares - second, self.shares - best).astype(np.float32)
        return margins


def label_clusters(
    labels: I32, *, num_clusters: int, zone_index: npt.NDArray[np.int8], evidence: npt.NDArray[np.floating]
) -> ClusterZones:
    """Zones of clusters 0..c-1 from their members' zones [m] and evidence [m, NUM_EVIDENCE].

    `labels` is int32 [m], -1 for noise. Every cluster has at least one member.
    """
    member = labels >= 0
    of_cluster = labels[member].astype(np.int64)
    sizes = np.maximum(np.bincount(of_cluster, minlength=num_clusters), 1)
    counts = np.zeros((num_clusters, len(ZONES)))
    np.add.at(counts, (of_cluster, zone_index[member].astype(np.int64)), 1.0)

    def mean_of(column: int) -> npt.NDArray[np.float64]:
        return np.bincount(of_cluster, weights=evidence[member, column], minlength=num_clusters) / sizes

    def lift_of(column: int) -> npt.NDArray[np.float64]:
        # Where no position is as far as the class begins, its share is 0 for want of room: that sets nothing apart.
        told = evidence[member, column] > -Z_LIMIT
        count = np.maximum(np.bincount(of_cluster, weights=told, minlength=num_clusters), 1)
        values = np.where(told, evidence[member, column], 0.0)
        return np.bincount(of_cluster, weights=values, minlength=num_clusters) / count

    columns = {
        name: (mean_of(VALUES + c), mean_of(USUAL + c), lift_of(Z + c)) for c, name in enumerate(CHARACTERISTICS)
    }
    reasons = tuple(
        {
            name: {
                "mean": round(float(mean[k]), 4),
                "usual": round(float(usual[k]), 4),
                "lift": round(float(lift[k]), 3),
            }
            for name, (mean, usual, lift) in columns.items()
        }
        for k in range(num_clusters)
    )
    return ClusterZones(shares=(counts / sizes[:, None]).astype(np.float32), evidence=reasons)
