"""Where each chat message's content lies in the tokenised prompt.

In two parts: the HTTP process, which has the chat template, finds the characters of each message (`place_messages`);
the publisher's thread finds their tokens (`token_spans`). Both are linear in the prompt.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from jinja2.exceptions import TemplateError

logger = logging.getLogger(__name__)

_MARKS = (0xF0000, 0x100000)
"""Where two planes of private-use characters begin; no template treats one of them specially."""
_NUM_MARKS = 0xFFFE
_MARK = re.compile("[\U000f0000-\U000ffffd]")
_WHITESPACE = re.compile(r"\s*")
_ONE_BY_ONE_CHARACTERS = 1_000_000
"""What may be rendered to place messages one by one, which takes the whole chat twice for each message."""
_TOKEN_CHARACTERS = 128
"""A text with more of them for each token of the prompt is not the prompt's, and is not tokenised."""
_NO_TEXT = (TemplateError, TypeError, ValueError)
"""What a template that reads its messages' contents raises on one that it does not expect."""

Place = tuple[int, int]
"""Characters of the rendered chat, half-open."""
Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PlacedMessages:
    """A rendered chat, and where each message's content lies in it."""

    text: str
    roles: Sequence[str]
    places: Sequence[Place]
    add_special_tokens: bool

    def to_json(self) -> str:
        """Raises TypeError where the text is no Unicode."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> PlacedMessages:
        """What `to_json` gave; raises TypeError or ValueError for anything else, which a client could send."""
        placed = cls(**orjson.loads(text))
        fields = (placed.text, *placed.roles)
        if not all(isinstance(one, str) for one in fields) or len(placed.places) != len(placed.roles):
            raise TypeError("a chat's places are a text, and a role and two numbers for each message")
        return placed


def place_messages(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    template_options: Mapping[str, Any],
    encode_options: Mapping[str, Any],
) -> PlacedMessages | None:
    """The characters of each message's content, or None where they cannot be said.

    All contents are replaced by a mark each, twice: what two renderings share is the template's own text, and the chat
    must be that text with the contents, at most stripped, in place of the marks. Where it is not, a template whose text
    depends on contents, the messages are replaced one by one; in a long chat that is left out. None where contents are
    not plain text or where the template changes one.
    """
    plain = all(isinstance(m.get("content"), str) and m["content"].strip() for m in messages)
    if encode_options.keys() - {"add_special_tokens"}:
        return None
    if not plain or not getattr(tokenizer, "is_fast", False):  # only fast tokenizers know characters
        return None
    if not all(isinstance(m.get("role"), str) for m in messages):
        return None

    def render(contents: Sequence[str]) -> str:
        changed = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
        return str(tokenizer.apply_chat_template(changed, tokenize=False, **template_options))

    contents: list[str] = [m["content"] for m in messages]
    text = render(contents)
    places = _at_once(render, text, contents)
    if places is None and 2 * len(contents) * len(text) <= _ONE_BY_ONE_CHARACTERS:
        places = _one_by_one(render, text, contents)
    if places is None:
        return None
    return PlacedMessages(
        text=text,
        roles=[m["role"] for m in messages],
        places=places,
        add_special_tokens=bool(encode_options.get("add_special_tokens", False)),
    )


def token_spans(tokenizer: Any, placed: PlacedMessages, *, prompt_ids: Sequence[int]) -> list[dict[str, Any]] | None:
    """``{"message", "role", "start", "end"}`` for each message, in prompt positions, or None where it cannot be said.

    A token that straddles an edge belongs to the span that holds its first character. None where tokenising the text
    does not give `prompt_ids`, or where a message has no token of its own.
    """
    if len(placed.text) > _TOKEN_CHARACTERS * len(prompt_ids):
        return None
    encoded = tokenizer(placed.text, return_offsets_mapping=True, add_special_tokens=bool(placed.add_special_tokens))
    if list(encoded["input_ids"]) != list(prompt_ids):
        return None
    order = sorted(range(len(placed.places)), key=lambda i: placed.places[i])
    begins = [placed.places[i][0] for i in order]
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, (start, _) in enumerate(encoded["offset_mapping"]):
        nearest = bisect_right(begins, start) - 1
        if nearest >= 0 and start < placed.places[order[nearest]][1]:
            message = order[nearest]
            first.setdefault(message, position)
            last[message] = position
    if len(first) < len(order):
        return None
    return [{"message": i, "role": role, "start": first[i], "end": last[i] + 1} for i, role in enumerate(placed.roles)]


def published_spans(tokenizer: Any, placed: str, prompt_ids: Sequence[int]) -> str | None:
    """The spans as they are published, from `PlacedMessages.to_json`; never raises."""
    try:
        spans = token_spans(tokenizer, PlacedMessages.from_json(placed), prompt_ids=prompt_ids)
        return None if spans is None else orjson.dumps(spans).decode()
    except Exception:
        logger.debug("Where messages lie in a prompt is not known.", exc_info=True)
        return None


def _at_once(render: Callable[[Sequence[str]], str], text: str, contents: Sequence[str]) -> list[Place] | None:
    """The places of all contents from two renderings, or None where the template's text depends on contents."""
    if len(contents) > _NUM_MARKS:
        return None
    try:
        first, second = (render([chr(mark + i) for i in range(len(contents))]) for mark in _MARKS)
    except _NO_TEXT:
        return None
    order = [ord(mark) - _MARKS[0] for mark in _MARK.findall(first)]
    shift = _MARKS[1] - _MARKS[0]
    if sorted(order) != list(range(len(contents))) or second != _MARK.sub(lambda m: chr(ord(m[0]) + shift), first):
        return None
    before, *after = _MARK.split(first)
    if not text.startswith(before):
        return None
    places: list[Place] = [(0, 0)] * len(contents)
    position = len(before)
    for i, literal in zip(order, after, strict=True):
        content = contents[i].strip()
        begin = _after_whitespace(text, position)
        if not text.startswith(content, begin):
            return None
        end = _end(text, begin + len(content), literal, is_last=i == order[-1])
        if end is None:
            return None
        places[i] = (position, end)
        position = end + len(literal)
    return places if position == len(text) else None


