"""Cluster ids that last: this run's clusters take over the ids of the last run's, by the members they share.

Windows overlap (23 of 24 hours from one hour to the next), so most rows have been clustered before. Only rows of both
windows count. New and old clusters are paired one to one so that the sum of their Jaccard overlaps is largest.

| event  | when                                                                                     |
|--------|------------------------------------------------------------------------------------------|
| kept   | paired with an old cluster at `KEEP_OVERLAP` or more: carries its id                     |
| split  | not paired, but most of its shared members were of one old cluster: new id, parent named |
| born   | everything else: new id                                                                  |
| merged | kept, and most shared members of another old, now unpaired cluster are in it             |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

KEEP_OVERLAP = 0.3
MOST = 0.5
NOISE = -1
UNSEEN = -2
"""Stands for a row that was not in the last run's window."""
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Ancestry:
    """Where one cluster comes from."""

    cluster_id: int
    event: str
    parents: tuple[int, ...]
    """Old ids, the one carried over first."""
    overlap: float
    """Jaccard overlap with the first parent over the rows of both windows; 0 without a parent."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Stable ids for c clusters, and the old ids that nothing carries on."""

    clusters: tuple[Ancestry, ...]
    gone: tuple[int, ...]
    next_id: int
    """The first id that no run has ever used."""

    @property
    def ids(self) -> I32:
        """[c], the stable id of each of this run's clusters."""
        return np.array([cluster.cluster_id for cluster in self.clusters], dtype=np.int32)


def trace(labels: I32, before: I32, *, num_clusters: int, next_id: int) -> Lineage:
    """Lineage from this run's `labels` [m] (0..c-1, -1 noise) and the ids `before` [m] (-1 noise, -2 unseen).

    `next_id` is above every id used before; new ids count up from it, larger clusters first.
    """
    old_ids = np.unique(before[before >= 0])
    shared = _contingency(labels, before, old_ids, num_clusters)
    seen = before != UNSEEN
    new_sizes = np.bincount(labels[seen & (labels >= 0)], minlength=num_clusters)
    old_sizes = np.array([np.count_nonzero(before == old) for old in old_ids], dtype=np.int64)
    union = new_sizes[:, None] + old_sizes[None, :] - shared
    jaccard = shared / np.maximum(union, 1)
    rows, columns = linear_sum_assignment(-jaccard)
    paired = {int(r): int(c) for r, c in zip(rows, columns, strict=True) if jaccard[r, c] >= KEEP_OVERLAP}
    free = [j for j in range(len(old_ids)) if j not in paired.values()]
    sizes = np.bincount(labels[labels >= 0], minlength=num_clusters)
    ids = {new: int(old_ids[old]) for new, old in paired.items()}
    unpaired = sorted(set(range(num_clusters)) - set(paired), key=lambda new: (-sizes[new], new))
    ids.update({new: next_id + rank for rank, new in enumerate(unpaired)})
    absorbed = {j: _home(shared[:, j], int(old_sizes[j])) for j in free}
    clusters = []
    for new in range(num_clusters):
        if new in paired:
            merged = [int(old_ids[j]) for j in free if absorbed[j] == new]
            parents = (ids[new], *merged)
            event, overlap = ("merged" if merged else "kept"), float(jaccard[new, paired[new]])
        else:
            parent = _home(shared[new], int(new_sizes[new]))
            parents = () if parent is None else (int(old_ids[parent]),)
            event, overlap = ("born", 0.0) if parent is None else ("split", float(jaccard[new, parent]))
        clusters.append(Ancestry(cluster_id=ids[new], event=event, parents=parents, overlap=overlap))
    return Lineage(clusters=tuple(clusters), gone=tuple(int(old_ids[j]) for j in free), next_id=next_id + len(unpaired))


def _contingency(labels: I32, before: I32, old_ids: I32, num_clusters: int) -> npt.NDArray[np.int64]:
    table = np.zeros((num_clusters, len(old_ids)), dtype=np.int64)
    both = (labels >= 0) & (before >= 0)
    np.add.at(table, (labels[both], np.searchsorted(old_ids, before[both])), 1)
    return table


def _home(shared: npt.NDArray[np.int64], size: int) -> int | None:
    """Where most of a cluster's `size` rows of both windows are, if they are in one place."""
    if not len(shared) or size == 0 or shared.max() <= MOST * size:
        return None
    return int(shared.argmax())
