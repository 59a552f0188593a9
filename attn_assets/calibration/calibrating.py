"""One calibration, from the served model to a file: ask, fit, judge on prompts that set nothing, keep."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

from attn_assets.calibration.answers import LabelledAnswers
from attn_assets.calibration.asking import Server, ask_all
from attn_assets.calibration.evaluation import Evaluation, evaluate
from attn_assets.calibration.fitting import evidence_of, fit_formula, means_of_answers
from attn_assets.calibration.held_out import held_out_prompts
from attn_assets.calibration.kept import Calibrations
from attn_assets.calibration.setting import calibration_prompts
from attn_assets.discovery.zone_quality import ZoneQuality, zone_quality
from attn_core.errors import CalibrationError
from attn_core.zones import ZoneFormula, model_name, shipped_formula

NUM_PER_ZONE = 60
HELD_OUT_PER_ZONE = 30
HELD_OUT_SEED = 6
"""Seeds 0 to 5 were looked at while the formula and its defaults were made."""
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
    held_out_seed: int = HELD_OUT_SEED


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A formula that is kept, and how it did."""

    formula: ZoneFormula
    requests: Evaluation
    """Whole answers to the held-out prompts."""
    tokens: Evaluation
    """Their single tokens, each by itself."""
    quality: ZoneQuality
    """Of the held-out tokens."""


def calibrate(
    server: Server, calibrations: Calibrations, recipe: Recipe, *, report: Report = lambda stage, done, total: None
) -> Calibrated:
    """Ask the served model, fit, judge and keep. Raises `CalibrationError`; nothing is kept then."""
    model_id = server.model_id()
    asked = {
        "calibration": calibration_prompts(num_per_zone=recipe.num_per_zone, seed=recipe.seed),
        "held-out": held_out_prompts(num_per_zone=recipe.held_out_per_zone, seed=recipe.held_out_seed),
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
    return replace(found, formula=calibrations.keep(found.formula))


def calibrated_from_answers(
    calibration: LabelledAnswers, held_out: LabelledAnswers, *, model_id: str, recipe: Recipe, made_at_us: int
) -> Calibrated:
    """Fit and judge, with all that a later reader may ask in the formula's provenance; nothing is kept.

    Raises `CalibrationError` where the zones of the calibration's own tokens are not what they say.
    """
    base = shipped_formula()
    formula = fit_formula(calibration, base=base, provenance={})
    broken = _quality(formula, calibration).broken()
    if broken:
        raise CalibrationError(
            f"not kept: {'; '.join(broken)}. Ask for more answers (--per-zone), or look whether the model answers "
            "sensibly at all"
        )
    requests, tokens = judge(formula, held_out)
    quality = _quality(formula, held_out)
    provenance = {
        "model": model_name(model_id),
        "made_at_us": made_at_us,
        "asked": vars(recipe),
        "num_answers": len(calibration),
        "num_tokens": int(calibration.start[-1]),
        "num_by_family": dict(sorted(Counter(calibration.family.tolist()).items())),
        "num_held_out": len(held_out),
        "figures": {
            "held_out_requests": requests.as_json(),
            "held_out_tokens": tokens.as_json(),
            **quality.figures(),
        },
        "libraries": {name: version(name) for name in ("numpy", "scipy")},
        # The server tells no single heads: how sure a margin makes is known for the shipped formula's model alone.
        "confidence": dict(base.provenance.get("confidence", {})),
    }
    return Calibrated(
        formula=replace(formula, provenance=provenance), requests=requests, tokens=tokens, quality=quality
    )


def judge(formula: ZoneFormula, answers: LabelledAnswers) -> tuple[Evaluation, Evaluation]:
    """How the formula does on these answers: whole ones by their mean evidence, and single tokens."""
    evidence = evidence_of(formula, answers)
    whole = formula.zones_of(means_of_answers(evidence, answers.start))
    single = formula.zones_of(evidence)
    return (
        evaluate(answers.zone_index, formula.probabilities(whole.scores)),
        evaluate(answers.zone_index[answers.answer_of_token], formula.probabilities(single.scores)),
    )


def _quality(formula: ZoneFormula, answers: LabelledAnswers) -> ZoneQuality:
    evidence = evidence_of(formula, answers)
    return zone_quality(formula.zones_of(evidence).zone_index, evidence)
