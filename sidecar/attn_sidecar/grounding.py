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

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from attn_core.fingerprint import SINK_POSITIONS
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


def grounding(tokens: Sequence[Token], *, prompt_len: int, spans: Sequence[Mapping[str, Any]]) -> Grounding:
    """Bounds for every token (in order of step) and sentence, over the sink, each span, the template and the answer.

    `spans` hold ``message``, ``role``, ``start`` and ``end`` in prompt positions; what overlaps belongs to the first.
    """
    parts = parts_of(prompt_len=prompt_len, spans=spans)
    of_tokens = [token_grounding(token, parts=parts, prompt_len=prompt_len) for token in tokens]
    sentences = []
    for first, end in sentence_ranges([token.token_text for token in tokens]):
        texts = [token.token_text for token in tokens[first:end]]
        sentences.append(
            SentenceGrounding(
                first_step=tokens[first].step,
                end_step=tokens[end - 1].step + 1,
                text="".join(text or "" for text in texts) if any(text is not None for text in texts) else None,
                low=_means([one.low for one in of_tokens[first:end]]),
                high=_means([one.high for one in of_tokens[first:end]]),
                mass_not_shown=sum(one.mass_not_shown for one in of_tokens[first:end]) / (end - first),
            )
        )
    return Grounding(parts=parts, tokens=of_tokens, sentences=sentences)


def parts_of(*, prompt_len: int, spans: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The sink, each span, the template and the answer; every position of the context lies in exactly one."""
    sink_end = min(SINK_POSITIONS, prompt_len)
    free = [(sink_end, prompt_len)] if prompt_len > sink_end else []
    parts = [Part(kind=SINK, message=None, role=None, ranges=[(0, SINK_POSITIONS)])]
    for number, span in enumerate(spans):
        start, end = _whole(span.get("start")), _whole(span.get("end"))
        taken = [(max(a, start), min(b, end)) for a, b in free if max(a, start) < min(b, end)]
        free = [piece for a, b in free for piece in ((a, min(b, start)), (max(a, end), b)) if piece[0] < piece[1]]
        message, role = span.get("message"), span.get("role")
        parts.append(
            Part(
                kind=MESSAGE,
                message=message if isinstance(message, int) else number,
                role=role if isinstance(role, str) else None,
                ranges=taken,
            )
        )
    parts.append(Part(kind=TEMPLATE, message=None, role=None, ranges=free))
    # A prompt shorter than the sink leaves the answer's first positions to it.
    parts.append(Part(kind=ANSWER, message=None, role=None, ranges=[(max(prompt_len, SINK_POSITIONS), 2**31 - 1)]))
    return parts


def token_grounding(token: Token, *, parts: Sequence[Part], prompt_len: int) -> TokenGrounding:
    """One token's bounds; see the module's first lines for what they rest on."""
    positions, probs = token.topk_positions or [], token.topk_probs or []
    n = token.context_len or prompt_len + token.step
    shown, counts = [0.0] * len(parts), [0] * len(parts)
    for position, prob in zip(positions, probs, strict=False):
        place = _part_at(parts, position)
        if place is not None:
            shown[place] += prob
            counts[place] += 1
    left = token.residual_mass if token.residual_mass is not None else 1.0 - sum(probs)
    not_shown = min(max(left, 0.0), 1.0) if positions else 1.0
    least = min(probs) if probs else 1.0
    prompt = [i for i, part in enumerate(parts) if part.kind in (MESSAGE, TEMPLATE)]
    in_prompt = sum(shown[i] for i in prompt)
    over = not_shown if token.prompt_mass is None else min(not_shown, max(token.prompt_mass - in_prompt, 0.0))
    low, high = list(shown), []
    for i, part in enumerate(parts):
        unseen = sum(max(0, min(end, n) - min(start, n)) for start, end in part.ranges) - counts[i]
        room = min(over if i in prompt else not_shown, least * max(unseen, 0))
        high.append(min(low[i] + room, 1.0))
    for i, part in enumerate(parts):
        known = _known(part.kind, token)
        if known is not None:
            low[i] = high[i] = known
    return TokenGrounding(step=token.step, low=_rounded(low), high=_rounded(high), mass_not_shown=round(not_shown, 6))


def _known(kind: str, token: Token) -> float | None:
    """The exact mass on the sink, or on the answer so far, where it was stored."""
    if kind == SINK:
        return token.sink_mass
    if kind == ANSWER and token.sink_mass is not None and token.prompt_mass is not None:
        return min(max(1.0 - token.sink_mass - token.prompt_mass, 0.0), 1.0)
    return None


def _part_at(parts: Sequence[Part], position: int) -> int | None:
    for i, part in enumerate(parts):
        if any(start <= position < end for start, end in part.ranges):
            return i
    return None


def _whole(value: object) -> int:
    return max(0, value) if isinstance(value, int) else 0


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return _rounded([sum(column) / len(rows) for column in zip(*rows, strict=True)])


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 6) for value in values]
