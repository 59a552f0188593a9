"""Clusters: HDBSCAN on the sample, and the same tree asked about every other row.

HDBSCAN: Campello, Moulavi, Sander 2013. The spanning tree is ours (`spanning_tree`); the hdbscan package (McInnes,
Healy, Astels 2017) reads the clusters from it. Rows outside the sample join as `hdbscan.approximate_predict` has them
join: with their nearest neighbour by mutual reachability, if they are dense enough for its cluster. That function takes
rows one by one; here all at once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.spanning_tree import spanning_tree

NOISE = -1
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Clusters of s sample rows, numbered 0..c-1 within this run."""

    labels: I32
    """[s], -1 for noise."""
    strength: F32
    """[s], 0..1, how deep in its cluster; 0 for noise."""
    core_distance: F32
    """[s], distance to the `min_samples`-th neighbour."""
    birth_distance: F32
    """[c], mutual reachability at which the cluster splits off: a row farther out is not of it."""
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
    from hdbscan.plots import CondensedTree

    frame = Frame(space)
    core_distance = frame.nearest(space, k=min_samples + 1).distance[:, -1]
    edges = spanning_tree(frame, core_distance)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Rows that are identical have infinite density; hdbscan copes, NumPy mentions it.
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        found, strength, persistence, condensed, _ = _tree_to_labels(space, label(edges), min_cluster_size)
    labels = found.astype(np.int32)
    num_clusters = int(labels.max(initial=NOISE)) + 1
    if num_clusters == 0:
        return _all_noise(size)
    return Clustering(
        labels=labels,
        strength=np.clip(np.nan_to_num(strength), 0.0, 1.0).astype(np.float32),
        core_distance=core_distance,
        birth_distance=_birth_distances(CondensedTree(condensed, labels), num_clusters),
        persistence=np.clip(np.nan_to_num(persistence), 0.0, 1.0).astype(np.float32),
        validity=relative_validity(labels, edges, num_clusters=num_clusters),
    )


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


def assign(clustering: Clustering, frame: Frame, queries: F32, *, min_samples: int) -> tuple[I32, F32]:
    """Cluster (-1 for noise) and strength of rows outside the sample: int32 [m], float32 [m].

    `frame` holds the rows that `clustering` is of, in the same space as `queries` [m, d].
    """
    if clustering.num_clusters == 0 or not len(queries):
        return np.full(len(queries), NOISE, dtype=np.int32), np.zeros(len(queries), dtype=np.float32)
    neighbour, reach = _joined(clustering, frame, queries, min_samples=min(min_samples, len(frame.points) - 1))
    labels = clustering.labels[neighbour]
    inside = (labels != NOISE) & (reach < clustering.birth_distance[labels])
    # A row can be no deeper in the cluster than the neighbour it joins.
    ratio = clustering.core_distance[neighbour] / np.maximum(reach, 1e-12)
    strength = clustering.strength[neighbour] * np.clip(ratio, 0.0, 1.0)
    labels = np.where(inside, labels, NOISE).astype(np.int32)
    return labels, np.where(inside, strength, 0.0).astype(np.float32)


def _joined(clustering: Clustering, frame: Frame, queries: F32, *, min_samples: int) -> tuple[I32, F32]:
    """The sample row that each query joins, and how far it is by mutual reachability: int32 [m], float32 [m]."""
    from attn_assets.discovery import joining_loops
    from attn_assets.discovery.compiled import over_rows

    core, turned = clustering.core_distance, frame.turned(queries)
    near = frame.nearest(queries, k=1)
    nearest, distance = near.index[:, 0].copy(), near.distance[:, 0].copy()
    neighbour, own_core = np.empty(len(queries), np.int32), np.empty(len(queries), np.float32)

    def work(first: int, last: int) -> None:
        joining_loops.join(
            turned, first, last, nearest, distance, core, min_samples, frame.points, frame.order, frame.start,
            frame.stop, frame.low, frame.high, neighbour, own_core,
        )  # fmt: skip

    over_rows(len(queries), work)
    reach = own_core.copy()
    # Where no row nearby is as dense, one farther off may be nearer by mutual reachability.
    left = np.flatnonzero(neighbour < 0)
    wide = frame.nearest(queries[left], k=2 * min_samples)
    far = np.maximum(np.maximum(wide.distance, core[wide.index]), own_core[left, None])
    best = far.argmin(axis=1)
    every = np.arange(len(left))
    neighbour[left], reach[left] = wide.index[every, best], far[every, best]
    return neighbour, reach


def _birth_distances(tree: Any, num_clusters: int) -> F32:
    raw = tree.to_numpy()
    birth = {int(row["child"]): float(row["lambda_val"]) for row in raw[raw["child_size"] > 1]}
    # Labels are numbered in the order of the selected clusters' ids (hdbscan.prediction.PredictionData).
    selected = sorted(int(node) for node in tree._select_clusters())
    if len(selected) != num_clusters:
        raise RuntimeError(f"hdbscan selected {len(selected)} clusters and labelled {num_clusters}")
    lambdas = np.array([birth.get(node, 0.0) for node in selected])
    distances: F32 = np.where(lambdas > 0, 1.0 / np.maximum(lambdas, 1e-30), np.inf).astype(np.float32)
    return distances


def _all_noise(size: int) -> Clustering:
    return Clustering(
        labels=np.full(size, NOISE, dtype=np.int32),
        strength=np.zeros(size, dtype=np.float32),
        core_distance=np.zeros(size, dtype=np.float32),
        birth_distance=np.zeros(0, dtype=np.float32),
        persistence=np.zeros(0, dtype=np.float32),
        validity=0.0,
    )
