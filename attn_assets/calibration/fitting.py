"""Fitting the zone scorer to labelled answers: regularised by prompts of other kinds, and calibrated on them.

Both heads are multinomial logistic regressions. How strongly they are held back, and how sure they may be (one
temperature a head), is chosen on answers left out of the fit in three ways: whole families of prompts, wordings, and
surroundings (behind nothing, behind a short or a long irrelevant text). The last two tell how it does on other prompts
of the known kinds, the first how on other kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_assets.calibration.answers import LabelledAnswers
from attn_assets.calibration.evaluation import macro_f1
from attn_core.errors import CalibrationError
from attn_core.features import NUM_FEATURES, features_from_vectors
from attn_core.zone_scorer import LENGTH_INPUTS, NUM_INPUTS, ZoneScorer
from attn_core.zones import ZONES

STRENGTHS = (0.1, 0.3, 1.0)
"""Inverse regularisation that is tried for the sequence head."""
TOKEN_STRENGTH = 0.1
NUM_FOLDS = 5
PREFIXES = (1, 4, 12, 32)
"""Besides the whole answer the sequence head learns from its first tokens, so that it is right early too."""
MIN_PER_ZONE = 10
LEFT_OUT = ("other_families", "other_wordings", "other_surroundings")
"""What the folds of cross-validation leave out."""
SEQUENCE_INPUTS = NUM_FEATURES
"""The sequence head looks at the features only: periodicity made it worse on other families (docs/decisions/0017)."""
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A scorer and how it did on answers that each had no part in its fit."""

    scorer: ZoneScorer
    request_probabilities: npt.NDArray[np.float32]
    """[r, 5], cross-validated over families and over wordings, temperatures applied."""
    token_probabilities: npt.NDArray[np.float32]
    """[m, 5], the same for single tokens."""
    strength: float
    temperatures: tuple[float, float]
    """Of the token head and of the sequence head: above 1 makes it less sure."""
    macro_f1: Mapping[str, float]
    """Of whole answers, by what was left out: `LEFT_OUT`."""


def fit_scorer(answers: LabelledAnswers, *, provenance: Mapping[str, Any], seed: int = 0) -> Fit:
    """The scorer of these labelled answers. Raises `CalibrationError` where a zone has too few of them."""
    counts = np.bincount(answers.zone_index, minlength=len(ZONES))
    if counts.min() < MIN_PER_ZONE:
        raise CalibrationError(
            f"{counts.min()} answers for {ZONES[counts.argmin()]}: at least {MIN_PER_ZONE} are needed for each zone"
        )
    plain = _unfitted(answers)
    inputs = _inputs(plain, answers)
    by_length = _usual_at_length(inputs)
    relative = inputs.copy()
    relative[:, : NUM_INPUTS - 3] -= inputs[:, LENGTH_INPUTS] @ by_length
    folds = (_family_folds(answers), _wording_folds(answers, seed=seed), _surroundings_folds(answers))
    strength = max(
        STRENGTHS,
        key=lambda c: np.mean([_score(_cross_sequence(relative, answers, fold, c), answers) for fold in folds]),
    )
    crossed = [_cross_sequence(relative, answers, fold, strength) for fold in folds]
    crossed_tokens = [_cross_token(relative, answers, fold) for fold in folds]
    zones, token_zones = answers.zone_index, answers.zone_index[answers.answer_of_token]
    sequence_temperature = _temperature(crossed, zones)
    token_temperature = _temperature(crossed_tokens, token_zones)
    token = _logistic(relative[:, :-3], token_zones, TOKEN_STRENGTH)
    examples, example_zones, weight = _prefix_examples(relative, answers, np.arange(len(answers)))
    sequence = _logistic(examples, example_zones, strength, weight=weight)
    scorer = ZoneScorer(
        token=_on_inputs(token, by_length) / token_temperature,
        sequence=np.concatenate(
            [
                _on_inputs(_half(sequence, 0, bias=True), by_length),
                _on_inputs(_half(sequence, 1, bias=False), by_length),
            ],
            axis=1,
        )
        / sequence_temperature,
        shortest=plain.shortest,
        longest=plain.longest,
        centre=inputs.mean(axis=0),
        spread=np.maximum(inputs.std(axis=0), 1e-6),
        provenance=provenance,
    )
    return Fit(
        scorer=scorer,
        request_probabilities=np.mean([_tempered(one, sequence_temperature) for one in crossed], axis=0).astype("f4"),
        token_probabilities=np.mean([_tempered(one, token_temperature) for one in crossed_tokens], axis=0).astype("f4"),
        strength=strength,
        temperatures=(token_temperature, sequence_temperature),
        macro_f1={name: _score(one, answers) for name, one in zip(LEFT_OUT, crossed, strict=True)},
    )