def _end(text: str, position: int, literal: str, *, is_last: bool) -> int | None:
    """Where a content ends, whose last character but whitespace is before `position` and which `literal` follows.

    None where that is not the text, or where the whitespace could be the content's, the literal's or the next one's.
    """
    after = _after_whitespace(text, position)
    num_own = _after_whitespace(literal, 0)
    if num_own < len(literal) or is_last:
        end = after - num_own
    elif after - position == len(literal):
        end = position
    else:
        return None
    return end if end >= position and text.startswith(literal, end) else None


def _after_whitespace(text: str, position: int) -> int:
    found = _WHITESPACE.match(text, position)
    return position if found is None else found.end()


def _one_by_one(render: Callable[[Sequence[str]], str], text: str, contents: Sequence[str]) -> list[Place] | None:
    """The places of the contents, each from two renderings of its own."""
    places = []
    for i, content in enumerate(contents):
        try:
            variants = [render([*contents[:i], chr(mark), *contents[i + 1 :]]) for mark in _MARKS]
        except _NO_TEXT:
            return None
        place = _difference(text, variants)
        if place is None or text[slice(*place)].strip() != content.strip():
            return None
        places.append(place)
    return places


def _difference(text: str, variants: Sequence[str]) -> Place | None:
    """The characters of `text` that the two variants, which differ in one character, do not share with it."""
    first, second = variants
    begin = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    after = len(first) - begin - 1
    if first[:begin] != text[:begin] or first[begin + 1 :] != second[begin + 1 :] or after > len(text) - begin:
        return None
    if text[len(text) - after :] != first[begin + 1 :]:
        return None
    return begin, len(text) - after
