"""Clusters of a window: found on the map's sample, asked of the other rows, numbered to last.

The space is the map itself, and a row counts as dense by as many neighbours as the smallest cluster has rows:
docs/decisions/0004-clustering-space.md says by what measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.clustering import NOISE, assign, cluster_sample
from attn_assets.discovery.embedding import Embedding
from attn_assets.discovery.lineage import Lineage, trace
from attn_assets.discovery.neighbours import Frame

SMOOTHING_SHARE = 0.002
"""`min_samples` grows with the sample, so that a denser sample of the same hours gives the same clusters."""
MAX_SMOOTHING = 200
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Clusters 0..c-1 of m rows, and their stable ids."""

    labels: I32
    """[m], -1 for noise."""
    strength: F32
    """[m], 0..1"""
    persistence: F32
    """[c]"""
    validity: float
    lineage: Lineage
    min_samples: int
    is_first: npt.NDArray[np.bool_]
    """[m], whether no row before it is equal."""

    @property
    def cluster_ids(self) -> I32:
        """[m], the stable id of each row's cluster, -1 for noise."""
        return np.append(self.lineage.ids, np.int32(NOISE))[self.labels].astype(np.int32)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """[c], rows of the window in each cluster."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.persistence)).astype(np.int64)


def smoothing(num_sampled: int, *, min_cluster_size: int) -> int:
    """HDBSCAN's `min_samples` for a sample of this size."""
    return max(min_cluster_size, min(round(SMOOTHING_SHARE * num_sampled), MAX_SMOOTHING))


def group(
    embedding: Embedding,
    *,
    min_cluster_size: int,
    batch_size: int,
    before: I32,
    next_id: int,
    former: I32 | None = None,
    stands_for: npt.NDArray[np.int64] | None = None,
) -> Grouping:
    """Clusters of the map's rows. `before` [m]: each row's last cluster id (-1 noise, -2 unseen), see `lineage`.

    `stands_for` [m] is the row that each row equals and shares its cluster with (None: each itself).
    """
    sampled = np.flatnonzero(embedding.in_sample)
    space = embedding.positions[sampled]
    min_samples = smoothing(len(sampled), min_cluster_size=min_cluster_size)
    found = cluster_sample(space, min_cluster_size=min_cluster_size, min_samples=min_samples)
    labels = np.full(len(embedding.positions), NOISE, dtype=np.int32)
    strength = np.zeros(len(labels), dtype=np.float32)
    labels[sampled], strength[sampled] = found.labels, found.strength
    rest = np.flatnonzero(~embedding.in_sample)
    if stands_for is not None:
        rest = rest[stands_for[rest] == rest]
    frame = Frame(space) if len(rest) and found.num_clusters else None
    for start in range(0, len(rest) if frame else 0, batch_size):
        batch = rest[start : start + batch_size]
        assert frame is not None
        labels[batch], strength[batch] = assign(found, frame, embedding.positions[batch], min_samples=min_samples)
    if stands_for is not None:
        labels, strength = labels[stands_for], strength[stands_for]
    return Grouping(
        labels=labels,
        strength=strength,
        persistence=found.persistence,
        validity=found.validity,
        lineage=trace(labels, before, num_clusters=found.num_clusters, next_id=next_id, former=former),
        min_samples=min_samples,
        is_first=np.ones(len(labels), np.bool_) if stands_for is None else stands_for == np.arange(len(labels)),
    )