def token_inputs(scorer: ZoneScorer, answers: LabelledAnswers) -> F64:
    """[m, 25], what the scorer sees of each token of these answers."""
    return _inputs(scorer, answers)


def _inputs(scorer: ZoneScorer, answers: LabelledAnswers) -> F64:
    features = features_from_vectors(answers.vectors, context_len=answers.context_len, sink_mass=answers.sink_mass)
    return scorer.inputs(features, context_len=answers.context_len, periodicity=answers.periodicity)


def _unfitted(answers: LabelledAnswers) -> ZoneScorer:
    low, high = np.percentile(answers.context_len, [1, 99])
    return ZoneScorer(
        token=np.zeros((len(ZONES), NUM_INPUTS)),
        sequence=np.zeros((len(ZONES), 2 * NUM_INPUTS)),
        shortest=float(max(low, 5)),
        longest=float(max(high, 5)),
        centre=np.zeros(NUM_INPUTS),
        spread=np.ones(NUM_INPUTS),
    )


def _usual_at_length(inputs: F64) -> F64:
    """[3, 22], what each input usually is at a context length: least squares on 1, ln n and its square."""
    solved = np.linalg.lstsq(inputs[:, LENGTH_INPUTS], inputs[:, : NUM_INPUTS - 3], rcond=None)[0]
    return np.asarray(solved, dtype=np.float64)


def _on_inputs(weights: F64, by_length: F64) -> F64:
    """[5, 25] on plain inputs from [5, k + 1] on the first k inputs less their usual value, and a bias."""
    inner, bias = weights[:, :-1], weights[:, -1]
    unused = NUM_INPUTS - 3 - inner.shape[1]
    length: F64 = -inner @ by_length[:, : inner.shape[1]].T
    length[:, 0] += bias
    return np.concatenate([inner, np.zeros((len(inner), unused)), length], axis=1)


def _half(weights: F64, which: int, *, bias: bool) -> F64:
    width = (weights.shape[1] - 1) // 2
    own = weights[:, which * width : (which + 1) * width]
    return np.concatenate([own, weights[:, -1:] if bias else np.zeros((len(own), 1))], axis=1)


def _sequence_rows(relative: F64, start: I64, steps: int | None) -> F64:
    """[r, 42], mean and first inputs of each answer's first `steps` tokens."""
    ends = start[1:] if steps is None else np.minimum(start[:-1] + steps, start[1:])
    rows = [
        np.concatenate([relative[a:b, :SEQUENCE_INPUTS].mean(axis=0), relative[a, :SEQUENCE_INPUTS]])
        for a, b in zip(start[:-1], ends, strict=True)
    ]
    return np.array(rows)


def _prefix_examples(relative: F64, answers: LabelledAnswers, chosen: I64) -> tuple[F64, I64, F64]:
    """Whole answers and their beginnings, with zones and weights; a whole answer weighs as much as its beginnings."""
    whole = _sequence_rows(relative, answers.start, None)[chosen]
    parts = [_sequence_rows(relative, answers.start, steps)[chosen] for steps in PREFIXES]
    zones = answers.zone_index[chosen]
    weight: F64 = np.repeat([0.5, 0.5 / len(parts)], [len(chosen), len(chosen) * len(parts)])
    return np.concatenate([whole, *parts]), np.tile(zones, 1 + len(parts)), weight


