"""The space of a window, learned from its own rows: what is usual there, and on which matrix's sketches the map rests.

A map never holds sketches of two matrices. Of several in a window the one with the most rows is taken, if at least
`LEAST_SHARE` of the rows have it; rows without it are placed by their averages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.models import Models
from attn_assets.discovery.sample import sample_rows
from attn_assets.discovery.window import Window
from attn_core.features import NUM_FEATURES
from attn_core.head_projection import NUM_SKETCH
from attn_core.space import Space, UsualNumbers
from attn_core.usual import usual_of
from attn_core.zones import model_name

LEAST_SHARE = 0.2
MIN_LEARNED = 50
"""A model with fewer complete rows is held against what is usual for all."""
MAX_LEARNED = 200_000
"""Of more rows a seeded sample teaches as well."""
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """Where m rows lie in a space."""

    averages: F32
    """[m, 21]"""
    sketch: F32 | None
    """[m, 16], NaN in rows without a sketch of the space's matrix; None where the map rests on the averages."""

    @property
    def main(self) -> F32:
        """What map and clusters rest on."""
        return self.averages if self.sketch is None else self.sketch

    @property
    def in_main(self) -> npt.NDArray[np.bool_]:
        """[m], rows that have it."""
        return np.ones(len(self.averages), np.bool_) if self.sketch is None else ~np.isnan(self.sketch[:, 0])


def learn_space(window: Window, models: Models, *, seed: int) -> Space:
    """The space of these rows; the same rows and seed give the same bytes."""
    if not len(window.vectors):
        return Space.plain()
    rows = sample_rows(len(window.vectors), size=MAX_LEARNED, seed=seed)
    rows = rows[window.complete[rows]]
    projection = _projection_of_most(window)
    of_row = np.array([None if one is None else model_name(one) for one in models.names], dtype=object)[models.of_row]
    projected_model = None
    if projection is not None:
        names, counts = np.unique(of_row[window.projection_no == projection].astype(str), return_counts=True)
        projected_model = str(names[counts.argmax()])
    whole = _learned(window, rows, with_sketch=False)
    found: dict[str, UsualNumbers] = {}
    for name in sorted({one for one in of_row if one is not None}):
        mine = rows[of_row[rows] == name]
        usual = _learned(window, mine, with_sketch=False) if len(mine) >= MIN_LEARNED else whole
        if name == projected_model:
            sketched = rows[window.projection_no[rows] == projection]
            usual = replace(usual, sketch=_learned(window, sketched, with_sketch=True).sketch)
        found[name] = usual
    default = found[max(found, key=lambda name: found[name].num_tokens)] if found else whole
    if projected_model is not None and projected_model not in found:
        sketched = rows[window.projection_no[rows] == projection]
        default = replace(default, sketch=_learned(window, sketched, with_sketch=True).sketch)
    space = Space(
        of_model=found,
        default=default,
        projection=None if projection is None else window.projections[projection],
        projected_model=projected_model,
        sketch_scale=np.ones(NUM_SKETCH),
    )
    if space.sketch_usual is not None:
        space = replace(space, sketch_scale=_scale(window, rows[window.projection_no[rows] == projection], space))
    return space


def coordinates(window: Window, models: Models, space: Space, rows: I64 | None = None) -> Coordinates:
    """Where these rows (int64 [r]; None: all) lie in the space."""
    chosen = slice(None) if rows is None else rows
    features, context_len, of_row = window.features[chosen], window.context_len[chosen], models.of_row[chosen]
    averages = np.empty((len(features), NUM_FEATURES), dtype=np.float32)
    for number, name in enumerate(models.names):
        mine = of_row == number
        averages[mine] = space.averages(features[mine], context_len=context_len[mine], model_id=name)
    sketch = None
    if space.sketch_usual is not None:
        raw = np.where(_of_projection(window, space)[chosen, None], window.sketch[chosen], np.float32(np.nan))
        sketch = space.sketches(raw, context_len=context_len)
    return Coordinates(averages=averages, sketch=sketch)


def own_sketches(window: Window, space: Space) -> F32:
    """[m, 16], NaN in rows without a sketch of the space's matrix: what `Classifier` takes."""
    there = _of_projection(window, space)[:, None]
    return window.sketch if there.all() else np.where(there, window.sketch, np.float32(np.nan))


def _of_projection(window: Window, space: Space) -> npt.NDArray[np.bool_]:
    if space.projection not in window.projections:
        return np.zeros(len(window.vectors), dtype=np.bool_)
    same: npt.NDArray[np.bool_] = window.projection_no == window.projections.index(space.projection)
    return same


def _projection_of_most(window: Window) -> int | None:
    """Index into `window.projections`; None: the map rests on the averages."""
    of_rows = window.projection_no[window.projection_no >= 0]
    counts = np.bincount(of_rows, minlength=len(window.projections))
    if not len(counts) or counts.max() < max(LEAST_SHARE * len(window.vectors), MIN_LEARNED):
        return None
    return int(counts.argmax())


def _learned(window: Window, rows: I64, *, with_sketch: bool) -> UsualNumbers:
    context_len = window.context_len[rows]
    return UsualNumbers(
        averages=usual_of(window.features[rows], context_len),
        sketch=usual_of(window.sketch[rows], context_len) if with_sketch else None,
        num_tokens=len(rows),
    )


def _scale(window: Window, rows: I64, space: Space) -> npt.NDArray[np.float64]:
    """[16], how far each column strays from the usual, the first column's being 1."""
    assert space.sketch_usual is not None
    strays = (window.sketch[rows] - space.sketch_usual.mean_at(window.context_len[rows])).std(axis=0)
    scale: npt.NDArray[np.float64] = np.maximum(strays / max(float(strays[0]), 1e-9), 1e-3)
    return scale
