"""The built-in mix of prompts: a few of each kind of work, so that attention has reasons to differ."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("json_repair", "coreference", "counting_and_tables", "long_document", "open_ended")


@dataclass(frozen=True)
class Prompt:
    """One request of the demo."""

    kind: str
    text: str
    max_tokens: int
    temperature: float = 0.0


_BROKEN_JSON = (
    '{"name": "Ada", "born": 1815, "tags": ["math", "poetry", }',
    '{"order": {"id": 17, "lines": [{"sku": "A-1", "qty": 2}, {"sku": "B-7" "qty": 1}]}',
    "{'city': 'Bergen', 'rain': true, 'days': [1, 2, 3,], }",
    '[{"k": "v"}, {"k": "w", {"k": "x"}]',
)

_STORIES = (
    "Maria gave Anna the key because she was leaving town. Later that evening she called her to ask whether the door "
    "was locked. Explain, sentence by sentence, who 'she' and 'her' refer to.",
    "The trophy did not fit in the suitcase because it was too big, so Tom bought another one. What was too big, and "
    "what did Tom buy? Explain how you know.",
    "Dr. Okafor met the new nurse and the surgeon. The latter had trained her; the former had only heard of her. Who "
    "trained whom? Answer with the names or roles.",
    "Lena's brother asked his teacher whether he could hand in his essay late, and he agreed. Who agreed, and whose "
    "essay is it? Give your reasons.",
)

_COUNTING = (
    "Count from 1 to 40, one number a line, and nothing else.",
    "Write a table in Markdown with the columns n, n squared and n cubed for n from 1 to 12.",
    "List the letters of the alphabet with their position, like this: A=1, B=2, C=3, and so on to Z.",
    "Print a Python dictionary, indented by four spaces, that maps each month's name to its number of days.",
)

_NOTES = (
    "The lighthouse at Skarvøy was built in 1868 by the engineer Ingrid Dahl, who had learned her trade on the canals.",
    "Its first lamp burned colza oil; in 1889 paraffin took its place, and in 1931 a diesel generator.",
    "The keeper's family kept two goats and a garden of potatoes behind a wall of beach stones.",
    "In the storm of January 1917 the boathouse was lost, and the keeper Olav Berg rowed eleven people to safety.",
    "A weather log was kept every three hours. Most entries are dull: wind west, six, rain, visibility poor.",
    "The school on the island had nine pupils in 1902, four in 1935, and closed in 1951.",
    "When the harbour was dredged in 1954, divers found a bronze bell marked with the year 1743.",
    "The bell hangs today in the church at Nordvik, where it is rung on the first Sunday of Advent.",
    "In 1972 the light was made automatic. The last keeper, Solveig Berg, was Olav's granddaughter.",
    "She wrote down the recipes of the island; the best known is a soup of dried fish, barley and dulse.",
    "Seabirds are counted each May. In 2003 there were 412 pairs of kittiwakes, in 2019 only 96.",
    "The path from the pier to the tower has 231 steps, and a rope rail that is renewed every spring.",
)

_QUESTIONS = (
    "Who built the lighthouse, and in which year?",
    "Where is the bronze bell today, and what year is marked on it?",
    "Who was the last keeper, and how was she related to Olav Berg?",
    "How many pairs of kittiwakes were counted in 2003 and in 2019?",
)

_OPEN = (
    "Imagine a city where it rains upwards. Describe a morning there.",
    "Write a short poem about a machine that learns to be quiet.",
    "What might people in the year 2500 find strange about how we live?",
    "Invent a new sport and tell me about its most famous match.",
)


def _document(repeats: int) -> str:
    paragraphs = [" ".join(_NOTES[k:] + _NOTES[:k]) for k in range(repeats)]
    return "\n\n".join(paragraphs)


def prompt_mix(*, scale: float = 1.0) -> list[Prompt]:
    """The demo's requests, kinds interleaved. `scale` stretches the length of the answers."""
    length = {"json_repair": 64, "coreference": 80, "counting_and_tables": 110, "long_document": 48, "open_ended": 110}
    tokens = {kind: max(1, round(length[kind] * scale)) for kind in KINDS}
    mixed: list[Prompt] = []
    for k in range(4):
        document = f"Read these notes about an island.\n\n{_document(2)}\n\nQuestion: {_QUESTIONS[k]}"
        repair = f"Repair this JSON and print only the repaired JSON:\n{_BROKEN_JSON[k]}"
        mixed += [
            Prompt("json_repair", repair, tokens["json_repair"]),
            Prompt("coreference", _STORIES[k], tokens["coreference"]),
            Prompt("counting_and_tables", _COUNTING[k], tokens["counting_and_tables"]),
            Prompt("long_document", document, tokens["long_document"]),
            Prompt("open_ended", _OPEN[k], tokens["open_ended"], temperature=0.8),
        ]
    return mixed
