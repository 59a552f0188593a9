"""Irrelevant text and documents for the calibration prompts: invented places and people, nothing to be looked up."""

from __future__ import annotations

from random import Random

_TOWNS = ("Halvorsund", "Brackwater", "Oldenmere", "San Tavio", "Kettle Bay", "Norra Vik", "Pellham", "Ystrad")
_TRADES = ("cooper", "clockmaker", "ferryman", "printer", "glassblower", "surveyor", "beekeeper", "tanner")
_PEOPLE = ("Agnes Thorne", "Bertil Kvam", "Carmen Ibarra", "Dov Lasker", "Edda Ruud", "Farid Nouri", "Greta Holm")
_THINGS = ("bridge", "granary", "library", "mill", "observatory", "orchard", "station", "theatre")
_ABOUT_TOWNS = (
    "In {town} the market is held on the second Thursday of the month, whatever the weather.",
    "The {thing} of {town} was paid for by a {trade} who never learned to read.",
    "Visitors to {town} are told that the tide decides when dinner is served.",
    "{person} wrote that {town} smells of tar in spring and of apples in autumn.",
    "A {trade} from {town} could earn eleven coins a week, and spend nine of them on rent.",
    "For many years the {thing} stood empty, and children said that it hummed at night.",
    "The old road to {town} bends twice around a hill that is no longer there.",
    "Nobody remembers why the {thing} faces north, though several people will explain it.",
    "When snow closes the pass, letters for {town} go round by boat and arrive wet.",
    "{person} kept a diary of every dog that slept in front of the {thing}.",
    "The {trade} next door sold the roof before he sold the house.",
    "Rain in {town} comes mostly from the west and seldom stays for lunch.",
    "Two of the bells were cast by a {trade}; the third one was won in a card game.",
    "On clear days the {thing} of {town} can be seen from the opposite shore.",
    "{person} planted the limes along the canal, and complained about their shade ever after.",
    "A guild of every {trade} in the valley met here until the river moved.",
)


def background(number: int, *, sentences: int = 60) -> list[str]:
    """The sentences of one irrelevant text; each number gives another."""
    rng = Random(f"background/{number}")  # noqa: S311 - wording, not secrets
    return _sentences(_ABOUT_TOWNS, rng, sentences)


def _sentences(templates: tuple[str, ...], rng: Random, count: int) -> list[str]:
    written: list[str] = []
    while len(written) < count:
        order = list(templates)
        rng.shuffle(order)
        for template in order:
            written.append(
                template.format(
                    town=rng.choice(_TOWNS), trade=rng.choice(_TRADES), person=rng.choice(_PEOPLE),
                    thing=rng.choice(_THINGS),
                )
            )  # fmt: skip
    return written[:count]


BRIDGES = (
    "That was only to set the scene; here is what I need from you.",
    "None of the above matters for the task that follows.",
    "---",
    "Ignore all of that. Now to the actual request:",
    "(End of the excerpt.)",
)

_FACTS = (
    ("The reserve key hangs behind the portrait of {person}.", "Where does the reserve key hang?"),
    ("{person} paid {number} crowns for the weather station.", "Who paid for the weather station, and how much?"),
    ("The archive of {town} moved to the {thing} in 19{two}.", "When did the archive move, and where to?"),
    ("The code of the lower sluice is {number}, as {person} decided.", "What is the code of the lower sluice?"),
    ("The prize for the best {trade} went to {person} in 18{two}.", "Who won the prize, and in which year?"),
    ("A crate of {number} lenses was lost on the way to {town}.", "How many lenses were lost, and on which way?"),
    ("{person} is allergic to walnuts and must never be served them.", "Who must not be served walnuts, and why?"),
    ("The night train leaves from platform {two} of the {thing}.", "From which platform does the night train leave?"),
)


def document(rng: Random, *, tokens: int, size: int = 16) -> tuple[str, str]:
    """A document of about this many tokens with a fact in its first third, and the question for the fact."""
    statement, question = rng.choice(_FACTS)
    fact = statement.format(
        person=rng.choice(_PEOPLE), town=rng.choice(_TOWNS), thing=rng.choice(_THINGS), trade=rng.choice(_TRADES),
        number=rng.randint(120, 980), two=rng.randint(11, 98),
    )  # fmt: skip
    total = max(tokens // size, 5)
    sentences = _sentences(_ABOUT_TOWNS, rng, total)
    sentences.insert(rng.randint(0, max(total // 3, 1)), fact)
    return "\n\n".join(" ".join(sentences[k : k + 5]) for k in range(0, len(sentences), 5)), question
