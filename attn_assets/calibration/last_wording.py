"""A fourth set of words for each zone, with most of it where the others told zones worst: structure and syntax."""

from __future__ import annotations

from random import Random

from attn_assets.calibration.background import styled_document
from attn_assets.calibration.prompts import Family

_GUESTS = ("Abel", "Bettina", "Carlos", "Dina", "Elif", "Florian", "Gita", "Hakan", "Irma", "Jorge", "Kim", "Lars")
_GOODS = ("honey", "cement", "velvet", "pepper", "copper", "amber", "linen", "cork", "paper", "salt")
_SPOTS = ("garden", "cellar", "attic", "kiosk", "tower", "garage", "chapel", "pier")


def _key_values(rng: Random, number: int, tokens: int) -> str:
    a, b = rng.sample(_GOODS, 2)
    n, m = rng.randint(2, 98), rng.randint(2, 98)
    broken = (
        f'{{"{a}": {n}, "{b}": "{m}, "where": ["{rng.choice(_SPOTS)}", ]',
        f'{{{a}: {n}; {b}: {m}; by: {{"name": "{rng.choice(_GUESTS)}", }}',
        f'["{a}", "{b}" {n}, {{"{a}": [{m}, {n}}}]]',
        f'"{a}": {{"kg": {n}, "from": "{rng.choice(_SPOTS)}"}}, "{b}": {{"kg": {m}',
    )
    ask = (
        "Something is off with this object, make it parse: {x}",
        "{x}\n^ syntax error. Corrected object:",
        "Make strict JSON out of the following, without a word of explanation.\n{x}",
        "What would a tolerant parser make of this? Answer as canonical JSON.\n\n{x}",
        "Here is the input of my unit test:\n{x}\nHere is what a repair function should return:",
    )
    return ask[number % 5].replace("{x}", broken[(number // 5 + number) % 4])


def _regex(rng: Random, number: int, tokens: int) -> str:
    a, b = rng.sample(_GOODS, 2)
    broken = (
        f"^({a}|{b}[a-z]{{2,{rng.randint(3, 8)}}}(\\d+$",
        f"f(g({a}, h([{b}, {rng.randint(1, 99)}), k{{}}",
        f"<<{a}>[{b}({{{rng.randint(1, 99)}}}]",
        f"SELECT ({a} + ({b} * {rng.randint(2, 9)}) FROM t WHERE x IN (1, 2",  # noqa: S608 - text, nobody runs it
    )
    ask = (
        "Where does each bracket of this close? Print the expression completed.\n{x}",
        "Unbalanced: {x}\nBalanced:",
        "The compiler says 'expected )'. Give the line as it must be.\n{x}",
    )
    return ask[number % 3].replace("{x}", broken[(number // 3 + number) % 4])


def _style_rules(rng: Random, number: int, tokens: int) -> str:
    a, b = rng.sample(_GOODS, 2)
    code = (
        f"function {a}(x,y){{if(x>{rng.randint(1, 9)}){{return [x,y]}}else{{return {{'{b}':y}}}}}}",
        f"const {a} = {{ {b} : [1,2 ,3] , size:{rng.randint(1, 99)} , on:true",
        f"struct {a} {{ int {b} ; char *name ; }} ; void use ( struct {a} *p {{ p -> {b} = {rng.randint(1, 99)} ; }}",
    )
    ask = (
        "Reformat to the usual style, spaces and semicolons included:\n{x}",
        "{x}\n\nLinted and mended version of the code, nothing else:",
        "The formatter crashed on this. Do its job by hand:\n{x}",
    )
    return ask[number % 3].replace("{x}", code[(number // 3 + number) % 3])


def _convert(rng: Random, number: int, tokens: int) -> str:
    rows = "\n".join(f"{rng.choice(_GUESTS)} | {rng.choice(_GOODS)} | {rng.randint(1, 99)}" for _ in range(3))
    ask = (
        "As JSON, keys who, what and amount:\n{x}",
        "As XML elements with attributes, properly closed:\n{x}",
        "As INSERT statements, quoted and terminated:\n{x}",
    )
    return ask[number % 3].replace("{x}", rows)


def _party(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_GUESTS, 3)
    x, place = rng.choice(_GOODS), rng.choice(_SPOTS)
    texts = (
        f"{a} brought {x} for {b}, but {c} ate it before she came. He apologised to her, and she forgave him.",
        f"In the {place} {a} met {b}'s sister. She asked after his mother, whom she had nursed, and he thanked her.",
        f"{b} hid the {x} because {c} was looking for it; {a} watched him do so and told him where it was.",
    )
    ask = (
        "{t}\n\nPronoun by pronoun: he = ?, she = ?, it = ?, her = ?",
        "Annotate the words that refer back, with the name in brackets after each: {t}",
        "{t} To whom did she speak, and who was he?",
        "A pupil misunderstood this passage. Set right who is meant each time.\n{t}",
    )
    return ask[(number // 3 + number) % 4].format(t=texts[number % 3])


def _chains(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_GUESTS, 3)
    x, y = rng.sample(_GOODS, 2)
    texts = (
        f"{a} gave the {x} to {b}. {b} passed it on to {c}. {c} gave the {y} to {a} for it.",
        f"If {a} is older than {b} and {b} is older than {c}, the oldest keeps the {x} and the youngest the {y}.",
        f"{a}'s letter reached {b} late. By then {c} had read it to them all, except to its author.",
    )
    ask = (
        "{t} Who holds what in the end, and through whose hands did it go?",
        "{t} Name the persons behind 'it', 'them', 'author', 'oldest' and so on, where they occur.",
        "From {t} conclude who had to do with whom.",
    )
    return ask[(number // 3 + number) % 3].format(t=texts[number % 3])


def _this_that(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_GOODS, 2)
    a, b = rng.sample(_GUESTS, 2)
    ask = (
        f"'I prefer {x} to {y}, but this is cheaper than that,' said {a} to {b}. Interpret 'this' and 'that'.",
        f"{a} will pay if {b} won't, and he hopes so. What does he hope, and who is 'he'?",
        f"{b} sold {a} {x}. It was hers, then his. Whose was it first, and whose is it now?",
        f"Neither {a} nor {b} touched the {x}; the other guest did. They accuse him. Who accuses whom?",
    )
    return ask[number % 4]


def _ladders(rng: Random, number: int, tokens: int) -> str:
    k, step = rng.randint(2, 40), rng.randint(2, 7)
    ask = (
        f"{k}, {k + step}, {k + 2 * step}, {k + 3 * step}, ... go on until you have thirty numbers.",
        f"Could you count aloud for me from {k} to {k + 45}?",
        f"Make two columns, celsius and fahrenheit, for {k} to {k + 12} degrees.",
        f"All squares of the numbers {k} to {k + 15}, as n^2 = m, line after line.",
        f"Countdown of a rocket from {k + 25}, one call per line.",
    )
    return ask[number % 5]


def _ledgers(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_GOODS, 3)
    ask = (
        f"Invoice table with the columns position, goods, pieces and sum: {a}, {b}, {c} and seven more positions.",
        f"Two-column list, aligned with dots, of ten goods and their prices: {a} ........ 4.50",
        f"| day | {a} | {b} |\n|-----|-----|-----|\n| 1 | 12 | 7 |\nContinue the table for two weeks.",
        f"Write out a spreadsheet with tabs: header week, {a}, {b}, {c}; then weeks 1 to 15.",
    )
    return ask[number % 4]


def _drills(rng: Random, number: int, tokens: int) -> str:
    x, place = rng.choice(_GOODS), rng.choice(_SPOTS)
    ask = (
        f"'{x} in the {place}' - write this sentence twenty-five times, with a running number.",
        "A rhythm for drummers: boom tak tak boom tak, in sixteen bars, numbered.",
        f"Alphabet game: A for apple, B for bread, C for {x}, and so forth up to Z.",
        f"Roster: Monday early, Monday late, Tuesday early, Tuesday late, each with a name, for the {place}.",
        f"Generate ids {x}-0001, {x}-0002, {x}-0003 up to {x}-0030.",
    )
    return ask[number % 5]


def _outlines(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_GOODS, 2)
    ask = (
        f"Table of contents for a handbook about {x}: chapters 1 to 8, each with sections n.1, n.2 and n.3.",
        f"Menu of a program as an indented tree, File, Edit, View and Trade > {x}, {y}; five items below each.",
        f"Steps and sub-steps, a) b) c) below each number, for storing {x}. Ten numbers.",
        "A poem's skeleton: verse 1 line 1, verse 1 line 2, up to verse 6 line 4, each on its own line.",
    )
    return ask[number % 4]


def _chronicle(rng: Random, number: int, tokens: int) -> str:
    text, question = styled_document(rng, tokens=max(tokens - 30, 90), style=number * 3 + 1)
    ask = (
        "Source:\n{d}\nQuery: {q}",
        "{d}\n\n\n{q}",
        "Memorise this.\n\n{d}\n\nDone? Then: {q}",
        "Reading comprehension. {d}\n\n1) {q}",
    )
    return ask[number % 4].format(d=text, q=question)


def _inventory(rng: Random, number: int, tokens: int) -> str:
    count = max((tokens - 30) // 14, 6)
    rows = [
        f"Shelf {k}: {rng.randint(3, 90)} boxes of {rng.choice(_GOODS)}, signed {rng.choice(_GUESTS)}, kept in the "
        f"{rng.choice(_SPOTS)}."
        for k in range(1, count + 1)
    ]
    which = rng.randint(1, max(count // 3, 2))
    ask = (
        "{d}\n\nHow many boxes lie on shelf {n}, of what, and who signed?",
        "Stocktaking\n{d}\n\nI only care for shelf {n}. What do the lines say about it?",
        "{d}\nWho is answerable for shelf {n}?",
    )
    return ask[number % 3].format(d=" ".join(rows) if number % 2 else "\n".join(rows), n=which)


def _wonder(rng: Random, number: int, tokens: int) -> str:
    x, place = rng.choice(_GOODS), rng.choice(_SPOTS)
    ask = (
        f"Tell me about a {place} that appears only in fog.",
        f"Why might {x} dream?",
        "Write the first page of a book that has no plot.",
        f"Let us make up a religion that worships {x}.",
        "Ramble about time for a while.",
    )
    return ask[number % 5]


def _moods(rng: Random, number: int, tokens: int) -> str:
    x, who = rng.choice(_GOODS), rng.choice(_GUESTS)
    ask = (
        f"Describe {who}'s loneliest Sunday, and then a happy one.",
        f"An ode to {x}, pathetic and long.",
        "What is it like to be an island?",
        f"Imagine that {who} could taste words. How does that go?",
        "Think aloud about nothing in particular.",
    )
    return ask[number % 5]


LAST_FAMILIES = (
    Family(name="key_values", zone="syntax_floor", make=_key_values),
    Family(name="expressions", zone="syntax_floor", make=_regex),
    Family(name="style_rules", zone="syntax_floor", make=_style_rules),
    Family(name="conversion", zone="syntax_floor", make=_convert),
    Family(name="party", zone="semantic_bridge", make=_party),
    Family(name="chains", zone="semantic_bridge", make=_chains),
    Family(name="this_and_that", zone="semantic_bridge", make=_this_that),
    Family(name="ladders", zone="structure_ripple", make=_ladders),
    Family(name="ledgers", zone="structure_ripple", make=_ledgers),
    Family(name="drills", zone="structure_ripple", make=_drills),
    Family(name="outlines", zone="structure_ripple", make=_outlines),
    Family(name="chronicle", zone="long_range", make=_chronicle, fills=True),
    Family(name="inventory", zone="long_range", make=_inventory, fills=True),
    Family(name="wonder", zone="diffuse", make=_wonder),
    Family(name="moods", zone="diffuse", make=_moods),
)
