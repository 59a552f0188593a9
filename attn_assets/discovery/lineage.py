"""Cluster ids that last: this run's clusters take over the ids of the last run's, by the members they share.

Windows overlap (23 of 24 hours from one hour to the next), so most rows have been clustered before. Only rows of both
windows count. New and old clusters are paired one to one so that the sum of their Jaccard overlaps is largest. Rows
remember the last cluster of theirs that is gone, so that one that flickers comes back under its own id for as long as
rows of it are in the window.

| event    | when                                                                                            |
|----------|-------------------------------------------------------------------------------------------------|
| kept     | paired with an old cluster at `KEEP_OVERLAP` or more: carries its id                            |
| returned | not paired, but holds most rows that remember one gone cluster: carries that one's id           |
| split    | neither, but most of its shared members were of one old cluster: new id, parent named           |
| born     | everything else: new id                                                                         |
| merged   | kept, and most shared members of another old, now unpaired cluster are in it                    |
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
    former: I32
    """[m], the gone cluster that each row was last of, -1 for none: what the next run is told."""
    next_id: int
    """The first id that no run has ever used."""

    @property
    def ids(self) -> I32:
        """[c], the stable id of each of this run's clusters."""
        return np.array([cluster.cluster_id for cluster in self.clusters], dtype=np.int32)


def trace(labels: I32, before: I32, *, num_clusters: int, next_id: int, former: I32 | None = None) -> Lineage:
    """Lineage from this run's `labels` [m] (0..c-1, -1 noise) and the ids `before` [m] (-1 noise, -2 unseen).

    `next_id` is above every id used before; new ids count up from it, larger clusters first. `former` [m] is the last
    run's `Lineage.former` for these rows.
    """
    former = np.full_like(before, NOISE) if former is None else former
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
    returned = _returned(labels, former, new_sizes, unpaired=set(range(num_clusters)) - set(paired), taken=old_ids)
    ids.update({new: known for new, (known, _) in returned.items()})
    fresh = sorted(set(range(num_clusters)) - set(ids), key=lambda new: (-sizes[new], new))
    ids.update({new: next_id + rank for rank, new in enumerate(fresh)})
    absorbed = {j: _home(shared[:, j], int(old_sizes[j])) for j in free}
    clusters = []
    for new in range(num_clusters):
        if new in paired:
            merged = [int(old_ids[j]) for j in free if absorbed[j] == new]
            parents = (ids[new], *merged)
            event, overlap = ("merged" if merged else "kept"), float(jaccard[new, paired[new]])
        elif new in returned:
            event, parents, overlap = "returned", (ids[new],), returned[new][1]
        else:
            parent = _home(shared[new], int(new_sizes[new]))
            parents = () if parent is None else (int(old_ids[parent]),)
            event, overlap = ("born", 0.0) if parent is None else ("split", float(jaccard[new, parent]))
        clusters.append(Ancestry(cluster_id=ids[new], event=event, parents=parents, overlap=overlap))
    gone = np.array([old_ids[j] for j in free], dtype=np.int32)
    alive = np.array(list(ids.values()), dtype=np.int32)
    left = np.where(np.isin(before, gone), before, np.where(np.isin(former, alive), NOISE, former)).astype(np.int32)
    return Lineage(clusters=tuple(clusters), gone=tuple(gone.tolist()), former=left, next_id=next_id + len(fresh))


def _returned(
    labels: I32, former: I32, new_sizes: npt.NDArray[np.int64], *, unpaired: set[int], taken: I32
) -> dict[int, tuple[int, float]]:
    """Gone ids that come back: for each such cluster the id and the Jaccard overlap with the rows that remember it."""
    gone_ids = np.setdiff1d(np.unique(former[former >= 0]), taken)
    if not len(gone_ids) or not unpaired:
        return {}
    shared = _contingency(labels, np.where(np.isin(former, gone_ids), former, NOISE), gone_ids, len(new_sizes))
    remember = np.array([np.count_nonzero(former == one) for one in gone_ids])
    jaccard = shared / np.maximum(new_sizes[:, None] + remember[None, :] - shared, 1)
    jaccard[[new for new in range(len(new_sizes)) if new not in unpaired]] = 0.0
    rows, columns = linear_sum_assignment(-jaccard)
    return {
        int(new): (int(gone_ids[old]), float(jaccard[new, old]))
        for new, old in zip(rows, columns, strict=True)
        if jaccard[new, old] >= KEEP_OVERLAP
    }


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
