"""Fitting a zone formula to labelled answers, within what a zone is allowed to be (`attn_core.zones`).

The labels set the biases and the temperature, nothing else: what is usual comes from the answers without their labels,
hinges are a percentile of them, slopes stay as shipped. So a calibration can say how often this model's tokens are of
a zone, never what a zone is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_assets.calibration.answers import LabelledAnswers
from attn_core import row_loops
from attn_core.classify import Classifier, no_clusters
from attn_core.errors import CalibrationError
from attn_core.sinkfree import sink_free
from attn_core.zones import LARGEST, NUM_EVIDENCE, OWN, ZONES, Z, ZoneFormula, ZoneFormulas

MIN_PER_ZONE = 10
HINGE_PERCENTILE = 99.7
LEAST_HINGE = 0.5
PRIOR_ANSWERS = 25.0
"""Answers' worth of belief in the biases that were there before."""
F64 = npt.NDArray[np.float64]


def fit_formula(answers: LabelledAnswers, *, base: ZoneFormula, provenance: Mapping[str, Any]) -> ZoneFormula:
    """The formula of these labelled answers. Raises `CalibrationError` where a zone has too few of them."""
    counts = np.bincount(answers.zone_index, minlength=len(ZONES))
    if counts.min() < MIN_PER_ZONE:
        raise CalibrationError(
            f"{ZONES[int(counts.argmin())]} has {counts.min()} labelled answers; at least {MIN_PER_ZONE} of each zone "
            "are needed: ask for more (--per-zone)"
        )
    free = sink_free(answers.vectors, context_len=answers.context_len, sink_mass=answers.sink_mass)
    values = np.column_stack([free.shares, free.evenness, answers.periodicity])
    usual = base.usual.learned_from(values, answers.context_len)
    formula = replace(base, usual=usual, provenance=dict(provenance))
    evidence = evidence_of(formula, answers)
    formula = replace(formula, hinge=hinges(evidence))
    bias, temperature = _biases(formula, evidence, answers)
    return replace(formula, bias=bias, temperature=temperature)


def hinges(evidence: npt.NDArray[np.floating]) -> F64:
    """[6], the percentile of each own characteristic in these tokens, in z."""
    own = np.column_stack([direction * evidence[:, Z + c] for _, c, direction in OWN])
    found: F64 = np.clip(np.percentile(own, HINGE_PERCENTILE, axis=0), LEAST_HINGE, LARGEST)
    return found


def evidence_of(formula: ZoneFormula, answers: LabelledAnswers) -> F64:
    """[m, NUM_EVIDENCE] of the answers' tokens."""
    classifier = Classifier(no_clusters(), run_id=None, formulas=ZoneFormulas(of_model={}, default=formula))
    found = classifier.classify(
        answers.vectors,
        context_len=answers.context_len,
        sink_mass=answers.sink_mass,
        periodicity=answers.periodicity,
        with_evidence=True,
    )
    return found.evidence.astype(np.float64)


def means_of_answers(evidence: F64, start: npt.NDArray[np.integer]) -> F64:
    """[r, NUM_EVIDENCE], the mean evidence of each answer's tokens; start as in `LabelledAnswers`."""
    means: F64 = np.add.reduceat(evidence, start[:-1], axis=0) / np.diff(start)[:, None]
    return means.reshape(-1, NUM_EVIDENCE)


def _biases(formula: ZoneFormula, evidence: F64, answers: LabelledAnswers) -> tuple[F64, float]:
    """The likeliest biases (their mean 0) and temperature, every answer weighing alike, drawn towards the present."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    scores = plain_scores(formula, evidence)
    of_token = answers.zone_index[answers.answer_of_token]
    # A token whose labelled zone is closed, or that is decided without the biases, says nothing of them.
    telling = np.isfinite(scores[np.arange(len(scores)), of_token]) & (np.nanmax(scores, axis=1) < 500.0)
    if not telling.any():
        return formula.bias, formula.temperature
    scores, of_token = scores[telling] - formula.bias, of_token[telling]
    weight = 1.0 / np.maximum(np.bincount(answers.answer_of_token[telling], minlength=len(answers)), 1)
    weights = weight[answers.answer_of_token[telling]]
    weights /= weights.sum()
    pull = PRIOR_ANSWERS / (PRIOR_ANSWERS + len(answers))

    def loss(free: F64) -> float:
        bias, temperature = free[:5] - free[:5].mean(), float(np.exp(free[5]))
        raised = (scores + bias) / temperature
        top = raised.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(raised - top).sum(axis=1)) + top[:, 0]
        given = raised[np.arange(len(raised)), of_token]
        return float((weights * (log_total - given)).sum() + pull * ((bias - formula.bias) ** 2).mean())

    start = np.append(formula.bias, np.log(formula.temperature))
    limits = [(-3.0, 3.0)] * 5 + [(np.log(0.05), np.log(20.0))]
    found = minimize(loss, np.clip(start, [low for low, _ in limits], [high for _, high in limits]), bounds=limits)
    bias: F64 = found.x[:5] - found.x[:5].mean()
    return bias, float(np.exp(found.x[5]))


def plain_scores(formula: ZoneFormula, evidence: F64) -> F64:
    """[m, 5] scores of tokens, -inf where closed."""
    scores = np.empty((len(evidence), len(ZONES)))
    row_loops.score_rows(
        formula.numbers,
        np.ascontiguousarray(evidence),
        np.empty(len(evidence), dtype=np.int8),
        np.empty(len(evidence), dtype=np.float32),
        scores,
    )
    return scores