def _cross_sequence(relative: F64, answers: LabelledAnswers, fold: I64, strength: float) -> F64:
    """[r, 5] scores of whole answers, each from a fit without its fold."""
    whole = _sequence_rows(relative, answers.start, None)

    def fitted(kept: I64) -> F64:
        rows, zones, weight = _prefix_examples(relative, answers, kept)
        return _logistic(rows, zones, strength, weight=weight)

    return _crossed(whole, fold, fitted)


def _cross_token(relative: F64, answers: LabelledAnswers, fold: I64) -> F64:
    zones = answers.zone_index[answers.answer_of_token]
    rows = relative[:, :-3]
    return _crossed(
        rows, fold[answers.answer_of_token], lambda kept: _logistic(rows[kept], zones[kept], TOKEN_STRENGTH)
    )


def _crossed(rows: F64, fold: I64, fitted: Callable[[I64], F64]) -> F64:
    scores = np.zeros((len(rows), len(ZONES)))
    for number in np.unique(fold):
        weights = fitted(np.flatnonzero(fold != number))
        out = fold == number
        scores[out] = rows[out] @ weights[:, :-1].T + weights[:, -1]
    return scores


def _logistic(rows: F64, zones: I64, strength: float, *, weight: F64 | None = None) -> F64:
    """[5, k + 1], weights and bias of a multinomial logistic regression on rows put to one scale."""
    # Imported here: scikit-learn takes a second to load, and only fitting needs it.
    from sklearn.linear_model import LogisticRegression

    centre, spread = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-9)
    model = LogisticRegression(C=strength, max_iter=300, tol=1e-3)
    model.fit((rows - centre) / spread, zones, sample_weight=weight)
    weights: F64 = model.coef_ / spread
    return np.column_stack([weights, model.intercept_ - weights @ centre])


def _family_folds(answers: LabelledAnswers) -> I64:
    """[r]: each fold leaves out whole families of prompts, one of each zone."""
    folds = np.zeros(len(answers), dtype=np.int64)
    for zone in range(len(ZONES)):
        for number, family in enumerate(sorted(set(answers.family[answers.zone_index == zone]))):
            folds[answers.family == family] = number % NUM_FOLDS
    return folds


def _wording_folds(answers: LabelledAnswers, *, seed: int) -> I64:
    """[r]: each fold leaves out some answers of every family."""
    return np.random.default_rng(seed).permutation(len(answers)).astype(np.int64) % NUM_FOLDS


def _surroundings_folds(answers: LabelledAnswers) -> I64:
    """[r]: 0 behind nothing, 1 and 2 behind a shorter and a longer irrelevant text."""
    length = answers.context_len[answers.start[:-1]]
    behind = answers.behind_preamble
    middle = np.median(length[behind]) if behind.any() else 0.0
    return np.where(~behind, 0, np.where(length < middle, 1, 2)).astype(np.int64)


def _score(scores: F64, answers: LabelledAnswers) -> float:
    return macro_f1(answers.zone_index, scores.argmax(axis=1))


def _tempered(scores: F64, temperature: float) -> F64:
    weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    tempered: F64 = weights / weights.sum(axis=1, keepdims=True)
    return tempered


def _temperature(crossed: list[F64], zones: I64) -> float:
    """The temperature at which scores of answers left out have the least log loss (Guo et al. 2017)."""
    every = np.arange(len(zones))

    def loss(temperature: float) -> float:
        return float(np.mean([-np.log(_tempered(one, temperature)[every, zones] + 1e-12).mean() for one in crossed]))

    return float(min(np.geomspace(0.5, 5.0, 60), key=loss))
