"""The zone formula that the package ships: what is usual, biases, hinges and confidence, from a model's eager pass.

    .venv/bin/python scripts/fit_zone_defaults.py prompts PROMPTS.jsonl
    .venv-server/bin/python scripts/capture_head_halves.py PROMPTS.jsonl CORPUS.npz
    .venv/bin/python scripts/fit_zone_defaults.py fit CORPUS.npz [--output attn_core/zone_formula.json]

No label sets anything here. Usual values, hinges and biases come from the tokens of all parts but `held_out`; biases
make the five zones hold equal shares of them. Confidence is the share of ten random half-splits of the captured heads
in which both halves give the token the same zone, each half with usual values of its own, against the margin of the
score over all heads: an isotonic table, judged on the tokens of `held_out`, which set nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attn_assets.calibration.background import styled_document
from attn_assets.calibration.fitting import hinges, plain_scores
from attn_assets.calibration.held_out import held_out_prompts
from attn_assets.calibration.setting import calibration_prompts
from attn_assets.discovery.quality import NUM_BINS
from attn_assets.discovery.serving import never_falling
from attn_assets.discovery.zone_quality import zone_quality
from attn_core.classify import Classifier, no_clusters
from attn_core.fingerprint import DIM
from attn_core.sinkfree import sink_free
from attn_core.zones import KNOTS_LN_N, ZONES, UsualValues, ZoneFormula, ZoneFormulas
from demo.prompts import KINDS, prompt_mix

OUTPUT = Path("attn_core/zone_formula.json")
SLOPE = (0.8, 0.4, 1.0, 1.0, 1.0, 1.0)
"""Of the rows of `attn_core.zones.OWN`: the two of syntax_floor together vary about as much as one of the others."""
HINGE_SLOPE = 1.0
NUM_KNOTS = 24
SEED = 4
LENGTHS = (1200, 2000, 3000, 4500, 6000, 7000)
SHORT = (
    "Hi", "What is 2+2?", "Name a fruit.", "Say yes.", "1, 2, 3,", "Why?", "def f(x):", "Count to 20.",
    "Repeat: a b a b a b", "Poem.", "(((", "Who are you?",
)  # fmt: skip
F64 = npt.NDArray[np.float64]


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="fit_zone_defaults.py"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    prompts = commands.add_parser("prompts", help="write the prompts to capture")
    prompts.add_argument("output", type=Path)
    fit = commands.add_parser("fit", help="fit the formula to what was captured")
    fit.add_argument("corpus", type=Path)
    fit.add_argument("--output", type=Path, default=OUTPUT)
    fit.add_argument("--model", default="SmolLM2-135M-Instruct", help="name of the captured model")
    args = parser.parse_args()
    if args.command == "prompts":
        args.output.write_text("".join(json.dumps(one) + "\n" for one in prompts_to_capture()), encoding="utf-8")
        return 0
    formula, told = fitted(dict(np.load(args.corpus, allow_pickle=False)), model=args.model)
    args.output.write_text(json.dumps(formula.as_json()) + "\n", encoding="utf-8")
    print(json.dumps(told, indent=1))
    return 0


def prompts_to_capture() -> Iterator[dict[str, Any]]:
    """The demo's mix, short and long contexts, labelled prompts of many kinds, and those that judge."""
    for one in prompt_mix():
        zone = ZONES[KINDS.index(one.kind)]
        yield _line("demo", one.text, 64, one.temperature, family=one.kind, zone=zone)
    rng = Random(SEED + 1)  # noqa: S311 - wording, not secrets
    for style in range(2 * len(LENGTHS)):
        document, question = styled_document(rng, tokens=LENGTHS[style % len(LENGTHS)], style=style)
        yield _line("long", f"{document}\n\n{question}", 24, 0.7)
    for text in SHORT:
        yield _line("short", text, 48, 0.7)
    labelled = [("calibration", one) for one in calibration_prompts(num_per_zone=45, seed=SEED + 3)]
    labelled += [("held_out", one) for one in held_out_prompts(num_per_zone=16, seed=SEED)]
    for part, one in labelled:
        yield _line(
            part, one.text, 40, one.temperature, family=one.family, zone=one.zone, surroundings=one.surroundings
        )


