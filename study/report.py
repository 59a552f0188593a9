"""The study's figures as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attn_core.head_projection import shipped_projection
from study.collect import MODEL_ID
from study.measure import Interval

_PAGE = """\
# Is what is shown true?

Measured on the demo's model, {model}, by `make study`: {num_tokens:,.0f} tokens of {num_requests:,.0f} answers to
prompts whose kind is known, most of them behind irrelevant text of several kinds, a third of them worded unlike
those that set anything. Through the real model server, sidecar and discovery. Brackets: smallest and largest over
all draws (seeds of the map; for the bootstrap also resamples of the requests). One small model, and prompts that
somebody made up: expect other figures on yours.

## The map

The matrix of the head sketch ({sha256}...) was learned from {matrix_tokens:,} tokens of {matrix_requests} answers.
Its 16 columns hold {variance_held:.0%} of what the figures it rests on vary by at each context length, and the
matrices of two halves of the answers share {stability:.0%} of their space.

| figure | value | wanted | |
|---|---|---|---|
{rows}

- *NMI with the length*: normalised mutual information of the clusters with the fifths of the context length, over
  the tokens that are in a cluster; 0: they say nothing of it.
- *Skill*: nats a token by which a token's cluster (or none) predicts which of five kinds of work the prompt asks
  for, for requests that took no part; 0: nothing.
- *Bootstrap*: adjusted Rand index of the clusters with those found when the requests are drawn anew, over tokens in
  a cluster both times.
- *Requests*: adjusted mutual information of twelve groups of requests (k-means of what their map rests on) with the
  families of prompts.
- *Zones*: macro-F1 of whole answers over five zones, by prompts of unseen wording; and for which share of their
  families the expected zone is the one that is over-represented most. By the shipped formula with what is usual in
  this window, without a calibration, and from the averages over heads alone: no specialist heads are chosen yet.

## The largest clusters

What sets each apart (mean, and how far that lies from the usual in spreads) and the tokens that it has more of than
others:

{clusters}
"""


@dataclass(frozen=True)
class _Row:
    name: str
    says: str
    wanted: str
    most: float | None = None
    least: float | None = None


_ROWS = (
    _Row("nmi_length", "NMI with the length", "≤ 0.10", most=0.10),
    _Row("correlation_x", "correlation of x with ln n", "≤ 0.2", most=0.2),
    _Row("correlation_y", "correlation of y with ln n", "≤ 0.2", most=0.2),
    _Row("skill", "skill", "≥ 0.12", least=0.12),
    _Row("clusters", "clusters", ""),
    _Row("largest", "share of the largest cluster", "≤ 0.35", most=0.35),
    _Row("noise", "share in no cluster", "≤ 0.30", most=0.30),
    _Row("bootstrap_ari", "bootstrap adjusted Rand index", "≥ 0.7", least=0.7),
    _Row("requests_ami", "requests: AMI with the family", "≥ 0.35", least=0.35),
    _Row("macro_f1_unseen", "zones: macro-F1 on unseen wording", "≥ 0.55", least=0.55),
    _Row("families_right", "zones: share of families of unseen wording whose zone stands out", "≥ 0.9", least=0.9),
)


def write_report(path: Path, figures: Mapping[str, Interval], clusters: Sequence[str]) -> None:
    """Write the page."""
    matrix = shipped_projection(MODEL_ID)
    assert matrix is not None
    told = matrix.provenance
    rows = []
    for row in _ROWS:
        value = figures[row.name]
        shown = str(value)
        missed = (row.most is not None and value.value > row.most) or (
            row.least is not None and value.value < row.least
        )
        rows.append(f"| {row.says} | {shown} | {row.wanted} | {'short' if missed else ''} |")
    path.write_text(
        _PAGE.format(
            model=MODEL_ID,
            num_tokens=figures["num_tokens"].value,
            num_requests=figures["num_requests"].value,
            sha256=matrix.sha256[:12],
            matrix_tokens=told["num_tokens"],
            matrix_requests=told["num_requests"],
            variance_held=told["variance_held"],
            stability=told["stability"],
            rows="\n".join(rows),
            clusters="\n".join(f"- {one}" for one in clusters),
        ),
        encoding="utf-8",
    )
