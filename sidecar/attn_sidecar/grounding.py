"""What an answer leaned on: the share of attention on each part of the context, for every token and sentence.

A request stores, for each token, the exact mass on the sink (positions 0..3) and on the prompt beyond it, and, where
asked for, the exact probabilities of the k most attended positions. What lies on one message is therefore known only in
part. It is given as bounds that always hold, for the token's attention P over its n positions:

- **low**: the sum of the top-k probabilities that lie in the part;
- **high**: low plus what may still lie there. No position outside the top-k has more than its least probability p_min,
  and all of them in the prompt together have what the prompt's mass leaves over; so the rest is at most
  ``min(prompt mass beyond the sink - what of it is shown, p_min * positions of the part that are not shown)``.

The sink is a part of its own whatever message holds those positions, and what the prompt holds outside every message
(the chat template) is another. Sink and answer so far are known exactly where `sink_mass` and `prompt_mass` are.
`mass_not_shown` is the mass outside the top-k: 1 where no top-k was stored. A sentence's figures are the means over its
tokens, and bounds of means are means of bounds.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from attn_core.fingerprint import SINK_POSITIONS
from attn_sidecar.admission import Span
from attn_sidecar.sentences import sentence_ranges
from attn_sidecar.store.records import Token

SINK, MESSAGE, TEMPLATE, ANSWER = "sink", "message", "template", "answer"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the context: half-open ranges of positions, the sink's positions in none but the sink."""

    kind: str
    """``sink``, ``message``, ``template`` or ``answer``."""
    message: int | None
    """Number of the message in the request, of kind ``message`` only."""
    role: str | None
    ranges: list[tuple[int, int]]
    """The answer's range ends with the token's own context."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The mass on each of `Grounding.parts`, in their order: at least `low`, at most `high`."""

    low: list[float]
    high: list[float]
    mass_not_shown: float


class TokenGrounding(Bounds, frozen=True, kw_only=True):
    """One token's."""

    step: int


class SentenceGrounding(Bounds, frozen=True, kw_only=True):
    """One sentence's: means over its tokens, steps [first_step, end_step)."""

    first_step: int
    end_step: int
    text: str | None


