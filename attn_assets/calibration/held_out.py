"""Prompts that judge: the guide's examples in other words, on other topics, half of them behind irrelevant text.

Nothing here may set anything: no threshold, no choice of features, no regularisation. A test holds that no sentence is
shared with the calibration's wording.
"""

from __future__ import annotations

from random import Random

from attn_assets.calibration.prompts import Family, LabelledPrompt, Length, Preamble, build

_SPECIES = ("octopus", "heron", "lynx", "puffin", "mackerel", "badger", "gecko", "walrus", "falcon", "newt")
_STAFF = ("Walid", "Beatrix", "Hugo", "Yuki", "Desmond", "Fatima", "Leopold", "Sunita", "Ruben", "Vera")
_DEPARTMENTS = ("payroll", "shipping", "research", "catering", "security", "design")
_FINDINGS = (
    "Sample {n} from the {dep} corridor contained traces of a {animal}.",
    "The meeting of the {dep} committee was adjourned without a vote.",
    "{who} measured the salinity twice and obtained the same value.",
    "Temperatures in tank {n} remained stable throughout the quarter.",
    "A replacement pump had been ordered, according to {who}, in early March.",
    "The {animal} enclosure was repainted, which the animals ignored.",
    "{who} presented the budget of {dep} on a single slide.",
    "Volunteers counted each {animal} on the northern shelf at dawn.",
    "Feeding times were shifted by half an hour after complaints from {dep}.",
    "No incident was recorded in building {n} during the night shift.",
    "The intern of {dep} labelled every drawer twice, once in pencil.",
    "Over lunch {who} argued that a {animal} can recognise faces.",
    "Software on terminal {n} was updated, then rolled back, then updated again.",
    "The annual picnic of {dep} drew more guests than its fire drill.",
)
_NEEDLES = (
    ("The vault combination was changed to {n}-{m} by {who}.", "what is the vault combination, and who changed it?"),
    ("{who} adopted a {animal} named Biscuit in the spring.", "what is the name of the animal that was adopted?"),
    ("The grant of {n} thousand euros came from the Lindqvist Fund.", "who gave the grant, and how large was it?"),
    ("Emergency supplies are stored beneath staircase {n}.", "where are emergency supplies stored?"),
    ("The first dive took place on the {m}th of August near Cape Morrow.", "when and where did the first dive happen?"),
    ("{who} resigned because the {dep} office had no windows.", "why did somebody resign, and who was it?"),
)


def _report(rng: Random, *, sentences: int) -> list[str]:
    chosen: list[str] = []
    while len(chosen) < sentences:
        chosen += rng.sample(_FINDINGS, len(_FINDINGS))
    return [_filled(rng, template) for template in chosen[:sentences]]


def _filled(rng: Random, template: str) -> str:
    return template.format(
        n=rng.randint(2, 60), m=rng.randint(4, 19), who=rng.choice(_STAFF), dep=rng.choice(_DEPARTMENTS),
        animal=rng.choice(_SPECIES),
    )  # fmt: skip


_MUSINGS = (
    "Sourdough wants patience more than it wants flour.",
    "My neighbour tunes pianos, though he prefers to talk about engines.",
    "Last autumn we repaired the fence, and by winter it leaned again.",
    "A good pair of boots outlives three pairs of cheap ones.",
    "The radio said that traffic was light, which was true until we joined it.",
    "Tomatoes should never see the inside of a refrigerator.",
    "Every family has one drawer that nobody dares to open.",
    "I read somewhere that left-handed scissors were patented late.",
    "Our cat sits on whichever page is being read.",
    "The dentist's waiting room has had the same fish for a decade.",
    "Some people fold maps correctly; the rest of us buy new ones.",
    "Grandmother salted the water first and asked questions afterwards.",
    "At the flea market a man sold single gloves, left ones mostly.",
    "It is easier to begin knitting than to end it.",
    "The ski lift stopped twice, long enough to share a sandwich.",
    "Nothing improves a soup like telling nobody what is in it.",
    "The choir rehearses above the bakery, so they sing hungry.",
    "We painted the kitchen yellow and have been cheerful since, on principle.",
    "A borrowed umbrella is seldom returned in the same weather.",
    "Board games bring out the lawyer in my sister.",
)
_TURNS = (
    "Enough small talk. My real question follows.",
    "Please disregard the notes above, they belong to something else.",
    "Sorry, wrong clipboard. What I meant to send is this:",
    "* * *",
)


