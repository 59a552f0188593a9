"""More kinds of work for each zone, worded apart from `wording.py`: the more kinds, the less each of them decides."""

from __future__ import annotations

from random import Random

from attn_assets.calibration.background import styled_document
from attn_assets.calibration.prompts import Family

_FIRST = ("Anton", "Bianca", "Cedric", "Dalia", "Emil", "Freya", "Goran", "Helga", "Ivo", "Jasmin", "Karim", "Lotte")
_STUFF = ("parcel", "guitar", "blanket", "teapot", "wallet", "helmet", "mirror", "candle", "suitcase", "drum")
_PLACES = ("Bergamo", "Krakow", "Porto", "Aarhus", "Cusco", "Nairobi", "Tbilisi", "Hobart")


def _config(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_STUFF, 2)
    bad = (
        f"[server]\nport = {rng.randint(1000, 9000)}\nname = \"{x}\nhosts = ['a', 'b'\n[limits\n"
        f"max = {rng.randint(2, 90)}",
        f"{x}:\n  size: {rng.randint(1, 9)}\n   colour: 'red\n  tags: [new, {y}\n{y}\n  size: {rng.randint(1, 9)}",
        f"INSERT INTO {x} (id, label VALUES ({rng.randint(1, 99)}, '{y});",  # noqa: S608 - text, nobody runs it
        f"\\begin{{tabular}}{{ll}} {x} & {rng.randint(1, 99)} \\\\ {y} & {rng.randint(1, 99)} \\end{{tabular",
    )
    ask = (
        "This file cannot be loaded. Write it out again with its syntax put right.\n{x}",
        "{x}\n\nFind what is missing and print the complete, valid text.",
        "Correct only the punctuation and quotes of this:\n\n{x}",
    )
    return ask[number % len(ask)].replace("{x}", bad[(number // 2) % len(bad)])


def _escape(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_STUFF, 2)
    name = rng.choice(_FIRST)
    ask = (
        f'Write this as one JSON string with all quotes escaped: {name} said "my {x}" and then "your {y}".',
        f"Turn name={name}&thing={x}&count={rng.randint(2, 80)} into a JSON object.",
        f'Minify this: {{ "{x}" : {{ "owner" : "{name}" , "parts" : [ 1 , 2 , {rng.randint(3, 9)} ] }} , '
        f'"{y}" : null }}',
        f"Write a JSON array of three objects with the keys id, {x} and {y}. No comments.",
        f'Pretty-print with two spaces: {{"{x}":{{"{y}":[{rng.randint(1, 9)},{{"by":"{name}"}}]}}}}',
    )
    return ask[number % len(ask)]


def _function_call(rng: Random, number: int, tokens: int) -> str:
    x, place = rng.choice(_STUFF), rng.choice(_PLACES)
    ask = (
        f'Call the tool as JSON, {{"name": ..., "arguments": {{...}}}}: send the {x} to {place} by express.',
        f"Emit a JSON schema for a {x} with an integer weight, a string colour and an optional list of owners.",
        f'Return {{"city": ..., "thing": ..., "urgent": ...}} for: \'I need the {x} in {place} today!\'',
        f"Write the GraphQL query for the name, price and maker of every {x} in {place}, brackets balanced.",
    )
    return ask[number % len(ask)]


def _kinship(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_FIRST, 3)
    x = rng.choice(_STUFF)
    cases = (
        f"{a} is {b}'s uncle. {b}'s mother, who is his sister, gave {c} the {x} that he had inherited.",
        f"{b} married {a} when she was thirty. Her cousin {c} lent them his {x}, and they kept it.",
        f"{c} looked after {a}'s dog while he was with {b} at her parents' house; it bit him.",
    )
    ask = (
        " Whose is each thing and person named here?",
        " Draw up who is related to whom, and what each 'he', 'his' and 'her' points at.",
        " Tell me whom 'it', 'them' or 'him' means, one after another.",
    )
    return cases[number % 3] + ask[(number // 3) % 3]


def _dialogue_roles(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_FIRST, 3)
    x, y = rng.sample(_STUFF, 2)
    cases = (
        f'"I told her that you had it," {a} said. {b} shook her head. "He took the {x}, not I," she answered.',
        f'{a} wrote to {b}: "Give {c} my {y}; he needs it more than I do, and she won\'t mind."',
        f"{b} whispered to {c} that this one was hers and that one his, pointing at the {x} and the {y}.",
    )
    ask = (
        "{t}\nWho is 'I', who is 'you', and whom do the other pronouns name?",
        "Explain who speaks to whom and about what in: {t}",
        "{t} Retell it so that no reader can mistake one person for another.",
    )
    return ask[(number // 3) % 3].format(t=cases[number % 3])


def _ellipsis(rng: Random, number: int, tokens: int) -> str:
    a, b = rng.sample(_FIRST, 2)
    x, y = rng.sample(_STUFF, 2)
    cases = (
        f"{a} ordered a {x}, {b} a {y}, and neither liked theirs, so they swapped.",
        f"{a} can play the drum and {b} can too, but only one of them does so at night, and she is not the one.",
        f"The {x} is older than the {y}; the owner of the newer one wants to buy the other.",
    )
    ask = (
        "{t} Fill in what has been left out, and name what each short word refers to.",
        "What do 'one', 'other', 'so' and 'theirs' mean in this? {t}",
        "{t} Ask yourself who ends up with what, and write it down with reasons.",
    )
    return ask[(number // 2) % 3].format(t=cases[number % 3])


def _calendar(rng: Random, number: int, tokens: int) -> str:
    k, x = rng.randint(2, 9), rng.choice(_STUFF)
    ask = (
        f"Print a calendar of a month of 30 days that begins on a Monday, a week a line, starting at {k % 7 + 1}.",
        f"Make a timetable: every half hour from {k}:00 to {k + 10}:00, each with an activity.",
        f"Draw a chessboard of {k + 4} by {k + 4} squares with # and . as characters.",
        f"Give the powers of {k}, from {k}^1 to {k}^14, each as an equation on a new line.",
        f"Number twenty steps as Step 1:, Step 2: and so on, each with three words about a {x}.",
    )
    return ask[number % len(ask)]


def _json_rows(rng: Random, number: int, tokens: int) -> str:
    x, place = rng.choice(_STUFF), rng.choice(_PLACES)
    k = rng.randint(1, 40)
    ask = (
        f"Produce test data, fifteen lines of the form user{k}@mail.example, user{k + 1}@mail.example.",
        f"Fill a bingo card of five rows and five columns with numbers from {k} upwards.",
        f"Spell out in words, a line each: {k}, {k + 1}, {k + 2}, up to {k + 20}.",
        f"Write the scale do re mi fa sol la ti, up and down, {k % 5 + 4} times, with bars | between.",
        f"A packing list of twenty items for {place}: - [ ] {x}, - [ ] ..., one checkbox per line.",
    )
    return ask[number % len(ask)]


def _assembly(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_STUFF, 2)
    ask = (
        f"Write assembler-like lines, LOAD R1, {x}; ADD R1, R2; STORE R1, {y}; and go on in that manner.",
        f"Write a CSS file with ten rules, .{x}-1 to .{x}-10, each with a colour and a margin.",
        f"Write enum values {x.upper()}_0 = 0, {x.upper()}_1 = 1, through {x.upper()}_24 = 24.",
        f"An ASCII bar chart, please: twelve rows, each a {x} sold in a month, drawn with =.",
    )
    return ask[number % len(ask)]


def _mixed_document(rng: Random, number: int, tokens: int) -> str:
    text, question = styled_document(rng, tokens=max(tokens - 40, 90), style=number)
    ask = (
        "{d}\n\nSomewhere in there is the answer to this: {q}",
        "Look this up in the text that follows. {q}\n\n{d}\n\nNow give the answer.",
        "<text>\n{d}\n</text>\n{q}",
        "I was sent these pages.\n\n{d}\n\nHelp me to find one thing: {q}",
        "{d}\n\nQuestion for the attentive reader: {q}",
    )
    return ask[number % len(ask)].format(d=text, q=question)


def _lookup(rng: Random, number: int, tokens: int) -> str:
    entries = max((tokens - 40) // 13, 7)
    rows = [
        f"{rng.choice(_FIRST)} {chr(65 + k % 26)}., {rng.choice(_PLACES)}, extension {rng.randint(1000, 9999)}, "
        f"{rng.choice(_STUFF)}"
        for k in range(entries)
    ]
    wanted = rows[rng.randint(0, max(entries // 4, 1))].split(",")
    ask = (
        "Directory of members:\n{d}\n\nWhich extension does {n} have, and which object is listed?",
        "{d}\n\nFrom this register, copy the entry of {n}, then say in which city that is.",
        "Staff list\n{d}\n\nI must call {n}. What do I dial?",
    )
    return ask[number % len(ask)].format(d="\n".join(rows), n=wanted[0])


def _advice(rng: Random, number: int, tokens: int) -> str:
    x, place = rng.choice(_STUFF), rng.choice(_PLACES)
    ask = (
        f"I have a free weekend in {place}. Surprise me with a mood, not with a plan.",
        f"How could somebody fall in love with a {x}?",
        "What advice would you give to a cloud?",
        f"Improvise a speech at the funeral of a {x}.",
        "Which colour is Wednesday, and why do you feel so?",
    )
    return ask[number % len(ask)]


def _scene(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_STUFF, 2)
    place, who = rng.choice(_PLACES), rng.choice(_FIRST)
    ask = (
        f"Sketch a scene: {who} finds a {x} in an empty house near {place}.",
        f"Begin a fairy tale in which winter is a person and owns a {y}.",
        f"Describe the smell of {place} to someone who has never left the desert.",
        f"Let a {x} and a {y} quarrel. Make it funny.",
        f"Write a diary entry from the last day of {who}'s voyage around the moon.",
    )
    return ask[number % len(ask)]


MORE_FAMILIES = (
    Family(name="configuration_repair", zone="syntax_floor", make=_config),
    Family(name="escaping", zone="syntax_floor", make=_escape),
    Family(name="structured_output", zone="syntax_floor", make=_function_call),
    Family(name="kinship", zone="semantic_bridge", make=_kinship),
    Family(name="who_speaks", zone="semantic_bridge", make=_dialogue_roles),
    Family(name="ellipsis", zone="semantic_bridge", make=_ellipsis),
    Family(name="calendar", zone="structure_ripple", make=_calendar),
    Family(name="rows", zone="structure_ripple", make=_json_rows),
    Family(name="numbered_names", zone="structure_ripple", make=_assembly),
    Family(name="mixed_document", zone="long_range", make=_mixed_document, fills=True),
    Family(name="register_lookup", zone="long_range", make=_lookup, fills=True),
    Family(name="whim", zone="diffuse", make=_advice),
    Family(name="scene", zone="diffuse", make=_scene),
)
