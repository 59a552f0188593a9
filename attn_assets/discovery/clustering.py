"""Clusters: HDBSCAN on a window's landmarks.

HDBSCAN: Campello, Moulavi, Sander 2013. The spanning tree is ours (`spanning_tree`); the hdbscan package (McInnes,
Healy, Astels 2017) reads the clusters from it. Which cluster every other row is of, `grouping` says.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.spanning_tree import spanning_tree

NOISE = -1
GIANT_SHARE = 0.35
LEAST_SPLIT, MOST_NOISE = 10, 0.4
"""Excess of mass now and then prefers one cluster of most rows to the hundred within it, by a hair: another draw of the
requests decides otherwise (docs/decisions/0023). A cluster of more than this share of the rows is given up for those
within it, if there are so many and they leave no more rows in none. Two or three kinds that fill a window stay."""
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Clusters of s sample rows, numbered 0..c-1 within this run."""

    labels: I32
    """[s], -1 for noise."""
    persistence: F32
    """[c], 0..1, how long the cluster lives in the hierarchy (hdbscan's `cluster_persistence_`)."""
    validity: float
    """Relative density-based validity (DBCV-like, -1..1; hdbscan's `relative_validity_`), 0 without clusters."""

    @property
    def num_clusters(self) -> int:
        """How many clusters there are."""
        return len(self.persistence)


def cluster_sample(space: F32, *, min_cluster_size: int, min_samples: int) -> Clustering:
    """HDBSCAN (excess of mass) on float32 [s, d]. Fewer rows than one cluster needs give all noise."""
    size = len(space)
    min_samples = min(min_samples, max(size - 1, 1))
    if size < 2 * min_cluster_size or np.ptp(space, axis=0).max(initial=0.0) == 0.0:
        return _all_noise(size)
    # Imported here: hdbscan loads scikit-learn, and `attn-discover --help` should not.
    from hdbscan._hdbscan_linkage import label
    from hdbscan.hdbscan_ import _tree_to_labels

    frame = Frame(space)
    core_distance = frame.nearest(space, k=min_samples + 1).distance[:, -1]
    edges = spanning_tree(frame, core_distance)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Rows that are identical have infinite density; hdbscan copes, NumPy mentions it.
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        tree = label(edges)
        found, _, persistence, _, _ = _tree_to_labels(space, tree, min_cluster_size)
        if _largest(found) > GIANT_SHARE * size:
            split, _, kept, _, _ = _tree_to_labels(
                space, tree, min_cluster_size, max_cluster_size=int(GIANT_SHARE * size)
            )
            if split.max() + 1 >= LEAST_SPLIT and (split < 0).mean() <= MOST_NOISE:
                found, persistence = split, kept
    labels = found.astype(np.int32)
    num_clusters = int(labels.max(initial=NOISE)) + 1
    if num_clusters == 0:
        return _all_noise(size)
    return Clustering(
        labels=labels,
        persistence=np.clip(np.nan_to_num(persistence), 0.0, 1.0).astype(np.float32),
        validity=relative_validity(labels, edges, num_clusters=num_clusters),
    )


def _largest(labels: npt.NDArray[np.integer]) -> int:
    return int(np.bincount(labels[labels >= 0]).max(initial=0))


def relative_validity(labels: I32, edges: npt.NDArray[np.float64], *, num_clusters: int) -> float:
    """How well the clusters keep apart, -1..1: hdbscan's `relative_validity_` from the spanning tree [s - 1, 3].

    For each cluster the sparsest edge within it against the densest to another, weighed by size.
    """
    one, other = (labels[edges[:, end].astype(np.int64)] for end in (0, 1))
    length = edges[:, 2]
    sparseness, separation = np.zeros(num_clusters), np.full(num_clusters, np.inf)
    both = (one != NOISE) & (other != NOISE)
    within, between = both & (one == other), both & (one != other)
    np.maximum.at(sparseness, one[within], length[within])
    for end in (one, other):
        np.minimum.at(separation, end[between], length[between])
    half = (one == NOISE) ^ (other == NOISE)
    farthest = length.max(initial=0.0)
    alone = length[half].min(initial=np.inf) if num_clusters == 1 else farthest
    separation[np.isinf(separation)] = 2.0 * (alone if np.isfinite(alone) else farthest)
    most = np.maximum(separation, sparseness)
    index = np.divide(separation - sparseness, most, out=np.zeros(num_clusters), where=most > 0)
    return float((np.bincount(labels[labels >= 0], minlength=num_clusters) * index).sum() / len(labels))


def _all_noise(size: int) -> Clustering:
    return Clustering(
        labels=np.full(size, NOISE, dtype=np.int32),
        persistence=np.zeros(0, dtype=np.float32),
        validity=0.0,
    )