def _line(part: str, text: str, max_tokens: int, temperature: float, **label: str) -> dict[str, Any]:
    return {"part": part, "text": text, "max_tokens": max_tokens, "temperature": temperature, **label}


def fitted(corpus: dict[str, Any], *, model: str) -> tuple[ZoneFormula, dict[str, Any]]:
    """The formula, and what to say of it."""
    sets = corpus["prompt_part"][corpus["prompt"]] != "held_out"
    n = corpus["context_len"].astype(np.int64)
    values = _values(corpus["vector"], n, corpus["sink_mass"], corpus["periodicity"])
    formula = _before().with_usual(_before().usual.learned_from(values[sets], n[sets]))
    evidence = _evidence(formula, corpus["vector"], n, corpus["sink_mass"], corpus["periodicity"])
    formula = replace(formula, hinge=hinges(evidence[sets]))
    formula = replace(formula, bias=_balanced(formula, evidence[sets]))
    scores = plain_scores(formula, evidence)
    zone_index = scores.argmax(axis=1)
    margin = _margins(scores)
    halves = _zones_of_halves(formula, corpus, n, sets)  # [SPLITS, 2, m]
    agreement = (halves[:, 0] == halves[:, 1]).mean(axis=0)
    formula = replace(formula, **_table(margin[sets], agreement[sets]))
    confidence = np.interp(margin, formula.margin, formula.chance)
    rows = _reliability(confidence[~sets], agreement[~sets])
    ece = sum(abs(row["confidence"] - row["correct"]) * row["share"] for row in rows)
    quality = zone_quality(zone_index, evidence)
    told = {
        "num_tokens": int(sets.sum()),
        "shares": dict(zip(ZONES, quality.shares.round(3).tolist(), strict=True)),
        "auc": dict(zip(ZONES, quality.auc.round(3).tolist(), strict=True)),
        "auc_of_values": dict(zip(ZONES, quality.auc_of_values.round(3).tolist(), strict=True)),
        "bias": formula.bias.round(3).tolist(),
        "hinge": formula.hinge.round(2).tolist(),
        "same_zone_in_both_halves": round(float(agreement.mean()), 3),
        "confidence_percentiles": np.percentile(confidence[~sets], [5, 25, 50, 75, 95]).round(3).tolist(),
        "ece": round(float(ece), 4),
    }
    provenance = {
        "version": "shipped",
        "model": model,
        "num_tokens": int(sets.sum()),
        "confidence": {
            "model": model,
            "ece": round(float(ece), 4),
            "num_judged": int((~sets).sum()),
            "reliability": rows,
        },
    }
    return ZoneFormula.from_json(replace(formula, provenance=provenance).as_json()), told


def _before() -> ZoneFormula:
    """What is believed before any token: attention that falls off as 1/(distance + 1) beyond the sink."""
    reach = np.maximum(np.exp(KNOTS_LN_N) - 4, 1.0)

    def harmonic(k: F64) -> F64:
        # Within 1% of the harmonic number for every k >= 1.
        return np.log(np.maximum(k, 1) + 0.5) + 0.5772156649

    near, mid = harmonic(np.minimum(reach, 10)), harmonic(np.minimum(reach, 100))
    shares = np.clip(np.stack([near, mid - near, harmonic(reach) - mid]) / harmonic(reach), 1e-3, 1 - 1e-3)
    mean = np.concatenate([np.log(shares / (1 - shares)), np.full((1, len(reach)), 0.8), np.full((1, len(reach)), 0.2)])
    spread = np.repeat([[0.6], [0.6], [0.6], [0.05], [0.08]], len(reach), axis=1)
    return ZoneFormula(
        usual=UsualValues(mean=mean, spread=spread, num_tokens=0),
        slope=np.array(SLOPE),
        hinge_slope=np.full(6, HINGE_SLOPE),
        hinge=np.full(6, 3.0),
        bias=np.zeros(5),
        head_slope=np.zeros(5),
        temperature=1.0,
        margin=np.array([0.0, 1.0]),
        chance=np.array([0.5, 0.5]),
    )


