"""One calibration, from the served model to a file: ask, fit, judge on prompts that set nothing, keep."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

from attn_assets.calibration.answers import LabelledAnswers
from attn_assets.calibration.asking import Server, ask_all
from attn_assets.calibration.evaluation import Evaluation, evaluate
from attn_assets.calibration.fitting import Fit, fit_scorer, token_inputs
from attn_assets.calibration.held_out import held_out_prompts
from attn_assets.calibration.kept import Calibrations
from attn_assets.calibration.wording import NUM_PER_ZONE, calibration_prompts
from attn_core.errors import CalibrationError
from attn_core.zone_scorer import ZoneScorer, model_name

MIN_MACRO_F1 = 0.4
"""Below this on prompts of other kinds the scorer is hardly better than chance (0.2): it is not kept."""
HELD_OUT_PER_ZONE = 30
MAX_TOKENS = 56
Report = Callable[[str, int, int], None]
"""(stage, done, total)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How much is asked; the same recipe asks the same prompts."""

    num_per_zone: int = NUM_PER_ZONE
    held_out_per_zone: int = HELD_OUT_PER_ZONE
    max_tokens: int = MAX_TOKENS
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A scorer that is kept, and how it did."""

    scorer: ZoneScorer
    requests: Evaluation
    """Whole answers to the held-out prompts."""
    tokens: Evaluation
    """Their single tokens, each by itself."""


def calibrate(
    server: Server, calibrations: Calibrations, recipe: Recipe, *, report: Report = lambda stage, done, total: None
) -> Calibrated:
    """Ask the served model, fit, judge and keep. Raises `CalibrationError`; nothing is kept then."""
    model_id = server.model_id()
    asked = {
        "calibration": calibration_prompts(num_per_zone=recipe.num_per_zone, seed=recipe.seed),
        "held-out": held_out_prompts(num_per_zone=recipe.held_out_per_zone, seed=recipe.seed),
    }
    answers = {
        name: ask_all(server, prompts, max_tokens=recipe.max_tokens, report=partial(report, name))
        for name, prompts in asked.items()
    }
    report("fit", 0, 1)
    found = calibrated_from_answers(
        answers["calibration"], answers["held-out"], model_id=model_id, recipe=recipe, made_at_us=time.time_ns() // 1000
    )
    report("fit", 1, 1)
    return replace(found, scorer=calibrations.keep(found.scorer))


def calibrated_from_answers(
    calibration: LabelledAnswers, held_out: LabelledAnswers, *, model_id: str, recipe: Recipe, made_at_us: int
) -> Calibrated:
    """Fit and judge, with all that a later reader may ask in the scorer's provenance; nothing is kept."""
    fit = fit_scorer(calibration, provenance={}, seed=recipe.seed)
    worst = min(fit.macro_f1.values())
    if worst < MIN_MACRO_F1:
        raise CalibrationError(
            f"on prompts of other kinds the zones are told with a macro-F1 of {worst:.2f}, below {MIN_MACRO_F1}: not "
            "kept. Ask for more answers (--per-zone), or look whether the model answers sensibly at all"
        )
    requests, tokens = judge(fit.scorer, held_out)
    provenance = {
        "model": model_name(model_id),
        "made_at_us": made_at_us,
        "asked": vars(recipe),
        "num_answers": len(calibration),
        "num_tokens": int(calibration.start[-1]),
        "num_by_family": dict(sorted(Counter(calibration.family.tolist()).items())),
        "num_held_out": len(held_out),
        "figures": _figures(fit, calibration, requests, tokens),
        "libraries": {name: version(name) for name in ("numpy", "scikit-learn")},
    }
    return Calibrated(scorer=replace(fit.scorer, provenance=provenance), requests=requests, tokens=tokens)


def judge(scorer: ZoneScorer, answers: LabelledAnswers) -> tuple[Evaluation, Evaluation]:
    """How the scorer does on these answers: whole ones by the sequence head, single tokens by the token head."""
    inputs = token_inputs(scorer, answers)
    return (
        evaluate(answers.zone_index, scorer.request_probabilities(inputs, answers.start)),
        evaluate(answers.zone_index[answers.answer_of_token], scorer.token_probabilities(inputs)),
    )


def _figures(fit: Fit, calibration: LabelledAnswers, requests: Evaluation, tokens: Evaluation) -> dict[str, Any]:
    crossed = evaluate(calibration.zone_index, fit.request_probabilities)
    return {
        "cross_validated": {
            **{f"macro_f1_{name}": round(value, 4) for name, value in fit.macro_f1.items()},
            "requests_ece": round(crossed.ece, 4),
            "strength": fit.strength,
            "temperatures": [round(one, 4) for one in fit.temperatures],
        },
        "held_out_requests": requests.as_json(),
        "held_out_tokens": tokens.as_json(),
    }
