"""`zones`: how well a request's zone is told, on prompts of other wording than any that set something.

Starts the demo's model server, asks the held-out prompts (half behind a long irrelevant preamble) and the demo's mix,
lets the calibration that comes with the project answer: the macro-F1 over the five zones, by whole answers, with the
confusion table; how far confidence is from being right; and the share of each zone among the tokens of the demo's mix.
All of it is kept under ``benchmarks/results``, however it turns out.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from attn_assets.calibration.answers import LabelledAnswers, joined
from attn_assets.calibration.asking import Server, ask_all
from attn_assets.calibration.calibrating import HELD_OUT_PER_ZONE, MAX_TOKENS, judge
from attn_assets.calibration.fitting import token_inputs
from attn_assets.calibration.held_out import held_out_prompts
from attn_assets.calibration.kept import shipped
from attn_assets.calibration.prompts import LabelledPrompt
from attn_core.zone_scorer import ZoneScorer
from attn_core.zones import ZONES
from benchmarks.measure import RESULTS, Figure, commit, figure_from_limit, machine, report
from benchmarks.model_servers import ServerKind, running_servers
from demo.prompts import KINDS, prompt_mix

MACRO_F1, ECE, LEAST_SHARE, MOST_SHARE = 0.65, 0.05, 0.05, 0.60
NAME = "zones"


def run(*, rows: int | None, as_json: bool) -> bool:
    """Ask, judge and report; True where every limit is kept. `rows` is the number of held-out prompts a zone."""
    with running_servers(ServerKind(name="on", capture=True, arguments=("--attention-tokens-publish", "off"))) as (on,):
        server = Server(url=on.url)
        scorer = shipped(server.model_id())
        if scorer is None:
            raise SystemExit(f"zones: no calibration of {server.model_id()} comes with the project")
        prompts = held_out_prompts(num_per_zone=rows or HELD_OUT_PER_ZONE)
        held_out = ask_all(server, prompts, max_tokens=MAX_TOKENS, report=_told)
        demo = demo_answers(server)
    figures, kept = judged(scorer, held_out, demo)
    _keep(kept)
    if not as_json:
        print(kept["table"])
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


def demo_answers(server: Server) -> LabelledAnswers:
    """Answers to the demo's mix of prompts, in its own lengths."""
    parts = []
    for prompt in prompt_mix():
        zone = ZONES[KINDS.index(prompt.kind)]
        asked = LabelledPrompt(
            family=prompt.kind, zone=zone, text=prompt.text, behind_preamble=False, temperature=prompt.temperature
        )
        parts.append((asked, prompt.max_tokens))
    lengths = sorted({length for _, length in parts})
    return joined([ask_all(server, [p for p, own in parts if own == length], max_tokens=length) for length in lengths])


def judged(
    scorer: ZoneScorer, held_out: LabelledAnswers, demo: LabelledAnswers
) -> tuple[list[Figure], dict[str, object]]:
    """The figures against their limits, and everything that is kept of the judgement."""
    requests, tokens = judge(scorer, held_out)
    parts = {
        name: judge(scorer, held_out.chosen(np.flatnonzero(held_out.behind_preamble == behind)))[0].macro_f1
        for name, behind in (("behind a preamble", True), ("without one", False))
    }
    demo_requests, _ = judge(scorer, demo)
    given = scorer.token_probabilities(token_inputs(scorer, demo)).argmax(axis=1)
    shares = np.bincount(given, minlength=len(ZONES)) / len(given)

    def figure(what: str, value: float, target: str, *, met: bool) -> Figure:
        return figure_from_limit(name=NAME, figure=what, value=value, unit="", target=target, met=bool(met))

    figures = [
        figure("macro_f1", requests.macro_f1, f">= {MACRO_F1}", met=requests.macro_f1 >= MACRO_F1),
        figure("ece", requests.ece, f"<= {ECE}", met=requests.ece <= ECE),
        figure("ece of single tokens", tokens.ece, f"<= {ECE}", met=tokens.ece <= ECE),
        figure("least share of a zone", float(shares.min()), f">= {LEAST_SHARE}", met=shares.min() >= LEAST_SHARE),
        figure("largest share of a zone", float(shares.max()), f"<= {MOST_SHARE}", met=shares.max() <= MOST_SHARE),
    ]
    kept: dict[str, object] = {
        "name": "zones_report",
        "calibration": scorer.version,
        "calibration_sha256": scorer.fingerprint(),
        "num_answers": len(held_out),
        "requests": requests.as_json(),
        "tokens": tokens.as_json(),
        "macro_f1_by_part": {name: round(value, 4) for name, value in parts.items()},
        "demo_macro_f1": round(demo_requests.macro_f1, 4),
        "demo_shares": dict(zip(ZONES, shares.round(4).tolist(), strict=True)),
        "table": requests.table(),
        "machine": machine(),
        "commit": commit(),
    }
    return figures, kept


def _keep(kept: dict[str, object]) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "zones_report.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(kept) + "\n")


def _told(done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        print(f"  {done} of {total} held-out answers", file=sys.stderr, flush=True)
