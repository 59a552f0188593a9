"""Zones of a window's rows: what is usual for each model there, and what follows for tokens, requests and clusters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.models import Models
from attn_assets.discovery.window import Window
from attn_core.sinkfree import sink_free
from attn_core.usual import usual_of
from attn_core.zones import NUM_EVIDENCE, ScoredZones, UsualHeads, ZoneFormula, ZoneFormulas, model_name

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
MIN_LEARNED = 50
"""With fewer complete rows of a model in the window its formula stays as it was."""


@dataclass(frozen=True, kw_only=True)
class ZonedRows:
    """m rows with their zones."""

    zone_index: npt.NDArray[np.int8]
    confidence: F32
    evidence: F32
    """[m, NUM_EVIDENCE], the columns of `attn_core.zones`."""


def characteristics(window: Window) -> F64:
    """[m, 5], the columns of `attn_core.zones.CHARACTERISTICS`; NaN where the periodicity is not known."""
    free = sink_free(window.vectors, context_len=window.context_len, sink_mass=window.sink_mass)
    return np.column_stack([free.shares, free.evenness, window.given_periodicity])


def learn_formulas(
    window: Window, models: Models, *, base: Callable[[str], ZoneFormula], default: ZoneFormula
) -> ZoneFormulas:
    """One formula for each model in the window: its `base` with the usual values of the window's own rows.

    Rows that came without a companion teach nothing. Rows of no known model are scored by the formula of the model
    with the most rows, or by `default` where there is none.
    """
    values, complete = characteristics(window), window.complete
    found, counts = {}, {}
    known = {model_name(name) for name in models.names if name}
    for name in sorted(known):
        same = np.array([one is not None and model_name(one) == name for one in models.names])
        mine = complete & same[models.of_row]
        heads = _usual_heads(window, np.flatnonzero(mine))
        found[name] = _learned(base(name), values[mine], window.context_len[mine], heads)
        counts[name] = int(mine.sum())
    if not found:
        default = _learned(
            default, values[complete], window.context_len[complete], _usual_heads(window, np.flatnonzero(complete))
        )
    else:
        default = found[max(found, key=lambda name: counts[name])]
    # As they will be read back from the bundle: rows scored here and there get the same bytes.
    return ZoneFormulas.from_json(ZoneFormulas(of_model=found, default=default).as_json())


def _learned(
    formula: ZoneFormula, values: F64, context_len: npt.NDArray[np.int64], heads: UsualHeads | None
) -> ZoneFormula:
    if len(values) < MIN_LEARNED:
        return formula
    return formula.with_usual(formula.usual.learned_from(values, context_len), heads)


def _usual_heads(window: Window, rows: npt.NDArray[np.int64]) -> UsualHeads | None:
    """What is usual of these rows' head evidence, by the matrix that most of them have; None with too few."""
    numbers = window.projection_no[rows]
    counts = np.bincount(numbers[numbers >= 0], minlength=len(window.projections))
    if not len(counts) or counts.max() < MIN_LEARNED:
        return None
    projection = int(counts.argmax())
    mine = rows[numbers == projection]
    usual = usual_of(window.zone_evidence[mine], window.context_len[mine])
    return UsualHeads(projection=window.projections[projection], usual=usual)


def zone_rows(window: Window, models: Models, formulas: ZoneFormulas, *, threads: int = 1) -> ZonedRows:
    """Zone, confidence and evidence of every row, each by its model's formula."""
    from attn_core.classify import Classifier, no_clusters

    classifier = Classifier(no_clusters(), run_id=None, formulas=formulas)
    m = len(window.vectors)
    of_projection = {name: number for number, name in enumerate(window.projections)}
    found = ZonedRows(
        zone_index=np.zeros(m, dtype=np.int8),
        confidence=np.zeros(m, dtype=np.float32),
        evidence=np.zeros((m, NUM_EVIDENCE), dtype=np.float32),
    )
    for number, name in enumerate(models.names):
        mine = np.flatnonzero(models.of_row == number)
        heads = classifier.formula_of(name).heads
        projection = None if heads is None else heads.projection
        told = window.projection_no[mine] == (-2 if projection is None else of_projection.get(projection, -2))
        answer = classifier.classify(
            window.vectors[mine],
            context_len=window.given_context_len[mine],
            sink_mass=window.given_sink_mass[mine],
            periodicity=window.given_periodicity[mine],
            zone_evidence=np.where(told[:, None], window.zone_evidence[mine], np.float32(np.nan)),
            head_projection=projection,
            model_id=name,
            threads=threads,
            with_evidence=True,
        )
        found.zone_index[mine], found.confidence[mine] = answer.zone_index, answer.confidence
        found.evidence[mine] = answer.evidence
    return found


def zones_of_groups(
    evidence: F32, group: npt.NDArray[np.integer], *, num_groups: int, formula_of: Callable[[int], ZoneFormula]
) -> ScoredZones:
    """Zones of groups of tokens (requests), by the means of their evidence: [r] answers; every group has a token.

    `group` is int [m], 0..r-1; `formula_of` gives a group's formula.
    """
    count = np.maximum(np.bincount(group, minlength=num_groups), 1)
    means = np.column_stack(
        [np.bincount(group, weights=column, minlength=num_groups) / count for column in evidence.T]
    ).reshape(num_groups, NUM_EVIDENCE)
    found = ScoredZones(
        zone_index=np.zeros(num_groups, dtype=np.int8),
        confidence=np.zeros(num_groups, dtype=np.float32),
        scores=np.zeros((num_groups, 5)),
    )
    formulas = [formula_of(number) for number in range(num_groups)]
    for formula in {id(one): one for one in formulas}.values():
        mine = np.array([one is formula for one in formulas], dtype=np.bool_)
        answer = formula.zones_of(means[mine])
        found.zone_index[mine], found.confidence[mine] = answer.zone_index, answer.confidence
        found.scores[mine] = answer.scores
    return found
