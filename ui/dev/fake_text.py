"""Prompts and answers for the fake sidecar, already cut into tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN = re.compile(r"<\|[a-z_]+\|>|\n| {2,}(?= )| ?[A-Za-z]{1,7}| ?\d| ?[^\sA-Za-z\d]| +")


def tokens_of(text: str) -> list[str]:
    """Something like a byte-pair tokenizer's cut: words carry their leading space, long words come in pieces."""
    return TOKEN.findall(text)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A prompt as the chat template lays it out, and the answer that the fake gives."""

    prompt: list[str]
    spans: list[dict[str, object]]
    answer: list[str]


def conversation(messages: list[tuple[str, str]], answer: str) -> Conversation:
    prompt: list[str] = []
    spans: list[dict[str, object]] = []
    for index, (role, text) in enumerate(messages):
        prompt += ["<|im_start|>", role, "\n"]
        start = len(prompt)
        prompt += tokens_of(text)
        spans.append({"message": index, "role": role, "start": start, "end": len(prompt)})
        prompt += ["<|im_end|>", "\n"]
    prompt += ["<|im_start|>", "assistant", "\n"]
    return Conversation(prompt=prompt, spans=spans, answer=[*tokens_of(answer), "<|im_end|>"])


SYSTEM = "You are a helpful assistant. Answer briefly and show your work where it helps."
_PARAGRAPH = (
    "The lighthouse at Skerryvore was built between 1838 and 1844 by Alan Stevenson. Each block of granite was cut on "
    "the island of Mull and carried to the reef by steamer; in winter no landing was possible for weeks. "
)

CONVERSATIONS = [
    conversation(
        [
            ("system", SYSTEM),
            ("user", 'Repair this JSON:\n{"name": "Ada", "tags": ["math", "code"\n  "born": 1815,\n  "alive": false'),
        ],
        '{\n  "name": "Ada",\n  "tags": ["math", "code"],\n  "born": 1815,\n  "alive": false\n}\n\nTwo things were missing: '
        "the bracket and comma after the list of tags, and the closing brace.",
    ),
    conversation(
        [
            ("system", SYSTEM),
            (
                "user",
                "Maria told Sofia that her brother had sold his boat to the man who once owned the harbour. Whose boat?",
            ),
            ("assistant", "It is ambiguous: her may mean Maria or Sofia."),
            ("user", "Take her as Sofia. Who has the boat now, and what did he own before?"),
        ],
        "Sofia's brother sold the boat, so it now belongs to the man who bought it. Before that, he had owned the harbour "
        "itself. Maria only told the story; neither she nor Sofia ever owned the boat.",
    ),
    conversation(
        [("system", SYSTEM), ("user", "Make a table of the squares from 1 to 8.")],
        "| n | n squared |\n|---|---|\n"
        + "".join(f"| {n} | {n * n} |\n" for n in range(1, 9))
        + "\nEach row grows by the next odd number.",
    ),
    conversation(
        [
            ("system", SYSTEM),
            ("user", "Read this carefully.\n\n" + _PARAGRAPH * 14 + "\n\nWho built the lighthouse, and when?"),
        ],
        "Alan Stevenson built it. The work on Skerryvore began in 1838 and ended in 1844, as the text says, with granite "
        "brought from Mull by steamer.",
    ),
    conversation(
        [("user", "Write something about rain.")],
        "Rain does not fall; it arrives. First the smell of it, then a single drop on the window ledge, then the long grey "
        "conversation between roof and gutter. Somewhere a child counts the seconds after a flash. I think of rivers "
        "that have no names yet,\n\n    and of maps\n    that leave them out.",
    ),
]
