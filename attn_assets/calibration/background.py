"""Irrelevant text and documents for the calibration prompts: invented places and people, nothing to be looked up."""

from __future__ import annotations

from random import Random

from attn_assets.calibration.irrelevant import MORE_STYLES
from attn_assets.calibration.prompts import Preamble

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


_COOKING = (
    "Peel {number} carrots and slice them thinly.",
    "Warm the oil in a wide pan, then add the onions and a pinch of salt.",
    "Meanwhile, whisk {two} grams of flour into the cold milk until no lumps are left.",
    "Cover the dish and let it rest for {two} minutes before serving.",
    "Step {number}: fold in the herbs, but do not stir.",
    "If the dough sticks to your hands, dust it with a little more flour.",
    "Bake at {number} degrees until the crust is golden brown.",
    "Drain the beans, rinse them, and set half of them aside for later.",
    "Taste, and season with pepper, lemon juice and chopped parsley.",
)
_LOG = (
    "[{two}:{two2}:04] INFO worker-{two} accepted connection from 10.0.{two}.{two2}",
    "[{two}:{two2}:07] WARN retry {number} of request {number}: upstream timed out",
    "[{two}:{two2}:09] INFO cache hit ratio 0.{number}, {number} entries evicted",
    "[{two}:{two2}:15] DEBUG flushed {number} rows in {two} ms",
    "[{two}:{two2}:21] ERROR disk /dev/sd{two} is {two2}% full",
    "[{two}:{two2}:28] INFO job {thing}-{number} finished with status 0",
)
_SCIENCE = (
    "Sedimentary rock forms where grains settle, are buried, and slowly cement together.",
    "The melting point of a metal depends on how strongly its atoms hold on to each other.",
    "Light from a distant galaxy is stretched towards red on its long way through expanding space.",
    "Enzymes speed up reactions by lowering the energy that is needed to begin them.",
    "A glacier flows downhill under its own weight, a few centimetres or many metres a day.",
    "Tides rise twice a day in most places, because the Moon pulls unevenly across the Earth.",
    "In dry air, sound travels about {number} metres in a second.",
    "Plants close the pores of their leaves when water is scarce, and so take up less carbon.",
    "Electrons in a semiconductor need a push of about one volt to become mobile.",
)
_CHAT = (
    "A: Did you ever call the plumber? B: Twice, he never answers on Fridays.",
    "A: I'm thinking of selling the {thing}. B: Again? You said so in March.",
    "A: What time is it over there? B: Almost {two}, I should sleep.",
    "A: Guess who I met at the gym. B: Not {person}, I hope!",
    "A: The wifi is down. B: Have you tried turning the router off and on?",
    "A: Shall we order pizza? B: Only if there are no olives this time.",
    "A: My train is {two} minutes late. B: Mine never came at all, lol.",
    "A: Can you feed the fish on Sunday? B: Sure, leave the key under the pot.",
)
_SHOPPING = (
    "Five stars. Arrived on time, works as described, would buy again.",
    "NEW: the {thing} lamp, now {two}% off until midnight!",
    "Two stars - the handle broke after {two} days and support was no help.",
    "Customers who bought this item also bought: batteries, gloves, a {thing} calendar.",
    "Size runs small; order one up. Colour is more grey than blue.",
    "Free delivery on orders above {number} crowns, returns within {two} days.",
    "Not suitable for children under three years. Keep away from fire.",
    "My {trade} recommended this brand and I have not regretted it once.",
)
_OTHER_STYLES = {
    "cooking": _COOKING,
    "log": _LOG,
    "science": _SCIENCE,
    "chat": _CHAT,
    "shopping": _SHOPPING,
    **MORE_STYLES,
}
_OTHER_KINDS = tuple(_OTHER_STYLES)
NUM_OTHER = len(_OTHER_STYLES)


def background(number: int, *, sentences: int = 60) -> Preamble:
    """One irrelevant text about towns; each number gives another."""
    rng = Random(f"background/{number}")  # noqa: S311 - wording, not secrets
    return Preamble(kind="towns", sentences=_sentences(_ABOUT_TOWNS, rng, sentences))


def other_background(number: int, *, sentences: int = 80) -> Preamble:
    """The same of other kinds, in turn: recipes, logs, science, chat, shopping and those of `irrelevant.py`."""
    rng = Random(f"other background/{number}")  # noqa: S311 - wording, not secrets
    kind = _OTHER_KINDS[number % NUM_OTHER]
    return Preamble(kind=kind, sentences=_sentences(_OTHER_STYLES[kind], rng, sentences))


def _sentences(templates: tuple[str, ...], rng: Random, count: int) -> list[str]:
    written: list[str] = []
    while len(written) < count:
        order = list(templates)
        rng.shuffle(order)
        for template in order:
            written.append(
                template.format(
                    town=rng.choice(_TOWNS), trade=rng.choice(_TRADES), person=rng.choice(_PEOPLE),
                    thing=rng.choice(_THINGS), number=rng.randint(102, 989) if "{number}" in template else 0,
                    two=rng.randint(10, 59) if "{two}" in template else 0,
                    two2=rng.randint(10, 59) if "{two2}" in template else 0,
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
    return _with_fact(rng, _ABOUT_TOWNS, tokens=tokens, size=size)


def styled_document(rng: Random, *, tokens: int, style: int) -> tuple[str, str]:
    """The same in another kind of text than prose about towns: the number picks one in turn."""
    return _with_fact(rng, _OTHER_STYLES[_OTHER_KINDS[style % NUM_OTHER]], tokens=tokens, size=17)


def _with_fact(rng: Random, templates: tuple[str, ...], *, tokens: int, size: int) -> tuple[str, str]:
    statement, question = rng.choice(_FACTS)
    fact = statement.format(
        person=rng.choice(_PEOPLE), town=rng.choice(_TOWNS), thing=rng.choice(_THINGS), trade=rng.choice(_TRADES),
        number=rng.randint(120, 980), two=rng.randint(11, 98),
    )  # fmt: skip
    total = max(tokens // size, 5)
    sentences = _sentences(templates, rng, total)
    sentences.insert(rng.randint(0, max(total // 3, 1)), fact)
    return "\n\n".join(" ".join(sentences[k : k + 5]) for k in range(0, len(sentences), 5)), question
