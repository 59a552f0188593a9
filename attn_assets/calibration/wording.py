"""The prompts that calibrate: several kinds of work for each zone, after the guide's table of examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from attn_assets.calibration.background import document
from attn_assets.calibration.prompts import Family

_NAMES = ("Ines", "Jonas", "Katya", "Liam", "Mira", "Noor", "Otto", "Petra", "Quentin", "Rosa", "Samir", "Tilda")
_OBJECTS = ("lamp", "violin", "ladder", "compass", "kettle", "map", "bicycle", "camera", "tent", "clock")
_CITIES = ("Lisbon", "Oslo", "Quito", "Hanoi", "Tunis", "Perth", "Turin", "Galway")


def _record(rng: Random, *, fields: int) -> dict[str, object]:
    values: dict[str, object] = {
        "name": rng.choice(_NAMES),
        "city": rng.choice(_CITIES),
        "age": rng.randint(18, 80),
        "active": rng.choice([True, False]),
        "items": rng.sample(_OBJECTS, 3),
        "score": rng.randint(100, 999) / 10,
        "address": {"street": f"{rng.choice(_OBJECTS).title()} Lane", "no": rng.randint(1, 99)},
        "note": None,
    }
    names = rng.sample(sorted(values), min(fields, len(values)))
    return {name: values[name] for name in names}


def _broken(rng: Random, text: str) -> str:
    """The JSON text with one or two mistakes of the kind that people make."""
    damage: tuple[Callable[[str], str], ...] = (
        lambda t: t.replace("}", ",}", 1),
        lambda t: t.replace('":', '"', 1),
        lambda t: t.replace('"', "'"),
        lambda t: t[:-1],
        lambda t: t.replace(", ", " ", 1),
        lambda t: t.replace("]", "", 1),
    )
    for change in rng.sample(damage, 2):
        text = change(text)
    return text


def _json_repair(rng: Random, number: int, tokens: int) -> str:
    many = 1 + (tokens > 120) + (tokens > 200)
    data = [_record(rng, fields=rng.randint(4, 7)) for _ in range(many)]
    text = _broken(rng, json.dumps(data[0] if many == 1 else data, indent=2 if number % 3 == 2 else None))
    ask = (
        "The following JSON does not parse. Fix the syntax and output the corrected JSON only.\n\n{x}",
        "{x}\n\nCorrect the syntax errors in the JSON above. Answer with valid JSON and nothing else.",
        "Please mend this broken JSON object:\n```\n{x}\n```",
        "My parser rejects this. Give me back the same data as valid JSON:\n{x}",
    )
    return ask[number % len(ask)].format(x=text)


def _brackets(rng: Random, number: int, tokens: int) -> str:
    def nested(depth: int) -> str:
        left, right = rng.choice(("()", "[]", "{}"))
        inner = "".join(nested(depth - 1) for _ in range(rng.randint(1, 2))) if depth else rng.choice("abxyz")
        return f"{left}{inner}{right}"

    text = nested(3 + (tokens > 150))
    text = text[: -rng.randint(1, 3)]
    ask = (
        "Which closing brackets are missing at the end of this? Write the whole string, balanced.\n{x}",
        "Balance the brackets: {x}",
        "Complete this expression so that every bracket is closed, and print it twice:\n{x}",
        "Close all open parentheses, brackets and braces in the line below. Repeat the full line.\n\n{x}",
    )
    return ask[number % len(ask)].format(x=text)


def _markup(rng: Random, number: int, tokens: int) -> str:
    rows = "".join(
        f"<item><name>{rng.choice(_OBJECTS)}</name><qty>{rng.randint(1, 9)}<qty></item>"
        for _ in range(2 + tokens // 120)
    )
    ask = (
        "Some tags in this XML are not closed. Print the repaired XML:\n<list>{x}",
        "Repair the markup and return it, one element a line:\n<order>{x}</ordr>",
        "Fix the unclosed tags.\n\n<root>{x}",
        "<data>{x}\n\nThis is malformed XML. Write it again, well formed.",
    )
    return ask[number % len(ask)].format(x=rows)


def _code_format(rng: Random, number: int, tokens: int) -> str:
    name, thing = rng.choice(_OBJECTS), rng.choice(("total", "count", "best", "mean"))
    code = f"def {thing}_{name}(x,y ):\n  if x>y :return [x,y,( x+y )]\n  else: return {{'{name}':x ,'k':[y,x ]"
    ask = (
        "Format this Python and close what is open:\n{x}",
        "{x}\n\nThe code above has syntax errors. Print the corrected code.",
        "Fix the missing brackets and the spacing of this function:\n\n{x}",
        "Make this valid, well formatted Python, without any comment:\n```python\n{x}\n```",
    )
    return ask[number % len(ask)].format(x=code)


def _quoting(rng: Random, number: int, tokens: int) -> str:
    rows = "\n".join(f"{rng.choice(_NAMES)};{rng.choice(_CITIES)};{rng.choice(_OBJECTS)}" for _ in range(3))
    ask = (
        "Rewrite each line as a JSON list of strings, double quotes, comma separated:\n{x}",
        "Put double quotes around every field and use commas instead of semicolons.\n{x}",
        "Turn each of these rows into a Python tuple literal:\n{x}",
        "{x}\n\nConvert these records to JSON objects with the keys name, city and thing.",
    )
    return ask[number % len(ask)].format(x=rows)


def _pronouns(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_NAMES, 3)
    x, y = rng.sample(_OBJECTS, 2)
    stories = (
        f"{a} lent {b} a {x} before the holidays. When she came back it was broken, and she was sorry about it.",
        f"{a} told {b} that {c} had sold the {x} to him, although he still owned the {y}.",
        f"The {x} stood next to the {y}. {a} painted it green because it had looked dull, and {b} liked it.",
        f"{b} asked {a} to carry the {x}, since he had hurt his hand. {c} helped them, and he thanked her.",
    )
    ask = (
        " Say for every pronoun whom or what it stands for.",
        " Who or what does each 'he', 'she' and 'it' mean? Go through them one by one.",
        " Rewrite the text with the names in place of all pronouns, then explain your choices.",
        " Which person does the last pronoun refer to, and how can you tell?",
    )
    story = stories[number % 4]
    if tokens > 150:
        story += " " + stories[(number + 1) % 4]
    return story + ask[(number // 2) % 4]


def _schemas(rng: Random, number: int, tokens: int) -> str:
    a, b = rng.sample(_NAMES, 2)
    x, y = rng.sample(_OBJECTS, 2)
    cases = (
        (f"The {x} would not go through the door because it was too wide.", "What was too wide?"),
        (f"{a} could not hear {b} because of the noise, so the call was repeated.", "Who could not hear, and whom?"),
        (f"{a} thanked {b} for the {x} that she had repaired.", "Who repaired it?"),
        (f"The {x} fell on the {y} and it broke at once, since it was made of glass.", "What was made of glass?"),
        (f"{a} paid {b} after he had delivered the {x}.", "Who delivered the thing?"),
    )
    text, question = cases[number % len(cases)]
    ask = (
        "{t} {q} Answer in full sentences and give the reason.",
        "Read: '{t}'\n{q} Explain step by step which word points to which.",
        "Question about this sentence: {t} {q} Why?",
    )
    return ask[number % len(ask)].format(t=text, q=question)


def _former_latter(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_NAMES, 3)
    x, y = rng.sample(_OBJECTS, 2)
    cases = (
        f"{a} and {b} run a shop. The former buys, the latter sells, and {c} keeps the books for both of them.",
        f"{a} owns a {x} and {b} a {y}. The latter wants to swap hers; the former does not want to give his away.",
        f"{c} met {a} in {rng.choice(_CITIES)} and {b} a year later. She had known the one as a child, not the other.",
    )
    ask = (
        " Explain who is meant by each of these expressions.",
        " Who does what? Use the names, not 'former' or 'latter'.",
        " Put it in your own words, with every reference resolved to a name.",
    )
    return cases[number % 3] + ask[(number // 3) % 3]


def _passage(rng: Random, number: int, tokens: int) -> str:
    a, b = rng.sample(_NAMES, 2)
    x, y = rng.sample(_OBJECTS, 2)
    city = rng.choice(_CITIES)
    text = f"{a} moved to {city} with a {x}. {b} stayed and kept the {y}, which had belonged to their aunt."
    ask = (
        "{t}\nWho kept what, and whose was it before? Refer to the text.",
        "Passage: {t}\nDescribe both people using only what the passage says.",
        "{t} Summarise this in two sentences that say who has which thing and where.",
    )
    return ask[number % 3].format(t=text)


def _names_back(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_NAMES, 3)
    thing = rng.choice(_OBJECTS)
    text = (
        f"{a} saw {b} at the station with {c}. He waved to her, but she did not notice him because he stood behind it."
        f" Later they found his {thing} and gave it to her, so that she could return it to him."
    )
    ask = (
        "Replace every pronoun by the noun it refers to:\n{t}",
        "{t}\n\nList the pronouns of this text in order, each with the person that it refers to.",
        "Resolve the references in this text, sentence by sentence: {t}",
    )
    return ask[number % 3].format(t=text)


def _counting(rng: Random, number: int, tokens: int) -> str:
    first, step = rng.randint(1, 30), rng.choice((1, 2, 3, 5))
    ask = (
        f"Write the numbers from {first} to {first + 40 * step} in steps of {step}, each on its own line.",
        f"Count down from {first + 60} to {first}, separated by commas.",
        f"Continue this sequence for thirty more terms: {first}, {first + step}, {first + 2 * step}, "
        f"{first + 3 * step},",
        f"Number the lines: line {first}, line {first + 1}, line {first + 2}, and go on until line {first + 40}.",
    )
    return ask[number % len(ask)]


def _table(rng: Random, number: int, tokens: int) -> str:
    a, b = rng.sample(("price", "weight", "height", "year", "stock", "rank"), 2)
    k = rng.randint(2, 9)
    ask = (
        f"Make a Markdown table with the columns item, {a} and {b} and ten rows of made-up data.",
        f"Print the multiplication table of {k}: {k} x 1 = {k}, {k} x 2 = {2 * k}, and so on up to {k} x 20.",
        f"Give me a CSV file with a header and twelve rows: id,{a},{b}",
        f"Fill in this table to fifteen rows.\n| n | {k}n |\n|---|---|\n| 1 | {k} |\n| 2 | {2 * k} |",
    )
    return ask[number % len(ask)]


def _indentation(rng: Random, number: int, tokens: int) -> str:
    x, y, z = rng.sample(_OBJECTS, 3)
    ask = (
        f"Write a YAML file that lists {x}, {y} and {z}, each with the indented keys colour, size, price and maker.",
        f"Print nested Python dictionaries, four spaces a level, for a shop that sells a {x}, a {y} and a {z}.",
        f"Write an outline with three levels of indentation about a {x}: 1., 1.1, 1.1.1, 1.1.2, 1.2 and so on.",
        f"Show an HTML list with ten <li> lines, each indented by four spaces: {x} 1, {x} 2, {x} 3 ...",
    )
    return ask[number % len(ask)]


def _repetition(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_OBJECTS, 2)
    ask = (
        "Write the days of the week with their number, then again, then again: Monday=1, Tuesday=2, Wednesday=3,",
        f"Repeat this pattern twenty times: {x}, {x}, {y}; {x}, {x}, {y};",
        "List the letters A to Z with their place in the alphabet: A is 1, B is 2, C is 3,",
        f"Write a line for each month: January - 1 {x}, February - 2 {x}s, March - 3 {x}s, and so on.",
    )
    return ask[number % len(ask)]


def _log_lines(rng: Random, number: int, tokens: int) -> str:
    hour = rng.randint(1, 9)
    x = rng.choice(_OBJECTS)
    lines = "\n".join(f"2031-04-0{hour} 0{k}:00 {x} ok" for k in range(1, 4))
    ask = (
        f"Go on with this log, one line an hour, for twenty lines:\n{lines}",
        f"{lines}\nExtend the listing above by fifteen rows in the same format.",
        f"Generate SQL rows like these up to id 20:\n(1, '{x}', {hour}0),\n(2, '{x}', {hour}1),\n(3, '{x}', {hour}2),",
    )
    return ask[number % len(ask)]


def _document_fact(rng: Random, number: int, tokens: int) -> str:
    text, question = document(rng, tokens=max(tokens - 40, 90))
    ask = (
        "{d}\n\nUsing the text above, answer: {q}",
        "Here is a report. Read it carefully.\n\n{d}\n\nMy question: {q} Quote the sentence that says so.",
        "{d}\n\n{q} Answer from the document, and explain where you found it.",
        "Document:\n{d}\n\nTask: {q}",
    )
    return ask[number % len(ask)].format(d=text, q=question)


def _dialogue(rng: Random, number: int, tokens: int) -> str:
    text, question = document(rng, tokens=max(tokens - 60, 90))
    lines = text.replace("\n\n", " ").split(". ")
    speakers = rng.sample(_NAMES, 2)
    turns = "\n".join(f"{speakers[k % 2]}: {line.strip().rstrip('.')}." for k, line in enumerate(lines) if line.strip())
    ask = (
        "This is a conversation from last week.\n{d}\n\n{q} Say who mentioned it.",
        "{d}\n\nGo back to the beginning of this talk: {q}",
        "Minutes of a meeting:\n{d}\n\nFrom the minutes: {q}",
    )
    return ask[number % len(ask)].format(d=turns, q=question)


def _contract(rng: Random, number: int, tokens: int) -> str:
    text, question = document(rng, tokens=max(tokens - 60, 90))
    clauses = "\n".join(
        f"§{k}. {line.strip().rstrip('.')}." for k, line in enumerate(text.replace("\n\n", " ").split(". "), start=1)
    )
    ask = (
        "{d}\n\nWhich paragraph answers this, and what does it say? {q}",
        "Below are numbered statements.\n\n{d}\n\nFind the answer in them: {q}",
        "Rules and remarks:\n{d}\n\nA visitor asks: {q} Reply with the words of the text.",
    )
    return ask[number % len(ask)].format(d=clauses, q=question)


def _story(rng: Random, number: int, tokens: int) -> str:
    x, city = rng.choice(_OBJECTS), rng.choice(_CITIES)
    ask = (
        f"Tell me a story in which a {x} changes someone's mind.",
        f"Write the opening of a novel that is set in {city}, in a year without summer.",
        f"Make up a legend about the first {x}.",
        f"What would a {x} say about its owner, if it could talk?",
    )
    return ask[number % len(ask)]


def _poem(rng: Random, number: int, tokens: int) -> str:
    x, city = rng.choice(_OBJECTS), rng.choice(_CITIES)
    ask = (
        f"Write a poem about {city} in the rain.",
        f"Compose some free verse on a {x} that nobody wants.",
        "Write a lullaby for an old engine.",
        f"A song about leaving {city}, please.",
    )
    return ask[number % len(ask)]


def _speculation(rng: Random, number: int, tokens: int) -> str:
    x = rng.choice(_OBJECTS)
    ask = (
        "What would the world be like if nobody needed sleep?",
        f"Speculate freely: what comes after the {x}?",
        "How might music sound in three hundred years?",
        f"Suppose that every {x} in the world vanished tonight. What would happen?",
    )
    return ask[number % len(ask)]


def _invention(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_OBJECTS, 2)
    ask = (
        f"Invent a machine that is half {x}, half {y}, and describe it.",
        "Think of a holiday that does not exist yet, and how people celebrate it.",
        f"Describe an animal that lives in a {x}.",
        "Dream up a language for people who only meet at night.",
    )
    return ask[number % len(ask)]


def _opinion(rng: Random, number: int, tokens: int) -> str:
    city = rng.choice(_CITIES)
    ask = (
        "What makes a friendship last? Share some thoughts.",
        f"Why do people like to travel to places such as {city}?",
        "Is it better to be curious or to be content? Discuss.",
        "Reflect on what it means to grow older.",
    )
    return ask[number % len(ask)]


FIRST_FAMILIES = (
    Family(name="json_repair", zone="syntax_floor", make=_json_repair),
    Family(name="bracket_matching", zone="syntax_floor", make=_brackets),
    Family(name="markup_repair", zone="syntax_floor", make=_markup),
    Family(name="code_formatting", zone="syntax_floor", make=_code_format),
    Family(name="quoting", zone="syntax_floor", make=_quoting),
    Family(name="pronouns", zone="semantic_bridge", make=_pronouns),
    Family(name="reference_schemas", zone="semantic_bridge", make=_schemas),
    Family(name="former_and_latter", zone="semantic_bridge", make=_former_latter),
    Family(name="context_retrieval", zone="semantic_bridge", make=_passage),
    Family(name="reference_replacement", zone="semantic_bridge", make=_names_back),
    Family(name="counting", zone="structure_ripple", make=_counting),
    Family(name="tables", zone="structure_ripple", make=_table),
    Family(name="indentation", zone="structure_ripple", make=_indentation),
    Family(name="repetition", zone="structure_ripple", make=_repetition),
    Family(name="log_lines", zone="structure_ripple", make=_log_lines),
    Family(name="document_fact", zone="long_range", make=_document_fact, fills=True),
    Family(name="dialogue", zone="long_range", make=_dialogue, fills=True),
    Family(name="numbered_statements", zone="long_range", make=_contract, fills=True),
    Family(name="story", zone="diffuse", make=_story),
    Family(name="poem", zone="diffuse", make=_poem),
    Family(name="speculation", zone="diffuse", make=_speculation),
    Family(name="invention", zone="diffuse", make=_invention),
    Family(name="opinion", zone="diffuse", make=_opinion),
)
