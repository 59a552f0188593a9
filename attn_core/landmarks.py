"""Landmarks: rows of the window, with their clusters and places, among which a token's nearest decide for it.

A token is of the cluster that at least `LEAST_SHARE` of its `NUM_VOTES` nearest landmarks are of, if the nearest of
those is within the cluster's reach, and lies where they lie. There is one such rule: the window's own rows, a batch, a
vector by itself and what arrives are all answered by it, so they agree to the bit. The landmarks lie in cells around
centres, and a token looks into the `NUM_PROBED` cells whose centres are nearest (the inverted file of Sivic and
Zisserman 2003): docs/decisions/0023 says what that costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attn_core.errors import BundleError

if TYPE_CHECKING:
    from attn_core.row_loops import Cells

NUM_VOTES = 15
LEAST_SHARE = 0.3
NUM_PROBED = 12
NUM_PLACED_BY = 5
"""Nearest landmarks whose places give a token's own."""
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """l landmarks in a space of d columns, those of one cell together."""

    rows: F32
    """[l, d]"""
    label: I32
    """[l], place in the classifier's `cluster_ids`, -1 for none."""
    position: F32
    """[l, 2], on the map."""
    cell_start: I32
    """[cells], first landmark of each cell, ascending from 0; no cell is empty."""
    reach: F32
    """[clusters], how far a token may lie from the nearest landmark that votes for its cluster: farther out it is of a
    kind that was not seen."""
    claimed_curve: F32
    """[2, k], share of the votes for the cluster, ascending, to the chance that it is the right one."""
    unclaimed_curve: F32
    """[2, k], largest share of the votes that any cluster has, ascending, to the chance that none is right."""

    @classmethod
    def none(cls, num_columns: int) -> Landmarks:
        """Claims nothing and places nothing."""
        even = np.array([[0.0, 1.0], [0.5, 0.5]], dtype=np.float32)
        return cls(
            rows=np.zeros((0, num_columns), dtype=np.float32),
            label=np.zeros(0, dtype=np.int32),
            position=np.zeros((0, 2), dtype=np.float32),
            cell_start=np.zeros(0, dtype=np.int32),
            reach=np.zeros(0, dtype=np.float32),
            claimed_curve=even,
            unclaimed_curve=even,
        )

    def check(self, *, num_columns: int, num_clusters: int) -> None:
        """Raise `BundleError` where the arrays contradict one another."""
        count, start = len(self.rows), self.cell_start
        wrong = [
            self.rows.shape != (count, num_columns),
            self.label.shape != (count,),
            self.position.shape != (count, 2),
            not all(np.isfinite(a).all() for a in (self.rows, self.position)),
            bool(count) and not (int(self.label.min()) >= -1 and int(self.label.max()) < num_clusters),
            (len(start) > 0) != (count > 0),
            len(start) > 0 and (start[0] != 0 or bool((np.diff(start) <= 0).any()) or start[-1] >= count),
            self.reach.shape != ((num_clusters,) if count else (len(self.reach),)),
            not (self.reach >= 0).all(),
            *(not _is_curve(curve) for curve in (self.claimed_curve, self.unclaimed_curve)),
        ]
        if any(wrong):
            raise BundleError(f"the landmarks contradict one another (checks failed: {np.flatnonzero(wrong)})")

    @cached_property
    def cells(self) -> Cells:
        """As the compiled loops take them."""
        from attn_core.row_loops import LANES, Cells, padded

        count, dim = len(self.rows), padded(self.rows.shape[1])
        sizes = np.diff(self.cell_start, append=count).astype(np.int64)
        rooms = -(-sizes // LANES) * LANES
        first = np.concatenate([[0], np.cumsum(rooms)]).astype(np.int64)
        place = np.concatenate([np.arange(size) + at for size, at in zip(sizes, first, strict=False)] or [[]])
        place = place.astype(np.int64)
        half = np.full(first[-1], np.inf, dtype=np.float32)
        half[place] = 0.5 * (self.rows**2).sum(axis=1)
        label, position = np.full(first[-1], -1, dtype=np.int32), np.zeros((first[-1], 2), dtype=np.float32)
        label[place], position[place] = self.label, self.position
        wide = np.zeros((first[-1], dim), dtype=np.float32)
        wide[place, : self.rows.shape[1]] = self.rows
        columns = np.zeros(first[-1] * dim, dtype=np.float32)
        centre = np.zeros((dim, len(sizes)), dtype=np.float32)
        for cell, (at, size, room) in enumerate(zip(first, sizes, rooms, strict=False)):
            columns[at * dim : (at + room) * dim] = wide[at : at + room].T.ravel()
            centre[:, cell] = wide[at : at + size].mean(axis=0)
        return Cells(
            centre=centre,
            centre_half=(0.5 * (centre**2).sum(axis=0)).astype(np.float32),
            first=first,
            columns=columns,
            half=half,
            label=label,
            position=position,
            reach=(0.5 * self.reach.astype(np.float64) ** 2).astype(np.float32),
            claimed=np.ascontiguousarray(self.claimed_curve, dtype=np.float64),
            unclaimed=np.ascontiguousarray(self.unclaimed_curve, dtype=np.float64),
        )


def _is_curve(curve: F32) -> bool:
    return bool(
        curve.ndim == 2
        and curve.shape[0] == 2
        and curve.shape[1] >= 1
        and np.isfinite(curve).all()
        and (np.diff(curve[0]) >= 0).all()
        and ((curve[1] >= 0) & (curve[1] <= 1)).all()
    )
