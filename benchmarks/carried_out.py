"""Whether an answer does what its prompt asked, for the kinds of prompt where a program can tell."""

from __future__ import annotations

import itertools
import json
import re

_JSON = {"json_repair", "structured_output", "commented_json", "line_json", "key_values", "escaping", "quoting"}
_BRACKETS = {"bracket_matching", "parentheses", "expressions"}
_COUNTED = {"counting", "repetition", "sequences", "numbered_names", "drills", "counting_and_tables", "ladders"}
_TABLES = {"tables", "grids", "rows", "ledgers"}
_FACTS = {
    "document_fact", "mixed_document", "register_lookup", "numbered_statements", "journal", "two_texts", "chronicle",
    "inventory", "long_document_fact", "long_document", "conversation", "dialogue",
}  # fmt: skip
_LEAST_IN_A_ROW = 3
_PAIRS = {")": "(", "]": "[", "}": "{"}


def carried_out(family: str, prompt: str, text: str) -> bool | None:
    """Whether `text` does what `prompt` of this kind asks; None where a program cannot tell. Cut answers count."""
    if family in _JSON:
        return _is_json_so_far(text)
    if family in _BRACKETS:
        return _is_balanced(text)
    if family in _COUNTED or family in _TABLES:
        return _counts(text) or text.count("|") >= 2 * _LEAST_IN_A_ROW
    if family in _FACTS:
        return _names_something_rare(prompt, text)
    return None


def _is_json_so_far(text: str) -> bool:
    """Whether JSON of at least three values begins somewhere and goes on without an error to its end or the cut."""
    for match in re.finditer(r"[{\[]", text):
        part = text[match.start() :].split("```")[0].rstrip()
        try:
            _, end = json.JSONDecoder().raw_decode(part)
        except json.JSONDecodeError as error:
            # An error at the very end, or in a string that was never closed, is the cut.
            end = len(part) if error.pos >= len(part) - 1 or "Unterminated" in error.msg else 0
        if end and len(re.findall(r"[:,]", part[:end])) >= _LEAST_IN_A_ROW - 1:
            return True
    return False


def _is_balanced(text: str) -> bool:
    """Whether a line holds at least two pairs of brackets and all of them close."""
    for line in text.splitlines():
        stack: list[str] = []
        pairs = 0
        for sign in line:
            if sign in "([{":
                stack.append(sign)
            elif sign in _PAIRS:
                if not stack or stack.pop() != _PAIRS[sign]:
                    break
                pairs += 1
        else:
            if not stack and pairs >= 2:
                return True
    return False


def _counts(text: str) -> bool:
    """Whether numbers go on in equal steps, at least three of them in a row."""
    numbers = [int(one) for one in re.findall(r"\d{1,6}", text)]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    run = 1
    for before, after in itertools.pairwise(steps):
        run = run + 1 if before == after != 0 else 1
        if run >= _LEAST_IN_A_ROW - 1:
            return True
    return False


def _names_something_rare(prompt: str, text: str) -> bool:
    """Whether the answer holds a number or a name that the prompt holds once, and not in its question."""
    body, _, question = prompt.rpartition("\n")
    said = set(re.findall(r"\b(?:[A-Z][a-zé-ø]{2,}|\d{2,})\b", text)) - set(re.findall(r"\w+", question))
    return any(len(re.findall(rf"\b{re.escape(one)}\b", body)) == 1 for one in said)
