"""Labelled prompts: a family of work, the zone that its attention should lie in, and a length that says nothing.

Left to themselves, prompts of different families differ in length, and a scorer would learn the length. So every
family is spread over the same lengths, by irrelevant text put in front of the task, and a document's own length is
chosen from the same list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from attn_core.zones import ZONES

Make = Callable[[Random, int, int], str]
"""(random, how many of this kind were made before, tokens there are to fill) -> the task."""
_WORD = re.compile(r"[A-Za-z']+|\d|[^\sA-Za-z\d]|\n")
_LONG_WORD = 8
LETTERS_PER_PIECE = 6


@dataclass(frozen=True, kw_only=True)
class LabelledPrompt:
    """One request whose zone is known."""

    family: str
    zone: str
    text: str
    surroundings: str
    """The kind of irrelevant text in front; empty where there is none."""
    temperature: float

    def __post_init__(self) -> None:
        if self.zone not in ZONES:
            raise ValueError(f"zone {self.zone!r} of family {self.family!r} is not one of {', '.join(ZONES)}")

    @property
    def behind_preamble(self) -> bool:
        """Whether irrelevant text stands before the task."""
        return self.surroundings != ""


@dataclass(frozen=True, kw_only=True)
class Preamble:
    """Irrelevant text, of one kind."""

    kind: str
    sentences: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of work: how to word it, and the zone it is an example of."""

    name: str
    zone: str
    make: Make
    fills: bool = False
    """Whether the task itself grows to the tokens there are (a long document), or irrelevant text goes before it."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long prompts shall be, in tokens, and how much of that is irrelevant text in front."""

    tokens: int
    preamble: bool


def estimated_tokens(text: str) -> int:
    """About how many tokens this text has: words, digits and signs. Right within a tenth for English and for JSON."""
    count = 0
    for piece in _WORD.findall(text):
        count += 1 if len(piece) < _LONG_WORD else 1 + (len(piece) - 1) // LETTERS_PER_PIECE
    return count


def cut(sentences: Sequence[str], *, tokens: int) -> str:
    """As many of the sentences, from the first on, as fit; paragraphs of five. At least one."""
    kept: list[str] = []
    used = 0
    for sentence in sentences:
        used += estimated_tokens(sentence)
        if kept and used > tokens:
            break
        kept.append(sentence)
    return "\n\n".join(" ".join(kept[k : k + 5]) for k in range(0, len(kept), 5))


def build(
    families: Sequence[Family],
    *,
    lengths: Sequence[Length],
    preambles: Sequence[Preamble],
    bridges: Sequence[str],
    num_per_zone: int,
    temperatures: Sequence[float],
    seed: int,
) -> list[LabelledPrompt]:
    """`num_per_zone` prompts of each zone that `families` has, its families in turn, spread evenly over `lengths`.

    The same arguments give the same prompts. They come ordered by preamble, so that a server's prefix cache is of use.
    """
    by_zone: Mapping[str, list[Family]] = {
        zone: [family for family in families if family.zone == zone] for zone in ZONES
    }
    placed: list[tuple[tuple[int, int], LabelledPrompt]] = []
    for zone_number, own in enumerate(by_zone.values()):
        for number in range(num_per_zone if own else 0):
            family = own[number % len(own)]
            round_number = number // len(own)
            # Steps of their own through lengths, preambles and temperatures, so that none goes with a family.
            length = lengths[(number + number // len(lengths)) % len(lengths)]
            which = (number * 5 + zone_number) % len(preambles)
            rng = Random(f"{seed}/{family.name}/{round_number}")  # noqa: S311 - wording, not secrets
            text, behind = _compose(
                family, length, rng=rng, number=round_number, preamble=preambles[which].sentences, bridges=bridges
            )
            prompt = LabelledPrompt(
                family=family.name,
                zone=family.zone,
                text=text,
                surroundings=preambles[which].kind if behind else "",
                temperature=temperatures[(round_number + zone_number) % len(temperatures)],
            )
            placed.append(((which if behind else len(preambles), number), prompt))
    return [prompt for _, prompt in sorted(placed, key=lambda one: one[0])]


def _compose(
    family: Family, length: Length, *, rng: Random, number: int, preamble: Sequence[str], bridges: Sequence[str]
) -> tuple[str, bool]:
    if not length.preamble:
        return family.make(rng, number, length.tokens), False
    # A document takes half of the room, so that it lies behind irrelevant text too.
    task = family.make(rng, number, length.tokens // 2 if family.fills else length.tokens)
    room = length.tokens - estimated_tokens(task)
    before = cut(preamble, tokens=max(room, 40))
    return f"{before}\n\n{rng.choice(list(bridges))}\n\n{task}", True