_THEATRE = (
    "ACT ONE. A drawing room with two doors and a broken barometer.",
    "The understudy enters from the left, reads her letter and drops it into the fire.",
    "Critics called the production brave, by which they meant long.",
    "Lighting cue forty: dusk, fading slowly, with a hint of green.",
    "A prompter whispers the third line, the baritone sings the fourth.",
    "Seats in the gallery were sold for less than a programme.",
    "COUNTESS (aside): He has never once asked for my name.",
    "Rehearsals were moved to a former stable, where the echo flattered everybody.",
    "The curtain, painted with a view of Naples, sticks at half height.",
    "Our stage manager numbers the props with chalk: goblets, daggers, one stuffed owl.",
    "In the second interval the orchestra went out for soup.",
    "The director prefers silence after the duel; the audience prefers applause.",
    "A thunder sheet hangs in the wings, dented by fifty winters of storms.",
    "Costumes came from an opera that had closed the night before.",
    "SERVANT: The carriage is ready, my lord, but the horses are not.",
    "Somebody in row seven coughs whenever the ghost appears.",
)


def _musing(number: int, remarks: tuple[str, ...]) -> list[str]:
    rng = Random(f"musing/{number}")  # noqa: S311 - wording, not secrets
    return rng.sample(remarks, len(remarks)) + rng.sample(remarks, len(remarks))


def _invalid_json(rng: Random, number: int, tokens: int) -> str:
    animal, other = rng.sample(_SPECIES, 2)
    who, dep = rng.choice(_STAFF), rng.choice(_DEPARTMENTS)
    n, m = rng.randint(1, 90), rng.randint(1, 90)
    bad = (
        f'{{"animal": "{animal}", "legs": {n % 5}, "diet": ["fish" "kelp"], "keeper": {{"first": "{who}"}}',
        f'[{{"dept": "{dep}", "seats": {n}}}, {{"dept": "lab", seats: {m}}}, {{"dept": "hall" "seats": 7}}]',
        f"{{'species': '{other}', 'tagged': True, 'weights': [{n}.5, {m}.0,], 'tank': None}}",
        f'{{"user": "{who}", "roles": ["admin", "{dep}"}}, "quota": {n}{m}}}',
        f'{{"log": [{{"t": {n}, "v": "{animal}"}}, {{"t": {m}, "v": "{other}"}}}}',
        f'{{"config": {{"retries": {n}, "hosts": ["{dep}-1", "{dep}-2", ], "tls": yes}}',
    )
    ask = (
        "json.loads() raises an exception on this string. What should it have been? Reply only in JSON: {x}",
        "This payload was truncated in transit; reconstruct a well-formed version.\n\n{x}\n",
        "Lint the snippet, then emit the cleaned-up object.\n{x}",
        "An API sent us this invalid body:\n\n{x}\n\nHow would it look if it were valid?",
        "You are a JSON linter. Input: {x} Output:",
    )
    text = bad[number % len(bad)]
    if tokens > 150 and number % 2:
        text = f"{text}\n{bad[(number + 2) % len(bad)]}"
    return ask[number % len(ask)].format(x=text)


def _reference(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_STAFF, 3)
    animal, other = rng.sample(_SPECIES, 2)
    dep = rng.choice(_DEPARTMENTS)
    cases = (
        f"{a} emailed {b} the roster as soon as she had finished it, yet she never opened the attachment.",
        f"When the {animal} chased the {other}, it hid under the deck until it grew tired.",
        f"{a} and {b} from {dep} shared an office; after {c} joined, she took his desk and he worked from home.",
        f"The director praised {a} in front of {b}, although he had done most of her share.",
        f"{b} dropped the tray onto the bench. It cracked, so {a} glued it while he swept up what was left of it.",
        f"{c} promised {a} that her sister would visit them, but they were away when she rang.",
    )
    ask = (
        "{t} In this passage, which individual is denoted by each referring word?",
        'Linguistics exercise. Identify the antecedents in: "{t}"',
        "{t}\nI find this confusing. Clarify who did what to whom.",
        "Disambiguate: {t}",
        "{t} Paraphrase without any pronoun.",
    )
    text = cases[number % len(cases)]
    if tokens > 150 and number % 2:
        text = f"{text} {cases[(number + 3) % len(cases)]}"
    return ask[number % len(ask)].format(t=text)