class Grounding(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokens of an answer leaned on."""

    parts: list[Part]
    tokens: list[TokenGrounding]
    sentences: list[SentenceGrounding]


def grounding(tokens: Sequence[Token], *, prompt_len: int, spans: Sequence[Span]) -> Grounding:
    """Bounds for every token (in order of step) and sentence, over the sink, each span, the template and the answer.

    `spans` hold ``message``, ``role``, ``start`` and ``end`` in prompt positions; what overlaps belongs to the first.

    The time is linear in the figures of the answer (tokens times parts) and in the stored top-k positions.
    """
    parts = parts_of(prompt_len=prompt_len, spans=spans)
    low, high, not_shown = _bounds(tokens, parts=parts, prompt_len=prompt_len)
    of_tokens = [
        TokenGrounding(step=token.step, low=its_low, high=its_high, mass_not_shown=its_not_shown)
        for token, its_low, its_high, its_not_shown in zip(
            tokens, _rounded(low), _rounded(high), _rounded(not_shown), strict=True
        )
    ]
    sentences = []
    for first, end in sentence_ranges([token.token_text for token in tokens]):
        texts = [token.token_text for token in tokens[first:end]]
        sentences.append(
            SentenceGrounding(
                first_step=tokens[first].step,
                end_step=tokens[end - 1].step + 1,
                text="".join(text or "" for text in texts) if any(text is not None for text in texts) else None,
                low=_rounded(low[first:end].mean(axis=0)),
                high=_rounded(high[first:end].mean(axis=0)),
                mass_not_shown=float(not_shown[first:end].mean()),
            )
        )
    return Grounding(parts=parts, tokens=of_tokens, sentences=sentences)


def parts_of(*, prompt_len: int, spans: Sequence[Span]) -> list[Part]:
    """The sink, each span, the template and the answer; every position of the context lies in exactly one."""
    first = min(SINK_POSITIONS, prompt_len)
    of_spans, free = _claimed(spans, first=first, end=prompt_len)
    return [
        Part(kind=SINK, message=None, role=None, ranges=[(0, SINK_POSITIONS)]),
        *(
            Part(kind=MESSAGE, message=span.message, role=span.role, ranges=ranges)
            for span, ranges in zip(spans, of_spans, strict=True)
        ),
        Part(kind=TEMPLATE, message=None, role=None, ranges=free),
        # A prompt shorter than the sink leaves the answer's first positions to it.
        Part(kind=ANSWER, message=None, role=None, ranges=[(max(prompt_len, SINK_POSITIONS), 2**31 - 1)]),
    ]


def _claimed(
    spans: Sequence[Span], *, first: int, end: int
) -> tuple[list[list[tuple[int, int]]], list[tuple[int, int]]]:
    """The ranges of [first, end) that belong to each span, and those that belong to none.

    A position belongs to the first of the spans over it. One walk over the spans' ends, n log n.
    """
    cuts = sorted({first, end, *(min(max(at, first), end) for span in spans for at in (span.start, span.end))})
    by_start = sorted(range(len(spans)), key=lambda number: spans[number].start)
    of_spans: list[list[tuple[int, int]]] = [[] for _ in spans]
    free: list[tuple[int, int]] = []
    # The numbers of the spans that have begun, the first of them on top.
    over: list[int] = []
    coming = 0
    for start, stop in pairwise(cuts):
        while coming < len(by_start) and spans[by_start[coming]].start <= start:
            heapq.heappush(over, by_start[coming])
            coming += 1
        while over and spans[over[0]].end <= start:
            heapq.heappop(over)
        ranges = of_spans[over[0]] if over else free
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
    return of_spans, free


F64 = npt.NDArray[np.float64]


def _bounds(tokens: Sequence[Token], *, parts: Sequence[Part], prompt_len: int) -> tuple[F64, F64, F64]:
    """``low`` and ``high``, [m, parts], and the mass that is not shown, [m]; the module's first lines say why."""
    m, num_parts = len(tokens), len(parts)
    ranges = sorted((start, end, number) for number, part in enumerate(parts) for start, end in part.ranges)
    starts, ends, owners = (np.array(column, dtype=np.int64) for column in zip(*ranges, strict=True))
    shown, counts = np.zeros((m, num_parts)), np.zeros((m, num_parts))
    not_shown, least = np.ones(m), np.ones(m)
    for row, token in enumerate(tokens):
        probs = np.array(token.topk_probs or (), dtype=np.float64)
        positions = np.array(token.topk_positions or (), dtype=np.int64)[: len(probs)]
        probs = probs[: len(positions)]
        if not len(probs):
            continue
        place = np.searchsorted(starts, positions, side="right") - 1
        inside = (place >= 0) & (positions < ends[np.maximum(place, 0)])
        owner = owners[place[inside]]
        shown[row] += np.bincount(owner, probs[inside], minlength=num_parts)
        counts[row] += np.bincount(owner, minlength=num_parts)
        left = token.residual_mass if token.residual_mass is not None else 1.0 - probs.sum()
        not_shown[row], least[row] = min(max(left, 0.0), 1.0), probs.min()
    n = np.array([token.context_len or prompt_len + token.step for token in tokens], dtype=np.int64)
    is_prompt = np.array([part.kind in (MESSAGE, TEMPLATE) for part in parts], dtype=np.bool_)
    sink, prompt = (_known([getattr(token, name) for token in tokens]) for name in ("sink_mass", "prompt_mass"))
    over = np.minimum(not_shown, np.maximum(prompt - shown[:, is_prompt].sum(axis=1), 0.0))
    over = np.where(np.isnan(prompt), not_shown, over)
    room = np.where(is_prompt, over[:, None], not_shown[:, None])
    unseen = np.maximum(_sizes(n, starts=starts, ends=ends, owners=owners, num_parts=num_parts) - counts, 0)
    low, high = shown, np.minimum(shown + np.minimum(room, least[:, None] * unseen), 1.0)
    # Sink and answer are known exactly where both masses were stored.
    for number, mass in ((0, sink), (num_parts - 1, np.clip(1.0 - sink - prompt, 0.0, 1.0))):
        known = ~np.isnan(mass)
        low[known, number] = high[known, number] = mass[known]
    return low, high, not_shown


def _sizes(
    n: npt.NDArray[np.int64], *, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64], num_parts: int,
) -> F64:  # fmt: skip
    """[m, parts]: how many of its first n positions belong to each part."""
    found = np.zeros((len(n), num_parts))
    for start, end, owner in zip(starts.tolist(), ends.tolist(), owners.tolist(), strict=True):
        found[:, owner] += np.maximum(np.minimum(end, n) - np.minimum(start, n), 0)
    return found


def _known(values: Sequence[float | None]) -> F64:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _rounded(values: F64) -> list[Any]:
    return (
        [[round(one, 6) for one in row] for row in values.tolist()]
        if values.ndim == 2
        else [round(one, 6) for one in values.tolist()]
    )
