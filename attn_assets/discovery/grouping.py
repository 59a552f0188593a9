"""Clusters of a window: found among its landmarks, asked of every row by the served classifier, numbered to last.

HDBSCAN runs on a layout of the landmarks that is made for it: UMAP to `NUM_AXES` dimensions with no least distance,
where dense regions stay dense; the map that people look at has two. What a row's cluster is, a landmark's own among
them, its nearest landmarks vote for (`attn_core.landmarks`): rows offline and tokens that arrive are answered alike.
docs/decisions/0023 has the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.clustering import NOISE, Clustering, cluster_sample
from attn_assets.discovery.mapping import fit_map
from attn_assets.discovery.neighbours import Frame, Neighbours
from attn_assets.discovery.prototypes import k_means
from attn_core.landmarks import LEAST_SHARE, NUM_VOTES

MAX_LANDMARKS = 20_000
"""With half as many one row in six joins another cluster (docs/decisions/0023)."""
NUM_AXES = 5
MIN_SAMPLES_SHARE = 0.5
"""HDBSCAN's `min_samples`, of the smallest cluster's size."""
ROOM = 1.1
"""A cluster reaches this much past its farthest member."""
CELLS_PER_ROOT = 1.8
"""Cells for l landmarks: so many times the root of l; looking for a cell takes as long as looking into those probed."""
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Answer = Callable[[I32, I64], I32]
"""From the landmarks' labels, [l], and places of rows, [r], to these rows' labels, [r]."""


@dataclass(frozen=True, kw_only=True)
class Votes:
    """What the nearest other landmarks of each of l say of it."""

    label: I32
    """[l], the label that most of them have, -1 where none of them has one."""
    share: F32
    """[l], how many of them have it, 0..1."""
    distance: F32
    """[l], to the nearest that has it; infinite where there is none."""
    reach: F32
    """[clusters], `ROOM` times how far the members of each lie at most from the nearest that votes for it."""

    @property
    def answer(self) -> I32:
        """[l], the cluster that is voted for, -1 for none."""
        claimed = self.share >= LEAST_SHARE - 1e-9
        claimed &= self.distance <= np.append(self.reach, np.float32(0))[self.label]
        return np.where(claimed, self.label, NOISE).astype(np.int32)

    def rows(self, index: I64) -> Votes:
        """Those of these landmarks only."""
        part = {name: getattr(self, name)[index] for name in ("label", "share", "distance")}
        return replace(self, **part)


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Clusters 0..c-1 of m rows, by l landmarks."""

    labels: I32
    """[m], -1 for noise."""
    landmarks: I32
    """[l], each landmark's own label as HDBSCAN has it, -1 for noise."""
    persistence: F32
    """[c]"""
    validity: float
    min_samples: int


def find_landmark_clusters(points: F32, *, min_cluster_size: int, seed: int) -> tuple[Clustering, int]:
    """HDBSCAN on float32 [l, d] landmarks, and the `min_samples` that it ran with."""
    min_samples = max(round(MIN_SAMPLES_SHARE * min_cluster_size), 1)
    if len(points) < 2 * min_cluster_size:
        return cluster_sample(points, min_cluster_size=min_cluster_size, min_samples=min_samples), min_samples
    laid = fit_map(Frame(points), seed=seed, num_axes=min(NUM_AXES, points.shape[1]), min_dist=0.0)
    return cluster_sample(laid, min_cluster_size=min_cluster_size, min_samples=min_samples), min_samples


def group(found: Clustering, *, min_samples: int, min_cluster_size: int, answer: Answer, num_rows: int) -> Grouping:
    """Every row's cluster by the landmarks' labels; a cluster that fewer rows than it takes would join is none."""
    landmarks, labels = found.labels.copy(), np.full(num_rows, NOISE, dtype=np.int32)
    asked = np.arange(num_rows, dtype=np.int64)
    named = np.ones(found.num_clusters, dtype=np.bool_)
    while len(asked) and named.any():
        labels[asked] = answer(landmarks, asked)
        sizes = np.bincount(labels[labels >= 0], minlength=found.num_clusters)
        small = named & (sizes < min_cluster_size)
        if not small.any():
            break
        # Whoever voted for another cluster still does: only the rows of those that fall away are asked again.
        named &= ~small
        asked = np.flatnonzero(np.isin(labels, np.flatnonzero(small)))
        labels[asked] = NOISE
        landmarks[np.isin(landmarks, np.flatnonzero(small))] = NOISE
    kept = np.flatnonzero(named)
    number = np.full(found.num_clusters + 1, NOISE, dtype=np.int32)
    number[kept] = np.arange(len(kept))
    return Grouping(
        labels=number[labels],
        landmarks=number[landmarks],
        persistence=found.persistence[kept],
        validity=found.validity if len(kept) else 0.0,
        min_samples=min_samples,
    )


def others_near(points: F32) -> Neighbours:
    """The `NUM_VOTES` nearest other rows of each of float32 [l, d], of fewer than two rows none."""
    count = len(points)
    if count < 2:
        return Neighbours(index=np.zeros((count, 0), np.int32), distance=np.zeros((count, 0), np.float32))
    near = Frame(points).nearest(points, k=NUM_VOTES + 1)
    # A landmark is nearest to itself, but for rounding.
    own = near.index == np.arange(count)[:, None]
    own[~own.any(axis=1), -1] = True
    return Neighbours(index=near.index[~own].reshape(count, -1), distance=near.distance[~own].reshape(count, -1))


def votes(near: Neighbours, labels: I32, *, num_clusters: int) -> Votes:
    """Each landmark asked as if it were none: its nearest others (`others_near`) vote. `labels` is int32 [l]."""
    count, every = len(labels), np.arange(len(labels))
    reach = np.zeros(num_clusters, dtype=np.float32)
    if not near.index.shape[1]:
        none, far = np.full(count, NOISE, np.int32), np.full(count, np.inf, np.float32)
        return Votes(label=none, share=np.zeros(count, np.float32), distance=far, reach=reach)
    of_others = labels[near.index]
    same = (of_others[:, :, None] == of_others[:, None, :]).sum(axis=2)
    same[of_others < 0] = 0
    best = same.argmax(axis=1)
    most = same[every, best]
    label = np.where(most > 0, of_others[every, best], NOISE).astype(np.int32)
    distance = np.where(most > 0, near.distance[every, best], np.float32(np.inf)).astype(np.float32)
    member = (label == labels) & (label >= 0)
    np.maximum.at(reach, label[member], ROOM * distance[member])
    return Votes(label=label, share=(most / of_others.shape[1]).astype(np.float32), distance=distance, reach=reach)


def cells_of(points: F32, *, seed: int) -> I32:
    """int32 [l], the cell of each landmark, 0..k-1, none of them empty."""
    if not len(points):
        return np.zeros(0, dtype=np.int32)
    centres = k_means(points, count=max(round(CELLS_PER_ROOT * len(points) ** 0.5), 1), seed=seed)
    nearest = Frame(centres).nearest(points, k=1).index[:, 0]
    return np.unique(nearest, return_inverse=True)[1].astype(np.int32)
