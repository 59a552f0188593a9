"""Prototypes: the few points of the feature space that stand for a cluster when it is served, and real rows near them.

A cluster of HDBSCAN may have any shape, so one centre is not enough: it is covered with k-means centres of its members.
So are the rows of no cluster, in the same density: what lies nearer to one of those is not claimed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from attn_assets.discovery.neighbours import Frame

MAX_TOTAL = 1536
"""The served classifier multiplies every vector with every prototype, so their number bounds its cost."""
ROWS_PER_PROTOTYPE = 6
LEAST_PER_CLUSTER = 4
NUM_ROUNDS = 12
MOST_SPREAD_STARTS = 64
"""Up to this many centres start far apart (k-means++); more cover the points well enough when drawn at random."""
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """p prototypes of c clusters, those of one cluster together."""

    points: F32
    """[p, d]"""
    start: I32
    """[c], first prototype of each cluster."""
    nearest_row: I32
    """[p], the member row that lies nearest to each prototype."""
    unclaimed: F32
    """[q, d], of the rows that are of no cluster."""

    @property
    def cluster(self) -> I32:
        """[p], the cluster number (0..c-1) of each prototype."""
        counts = np.diff(self.start, append=len(self.points))
        return np.repeat(np.arange(len(self.start), dtype=np.int32), counts)


def tile_clusters(features: F32, labels: I32, *, num_clusters: int, seed: int) -> Prototypes:
    """Prototypes of clusters 0..c-1 of float32 [m, d]; `labels` is int32 [m], -1 for noise."""
    points, start, nearest = [], [], []
    total = 0
    share = min(MAX_TOTAL / max(len(labels), 1), 1 / ROWS_PER_PROTOTYPE)
    for cluster in range(num_clusters):
        members = np.flatnonzero(labels == cluster)
        count = max(int(share * len(members)), min(LEAST_PER_CLUSTER, len(members) // 2), 1)
        centres = k_means(features[members], count=count, seed=seed + cluster)
        _, row = cKDTree(features[members]).query(centres)
        points.append(centres)
        nearest.append(members[row])
        start.append(total)
        total += len(centres)
    empty = np.zeros((0, features.shape[1]), dtype=np.float32)
    tiles = np.concatenate(points) if points else empty
    return Prototypes(
        points=tiles,
        start=np.array(start, dtype=np.int32),
        nearest_row=np.concatenate(nearest).astype(np.int32) if nearest else np.zeros(0, dtype=np.int32),
        unclaimed=_tile_unclaimed(features, labels, tiles, share=share, seed=seed + num_clusters),
    )


def _tile_unclaimed(features: F32, labels: I32, tiles: F32, *, share: float, seed: int) -> F32:
    """[q, d]: centres of the rows of no cluster, without those that more members than such rows lie nearest to."""
    none = np.flatnonzero(labels < 0)
    count = int(share * len(none))
    if not len(tiles) or count == 0:
        return np.zeros((0, features.shape[1]), dtype=np.float32)
    centres = k_means(features[none], count=count, seed=seed)
    cell = Frame(np.concatenate([tiles, centres])).nearest(features, k=1).index[:, 0] - len(tiles)
    balance = np.bincount(cell[cell >= 0], weights=np.where(labels < 0, 1, -1)[cell >= 0], minlength=len(centres))
    return centres[balance > 0]


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


def exemplar_rows(
    prototypes: Prototypes, features: F32, labels: I32, *, num_clusters: int, count: int = 5
) -> list[list[int]]:
    """For each cluster up to `count` of its rows: the most central one first, then those at its largest prototypes."""
    chosen: list[list[int]] = []
    ends = np.append(prototypes.start[1:], len(prototypes.points))
    for cluster in range(num_clusters):
        members = np.flatnonzero(labels == cluster)
        centre = features[members].mean(axis=0, dtype=np.float64)
        central = int(members[((features[members] - centre) ** 2).sum(axis=1).argmin()])
        mine = slice(int(prototypes.start[cluster]), int(ends[cluster]))
        _, cell = cKDTree(prototypes.points[mine]).query(features[members])
        order = np.argsort(-np.bincount(cell, minlength=mine.stop - mine.start), kind="stable")
        rows = [central, *(int(row) for row in prototypes.nearest_row[mine][order])]
        chosen.append(list(dict.fromkeys(rows))[:count])
    return chosen
