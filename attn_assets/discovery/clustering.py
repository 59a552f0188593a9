"""Clusters: HDBSCAN on the sample, and the same tree asked about every other row.

HDBSCAN: Campello, Moulavi, Sander 2013; the hdbscan package (McInnes, Healy, Astels 2017) finds the clusters. Rows
outside the sample join as `hdbscan.approximate_predict` has them join: with their nearest neighbour by mutual
reachability, if they are dense enough for its cluster. That function takes rows one by one; here all at once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.neighbours import Frame

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
    # Imported here: it loads scikit-learn, and `attn-discover --help` should not.
    from hdbscan import HDBSCAN

    model = HDBSCAN(
        min_cluster_size=min_cluster_size, min_samples=min_samples, gen_min_span_tree=True, core_dist_n_jobs=1
    )
    with warnings.catch_warnings():
        # Rows that are identical have infinite density; hdbscan copes, NumPy mentions it.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"hdbscan\..*")
        labels = model.fit_predict(space.astype(np.float64)).astype(np.int32)
    num_clusters = int(labels.max(initial=NOISE)) + 1
    if num_clusters == 0:
        return _all_noise(size)
    with np.errstate(all="ignore"):
        validity = float(np.nan_to_num(model.relative_validity_))
    return Clustering(
        labels=labels,
        strength=np.clip(np.nan_to_num(model.probabilities_), 0.0, 1.0).astype(np.float32),
        core_distance=Frame(space).nearest(space, k=min_samples + 1).distance[:, -1],
        birth_distance=_birth_distances(model, num_clusters),
        persistence=np.clip(np.nan_to_num(model.cluster_persistence_), 0.0, 1.0).astype(np.float32),
        validity=validity,
    )


def assign(clustering: Clustering, frame: Frame, queries: F32, *, min_samples: int) -> tuple[I32, F32]:
    """Cluster (-1 for noise) and strength of rows outside the sample: int32 [m], float32 [m].

    `frame` holds the rows that `clustering` is of, in the same space as `queries` [m, d].
    """
    if clustering.num_clusters == 0 or not len(queries):
        return np.full(len(queries), NOISE, dtype=np.int32), np.zeros(len(queries), dtype=np.float32)
    near = frame.nearest(queries, k=2 * min_samples)
    own_core = near.distance[:, min(min_samples, near.distance.shape[1] - 1)]
    reach = np.maximum(np.maximum(near.distance, clustering.core_distance[near.index]), own_core[:, None])
    best = reach.argmin(axis=1)
    every = np.arange(len(queries))
    neighbour = near.index[every, best]
    labels = clustering.labels[neighbour]
    inside = (labels != NOISE) & (reach[every, best] < clustering.birth_distance[labels])
    # A row can be no deeper in the cluster than the neighbour it joins.
    ratio = clustering.core_distance[neighbour] / np.maximum(reach[every, best], 1e-12)
    strength = clustering.strength[neighbour] * np.clip(ratio, 0.0, 1.0)
    labels = np.where(inside, labels, NOISE).astype(np.int32)
    return labels, np.where(inside, strength, 0.0).astype(np.float32)


def _birth_distances(model: object, num_clusters: int) -> F32:
    tree = model.condensed_tree_  # type: ignore[attr-defined]
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
