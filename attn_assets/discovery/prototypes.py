"""Prototypes: real tokens, spread over a cluster, that show what is in it; the most central ones are its exemplars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from attn_assets.discovery.neighbours import Frame

MOST_PER_CLUSTER = 24
ROWS_PER_PROTOTYPE = 6
LEAST_PER_CLUSTER = 4
NUM_ROUNDS = 12
MOST_SPREAD_STARTS = 64
"""Up to this many centres start far apart (k-means++); more cover the points well enough when drawn at random."""
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """p rows of c clusters, those of one cluster together."""

    row: I64
    """[p], places among the rows that were given."""
    cluster: I32
    """[p], ascending."""
    weight: I64
    """[p], members that lie nearest to it."""

    def of(self, cluster: int) -> slice:
        """The prototypes of one cluster."""
        first, last = np.searchsorted(self.cluster, [cluster, cluster + 1])
        return slice(int(first), int(last))


def spread_over(points: F32, labels: I32, *, num_clusters: int, seed: int) -> Prototypes:
    """Prototypes of clusters 0..c-1 of float32 [m, d]; `labels` is int32 [m], -1 for noise.

    The members that lie nearest to the k-means centres of each cluster.
    """
    row, cluster_of, weight = [], [], []
    for cluster in range(num_clusters):
        members = np.flatnonzero(labels == cluster)
        count = max(min(len(members) // ROWS_PER_PROTOTYPE, MOST_PER_CLUSTER), min(LEAST_PER_CLUSTER, len(members)))
        centres = k_means(points[members], count=count, seed=seed + cluster)
        tree = cKDTree(centres)
        _, nearest = cKDTree(points[members]).query(centres)
        nearest, first = np.unique(nearest, return_index=True)
        _, cell = tree.query(points[members])
        row.append(members[nearest])
        weight.append(np.bincount(cell, minlength=len(centres))[first])
        cluster_of.append(np.full(len(nearest), cluster, dtype=np.int32))
    none = np.zeros(0, dtype=np.int64)
    return Prototypes(
        row=np.concatenate([*row, none]).astype(np.int64),
        cluster=np.concatenate([*cluster_of, none]).astype(np.int32),
        weight=np.concatenate([*weight, none]).astype(np.int64),
    )


def exemplar_rows(
    prototypes: Prototypes, points: F32, labels: I32, *, num_clusters: int, count: int = 5
) -> list[list[int]]:
    """For each cluster up to `count` of its rows: the most central one first, then those that most lie nearest to."""
    chosen: list[list[int]] = []
    for cluster in range(num_clusters):
        members = np.flatnonzero(labels == cluster)
        centre = points[members].mean(axis=0, dtype=np.float64)
        central = int(members[((points[members] - centre) ** 2).sum(axis=1).argmin()])
        mine = prototypes.of(cluster)
        order = np.argsort(-prototypes.weight[mine], kind="stable")
        rows = [central, *(int(row) for row in prototypes.row[mine][order])]
        chosen.append(list(dict.fromkeys(rows))[:count])
    return chosen


def k_means(points: F32, *, count: int, seed: int) -> F32:
    """At most `count` centres of float32 [m, d] by Lloyd's rounds from a k-means++ start; empty cells are dropped.

    One thread and a fixed order of sums: the same bytes each time, which scikit-learn's threaded rounds do not promise.
    """
    rng = np.random.default_rng(seed)
    data = points.astype(np.float64)
    if count > MOST_SPREAD_STARTS:
        centres = np.unique(data[rng.choice(len(data), size=min(count, len(data)), replace=False)], axis=0)
    else:
        centres = _far_apart(data, count=count, rng=rng)
    for _ in range(NUM_ROUNDS):
        cell = Frame(centres.astype(np.float32)).nearest(points, k=1).index[:, 0]
        sizes = np.bincount(cell, minlength=len(centres))
        sums = np.column_stack([np.bincount(cell, weights=column, minlength=len(centres)) for column in data.T])
        centres = sums[sizes > 0] / sizes[sizes > 0, None]
    return centres.astype(np.float32)


def _far_apart(data: npt.NDArray[np.float64], *, count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    centres = data[[int(rng.integers(len(data)))]]
    squared = ((data - centres[0]) ** 2).sum(axis=1)
    while len(centres) < count and squared.max() > 0.0:
        chosen = data[int(rng.choice(len(data), p=squared / squared.sum()))]
        centres = np.vstack([centres, chosen])
        squared = np.minimum(squared, ((data - chosen) ** 2).sum(axis=1))
    return centres