def _enumeration(rng: Random, number: int, tokens: int) -> str:
    animal, other = rng.sample(_SPECIES, 2)
    n = rng.randint(3, 12)
    ask = (
        f"Enumerate multiples of {n}, starting with {n}, until you reach {n * 35}. One per row.",
        "Produce a grid with pipes and dashes: columns species, count, region; fill a dozen rows "
        f"({animal}, {other}, ...).",
        f"Recite the integers between {n} and {n + 50}.",
        "I need squares and square roots tabulated for the integers one through fifteen.",
        f"Say '{animal} 1', then '{animal} 2', and keep going as far as '{animal} 30'.",
        f"Tabulate the even numbers below {n * 12} beside their halves, tab-separated.",
    )
    return ask[number % len(ask)]


def _needle(rng: Random, number: int, tokens: int) -> str:
    statement, question = _NEEDLES[number % len(_NEEDLES)]
    lines = _report(rng, sentences=max((tokens - 30) // 14, 7))
    lines.insert(rng.randint(0, max(len(lines) // 4, 1)), _filled(rng, statement))
    text = " ".join(lines)
    ask = (
        "Quarterly report. {d}\n\nAccording to the report, {q}",
        "<document>{d}</document>\nBased on the document: {q}",
        "{d}\n\nI skimmed this too fast. Tell me, {q}",
        "Attached is the institute's bulletin:\n{d}\nA reader would like to know: {q}",
    )
    return ask[number % len(ask)].format(d=text, q=question)


def _free(rng: Random, number: int, tokens: int) -> str:
    animal, other = rng.sample(_SPECIES, 2)
    who = rng.choice(_STAFF)
    ask = (
        f"Once upon a time, a {animal} and a {other} opened a bakery. Carry on.",
        f"{who} wakes up able to hear colours. Narrate that first day.",
        f"Haiku or limerick, your choice, as long as a {animal} appears.",
        "Picture humanity living under the sea. What do holidays look like there?",
        f"Give me an unusual idea for a museum about the {other}.",
        "What is happiness, in your view? Wander as you like.",
    )
    return ask[number % len(ask)]


HELD_OUT_FAMILIES = (
    Family(name="json_repair", zone="syntax_floor", make=_invalid_json),
    Family(name="coreference", zone="semantic_bridge", make=_reference),
    Family(name="counting_and_tables", zone="structure_ripple", make=_enumeration),
    Family(name="long_document_fact", zone="long_range", make=_needle, fills=True),
    Family(name="open_ended", zone="diffuse", make=_free),
)
HELD_OUT_LENGTHS = (
    Length(tokens=160, preamble=False),
    Length(tokens=340, preamble=True),
    Length(tokens=240, preamble=False),
    Length(tokens=520, preamble=True),
)


def held_out_prompts(*, num_per_zone: int = 30, seed: int = 0) -> list[LabelledPrompt]:
    """The labelled prompts that judge a calibration; the same arguments give the same prompts.

    An even seed puts everyday remarks in front, an odd one notes on the theatre.
    """
    kind, remarks = ("theatre", _THEATRE) if seed % 2 else ("remarks", _MUSINGS)
    return build(
        HELD_OUT_FAMILIES,
        lengths=HELD_OUT_LENGTHS,
        preambles=[Preamble(kind=kind, sentences=_musing(number, remarks)) for number in range(4)],
        bridges=_TURNS,
        num_per_zone=num_per_zone,
        temperatures=(0.0, 0.7),
        seed=seed,
    )
