"""`zones`: whether zones are what they say, and how the guide's examples fall into them.

Starts the demo's model server and asks three sets of prompts that set nothing: the demo's mix; labelled prompts of many
kinds, behind several kinds of irrelevant text and behind none; and prompts of other wording. What is usual is learned
from the answers of the set that is judged, without its labels, as a discovery run learns it from its window.

Printed and kept under ``benchmarks/results``, however they turn out: for each set the AUC of every zone's own
characteristic and the share of tokens in each zone; for each kind of prompt the zone that is most over-represented
among its tokens, and whether that is the expected one; macro-F1 by request and by token with 95% intervals (bootstrap
over requests), with and without irrelevant text in front; and the share of answers that do what was asked at all, as
far as a program can tell.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_assets.calibration.answers import LabelledAnswers, joined
from attn_assets.calibration.asking import Server, ask_all
from attn_assets.calibration.calibrating import MAX_TOKENS
from attn_assets.calibration.evaluation import macro_f1
from attn_assets.calibration.fitting import evidence_of, means_of_answers
from attn_assets.calibration.held_out import held_out_prompts
from attn_assets.calibration.prompts import LabelledPrompt
from attn_assets.calibration.setting import calibration_prompts
from attn_assets.discovery.zone_quality import LARGEST_SHARE, LEAST_AUC, LEAST_SHARE, zone_quality
from attn_core.sinkfree import sink_free
from attn_core.zones import ZONES, ZoneFormula, shipped_formula
from benchmarks.carried_out import carried_out
from benchmarks.measure import RESULTS, Figure, commit, figure_from_limit, machine, report
from benchmarks.model_servers import ServerKind, running_servers
from demo.prompts import KINDS, prompt_mix

NAME = "zones"
NUM_PER_ZONE, HELD_OUT_PER_ZONE = 64, 24
SEED, HELD_OUT_SEED = 21, 8
"""Seeds that nothing was fitted or looked at with."""
NUM_DRAWS = 400
F64 = npt.NDArray[np.float64]


def run(*, rows: int | None, as_json: bool) -> bool:
    """Ask, judge and report; True where every limit is kept. `rows` is the number of labelled prompts a zone."""
    with running_servers(ServerKind(name="on", capture=True, arguments=("--attention-tokens-publish", "off"))) as (on,):
        server = Server(url=on.url)
        asked = {
            "labelled": calibration_prompts(num_per_zone=rows or NUM_PER_ZONE, seed=SEED),
            "other wording": held_out_prompts(num_per_zone=rows or HELD_OUT_PER_ZONE, seed=HELD_OUT_SEED),
        }
        answers = {"demo": demo_answers(server)}
        for name, prompts in asked.items():
            answers[name] = ask_all(server, prompts, max_tokens=MAX_TOKENS, report=_progress(name))
    judged = {name: judge(one) for name, one in answers.items()}
    figures = [figure for name, one in judged.items() for figure in figures_of(name, one)]
    kept = {
        "name": "zones_report",
        "formula_sha256": shipped_formula().sha256(),
        "sets": judged,
        "machine": machine(),
        "commit": commit(),
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "zones_report.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(kept) + "\n")
    if not as_json:
        for name, one in judged.items():
            print(text_of(name, one))
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


def demo_answers(server: Server) -> LabelledAnswers:
    """Answers to the demo's mix of prompts, in its own lengths."""
    parts = []
    for prompt in prompt_mix():
        zone = ZONES[KINDS.index(prompt.kind)]
        asked = LabelledPrompt(
            family=prompt.kind, zone=zone, text=prompt.text, surroundings="", temperature=prompt.temperature
        )
        parts.append((asked, prompt.max_tokens))
    lengths = sorted({length for _, length in parts})
    return joined([ask_all(server, [p for p, own in parts if own == length], max_tokens=length) for length in lengths])


def judge(answers: LabelledAnswers) -> dict[str, Any]:
    """All that is said of one set, as plain numbers."""
    formula = learned_formula(answers)
    evidence = evidence_of(formula, answers)
    zone_index = formula.zones_of(evidence).zone_index
    whole = formula.zones_of(means_of_answers(evidence, answers.start)).zone_index
    of_answer = answers.answer_of_token
    quality = zone_quality(zone_index, evidence)
    behind = answers.behind_preamble
    parts = {"all": np.ones(len(answers), dtype=np.bool_), "behind irrelevant text": behind, "behind none": ~behind}
    return {
        "num_answers": len(answers),
        "num_tokens": len(zone_index),
        "shares": _by_zone(quality.shares),
        "auc": _by_zone(quality.auc),
        "auc_of_values": _by_zone(quality.auc_of_values),
        "num_long_range_without": quality.num_long_range_without,
        "num_diffuse_below_usual": quality.num_diffuse_below_usual,
        "macro_f1": {
            name: {
                "requests": _interval(answers.zone_index[part], whole[part], np.arange(part.sum())),
                "tokens": _interval(
                    answers.zone_index[of_answer][part[of_answer]],
                    zone_index[part[of_answer]],
                    np.unique(of_answer[part[of_answer]], return_inverse=True)[1],
                ),
            }
            for name, part in parts.items()
            if part.any()
        },
        "kinds": _kinds(answers, zone_index, of_answer),
    }


