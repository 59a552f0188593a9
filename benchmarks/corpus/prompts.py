"""Prompts of the six text kinds, from tens to hundreds of tokens long, each with a task that reads or goes on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from benchmarks.corpus import wording as words
from demo.prompts import Prompt

MAX_TOKENS = 128
LENGTHS = (1, 2, 4, 8, 14)
"""How many units (sentences, records, functions) a text has; the kinds share them, so none is longer than another."""
Draw = random.Random


def corpus(*, per_kind: int, seed: int = 0) -> list[Prompt]:
    """`per_kind` prompts of each kind, the kinds in turn. The same seed gives the same prompts."""
    draw = Draw(seed)
    return [
        Prompt(
            kind=kind,
            text=f"{draw.choice(tasks)}\n\n{text(draw, LENGTHS[number % len(LENGTHS)])}",
            max_tokens=MAX_TOKENS,
            temperature=0.7 if number % 2 else 0.0,
        )
        for number in range(per_kind)
        for kind, (text, tasks) in KINDS.items()
    ]


def _sentence(draw: Draw) -> str:
    return (
        f"{draw.choice(words.NAMES)} {draw.choice(words.VERBS)} the {draw.choice(words.COLOURS)} "
        f"{draw.choice(words.THINGS)} at {draw.choice(words.PLACES)} {draw.choice(words.REASONS)}."
    )


def _prose(draw: Draw, size: int) -> str:
    return " ".join(_sentence(draw) for _ in range(2 * size))


def _code(draw: Draw, size: int) -> str:
    parts = []
    for number in range(size):
        name, field = draw.choice(words.FUNCTIONS), draw.choice(words.FIELDS)
        parts.append(
            f"def {name}_{field}(rows, limit={draw.randint(2, 99)}):\n"
            f'    """Rows whose {field} is at most the limit."""\n'
            f"    found = []\n    for row in rows:\n        if row[{field!r}] <= limit:\n"
            f"            found.append(row)\n    return found[:{number + 1}]\n"
        )
    return "\n\n".join(parts)


def _record(draw: Draw) -> dict[str, object]:
    fields = draw.sample(words.FIELDS, 4)
    values: list[object] = [draw.randint(1, 999), draw.choice(words.THINGS), round(draw.random() * 100, 2), True]
    return dict(zip(fields, values, strict=True))


def _json(draw: Draw, size: int) -> str:
    text = json.dumps([_record(draw) for _ in range(size + 1)], indent=draw.choice((None, 2)))
    place = draw.randrange(len(text) // 2, len(text))
    return text if draw.random() < 0.5 else text[:place] + text[place + 1 :]


def _html(draw: Draw, size: int) -> str:
    sections = "\n".join(
        f'  <section id="s{number}">\n    <h2>{draw.choice(words.THINGS).title()}</h2>\n'
        f'    <p class="{draw.choice(words.COLOURS)}">{_sentence(draw)}</p>\n'
        f'    <a href="/{draw.choice(words.FIELDS)}/{draw.randint(1, 99)}">more</a>\n  </section>'
        for number in range(size)
    )
    return f"<html>\n<body>\n{sections}\n</body>\n</html>"


def _table(draw: Draw, size: int) -> str:
    header = draw.sample(words.FIELDS, 4)
    rows = [
        [draw.choice(words.THINGS), *(str(draw.randint(1, 9999)) for _ in range(2)), draw.choice(words.COLOURS)]
        for _ in range(2 * size + 1)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * 4, *rows])


def _dialogue(draw: Draw, size: int) -> str:
    speakers = draw.sample(words.NAMES, 3)
    return "\n".join(
        f"{speakers[number % 3]}: {draw.choice(speakers)}, {draw.choice(words.OPINIONS)}; {_sentence(draw)}"
        for number in range(size + 1)
    )


KINDS: dict[str, tuple[Callable[[Draw, int], str], tuple[str, ...]]] = {
    "code": (_code, words.CODE_TASKS),
    "json": (_json, words.JSON_TASKS),
    "html": (_html, words.HTML_TASKS),
    "prose": (_prose, words.PROSE_TASKS),
    "tables": (_table, words.TABLE_TASKS),
    "dialogue": (_dialogue, words.DIALOGUE_TASKS),
}