def _values(vectors: Any, n: Any, sink_mass: Any, periodicity: Any) -> F64:
    free = sink_free(vectors, context_len=n, sink_mass=sink_mass)
    return np.column_stack([free.shares, free.evenness, periodicity])


def _evidence(formula: ZoneFormula, vectors: Any, n: Any, sink_mass: Any, periodicity: Any) -> F64:
    classifier = Classifier(no_clusters(), run_id=None, formulas=ZoneFormulas(of_model={}, default=formula))
    found = classifier.classify(
        vectors, context_len=n, sink_mass=sink_mass, periodicity=periodicity, with_evidence=True
    )
    return found.evidence.astype(np.float64)


def _balanced(formula: ZoneFormula, evidence: F64) -> F64:
    """Biases (mean 0) under which the five zones hold equal shares, as far as they are open."""
    scores, bias = plain_scores(formula, evidence) - formula.bias, np.zeros(5)
    for _ in range(400):
        shares = np.bincount((scores + bias).argmax(axis=1), minlength=5) / len(scores)
        bias = np.clip(bias + 0.3 * (0.2 - shares), -1.5, 1.5)
    return bias - bias.mean()


def _margins(scores: F64) -> F64:
    ranked = np.sort(scores, axis=1)
    return np.minimum(ranked[:, -1] - ranked[:, -2], 1e3)


def _zones_of_halves(formula: ZoneFormula, corpus: dict[str, Any], n: Any, sets: Any) -> npt.NDArray[np.int8]:
    columns = corpus["half_columns"].tolist()
    halves = corpus["halves"].astype(np.float64)  # [m, splits, 2, columns]
    found = np.empty((halves.shape[1], 2, len(n)), dtype=np.int8)
    for split in range(halves.shape[1]):
        for half in range(2):
            one = {name: halves[:, split, half, k] for k, name in enumerate(columns)}
            vectors = np.zeros((len(n), DIM), dtype=np.float32)
            for k, name in enumerate(("local_mass", "mid_mass", "long_mass", "entropy")):
                vectors[:, k] = one[name]
            values = _values(vectors, n, one["sink_mass"], one["periodicity"])
            own = formula.with_usual(formula.usual.learned_from(values[sets], n[sets]))
            evidence = _evidence(own, vectors, n, one["sink_mass"], one["periodicity"])
            found[split, half] = own.zones_of(evidence).zone_index
    return found


def _table(margin: F64, agreement: F64) -> dict[str, F64]:
    """`margin` and `chance`: the mean agreement of tokens of about this margin, never falling."""
    parts = np.array_split(np.argsort(margin, kind="stable"), NUM_KNOTS)
    at = np.array([np.minimum(margin[part], 20.0).mean() for part in parts])
    weight = np.array([len(part) for part in parts], dtype=np.float64)
    height = never_falling(np.array([agreement[part].mean() for part in parts]), weight)
    _, first = np.unique(at, return_index=True)
    return {"margin": at[first], "chance": np.clip(height[first], 0, 1)}


def _reliability(confidence: F64, agreement: F64) -> list[dict[str, float]]:
    """As `quality.reliability`, of agreements that are shares themselves."""
    bins = np.clip((confidence * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    return [
        {
            "confidence": round(float(confidence[bins == k].mean()), 4),
            "correct": round(float(agreement[bins == k].mean()), 4),
            "share": round(float((bins == k).mean()), 4),
        }
        for k in sorted(Counter(bins.tolist()))
    ]


if __name__ == "__main__":
    sys.exit(main())