def learned_formula(answers: LabelledAnswers) -> ZoneFormula:
    """The shipped formula with what is usual in these answers, as a discovery run would learn it."""
    free = sink_free(answers.vectors, context_len=answers.context_len, sink_mass=answers.sink_mass)
    values = np.column_stack([free.shares, free.evenness, answers.periodicity])
    formula = shipped_formula()
    return formula.with_usual(formula.usual.learned_from(values, answers.context_len))


def _kinds(
    answers: LabelledAnswers, zone_index: npt.NDArray[np.int8], of_answer: npt.NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """For each kind of prompt its zones' shares over those of the other kinds' mean, and the highest of them."""
    names = sorted(set(answers.family.tolist()))
    family = answers.family[of_answer]
    shares = np.array([np.bincount(zone_index[family == name], minlength=5) for name in names], dtype=np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    found = {}
    for k, name in enumerate(names):
        rest = np.delete(shares, k, axis=0).mean(axis=0)
        lift = shares[k] / np.maximum(rest, 1e-3)
        expected = ZONES[int(answers.zone_index[answers.family == name][0])]
        most = ZONES[int(lift.argmax())]
        found[name] = {"expected": expected, "most": most, "met": most == expected, "lift": lift.round(2).tolist()}
        mine = np.flatnonzero(answers.family == name)
        told = [carried_out(name, str(answers.prompt[i]), str(answers.text[i])) for i in mine]
        judged = [one for one in told if one is not None]
        found[name]["carried_out"] = round(sum(judged) / len(judged), 3) if judged else None
    return found


def _interval(true: npt.NDArray[Any], given: npt.NDArray[Any], group: npt.NDArray[Any]) -> list[float]:
    """Macro-F1 with its 95% interval, drawing whole groups (requests) again and again."""
    rng = np.random.default_rng(0)
    num_groups = int(group.max(initial=-1)) + 1
    order = np.argsort(group, kind="stable")
    start = np.searchsorted(group[order], np.arange(num_groups + 1))
    drawn = []
    for _ in range(NUM_DRAWS):
        rows = np.concatenate([order[start[k] : start[k + 1]] for k in rng.integers(0, num_groups, num_groups)])
        drawn.append(macro_f1(true[rows], given[rows]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return [round(macro_f1(true, given), 3), round(float(low), 3), round(float(high), 3)]


def figures_of(name: str, judged: Mapping[str, Any]) -> list[Figure]:
    """The figures of a set against their limits."""

    def figure(what: str, value: float, target: str, *, met: bool) -> Figure:
        return figure_from_limit(name=NAME, figure=f"{name}: {what}", value=value, unit="", target=target, met=met)

    least_auc = min(judged["auc"].values())
    shares = judged["shares"].values()
    return [
        figure("least AUC of an own characteristic", least_auc, f">= {LEAST_AUC}", met=least_auc >= LEAST_AUC),
        figure("least share of a zone", min(shares), f">= {LEAST_SHARE}", met=min(shares) >= LEAST_SHARE),
        figure("largest share of a zone", max(shares), f"<= {LARGEST_SHARE}", met=max(shares) <= LARGEST_SHARE),
    ]


def text_of(name: str, judged: Mapping[str, Any]) -> str:
    """What a person reads of a set."""
    lines = [f"\n{name}: {judged['num_answers']} answers, {judged['num_tokens']} tokens"]
    lines += [
        f"  {zone:<17} {judged['shares'][zone]:5.1%} of the tokens, AUC of its own characteristic "
        f"{judged['auc'][zone]:.3f} (of the plain value {judged['auc_of_values'][zone]:.3f})"
        for zone in ZONES
    ]
    for part, found in judged["macro_f1"].items():
        texts = [f"{what} {value:.2f} [{low:.2f}, {high:.2f}]" for what, (value, low, high) in found.items()]
        lines.append(f"  macro-F1, {part}: {', '.join(texts)}")
    met = sum(kind["met"] for kind in judged["kinds"].values())
    lines.append(f"  the expected zone is the most over-represented one in {met} of {len(judged['kinds'])} kinds:")
    for kind, found in judged["kinds"].items():
        mark = "yes" if found["met"] else f"no: {found['most']}"
        lift = found["lift"][ZONES.index(found["expected"])]
        done = "" if found["carried_out"] is None else f", {found['carried_out']:.0%} of the answers do what was asked"
        lines.append(f"    {kind:<22} expected {found['expected']:<17} {lift:5.2f} times as often: {mark}{done}")
    return "\n".join(lines)


def _by_zone(values: F64) -> dict[str, float]:
    return dict(zip(ZONES, values.round(4).tolist(), strict=True))


def _progress(name: str) -> Any:
    def told(done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            print(f"  {name}: {done} of {total} answers", file=sys.stderr, flush=True)

    return told
