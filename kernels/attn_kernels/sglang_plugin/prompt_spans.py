"""Where each chat message's content lies in the tokenised prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

_SENTINELS = ("\ue000", "\uf8ff")
"""Two private-use characters that no template treats specially and no message is expected to begin with."""


def prompt_spans(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    prompt_ids: Sequence[int],
    template_options: Mapping[str, Any],
    encode_options: Mapping[str, Any],
) -> list[dict[str, Any]] | None:
    """``{"message", "role", "start", "end"}`` for each message, in prompt positions, or None where it cannot be said.

    A message's place is found by rendering the template again with the message's content replaced by a sentinel: what
    the two texts share before and after it is not the message's. A token that straddles an edge belongs to the span
    that holds its first character. None where contents are not plain text, where the template changes a content, or
    where tokenising the text again does not give `prompt_ids`.
    """
    plain = all(isinstance(m.get("content"), str) and m["content"].strip() for m in messages)
    if not plain or not getattr(tokenizer, "is_fast", False):  # only fast tokenizers know characters
        return None

    def render(with_messages: Sequence[Mapping[str, Any]]) -> str:
        return str(tokenizer.apply_chat_template(list(with_messages), tokenize=False, **template_options))

    text = render(messages)
    places = []
    for i, message in enumerate(messages):
        try:
            variants = [render(_replaced(messages, i, sentinel)) for sentinel in _SENTINELS]
        except (TemplateError, TypeError, ValueError):
            return None  # a template that reads its messages' contents, and did not like the sentinel
        place = _place(text, variants)
        if place is None or text[slice(*place)].strip() != message["content"].strip():
            return None
        places.append(place)
    encoded = tokenizer(text, return_offsets_mapping=True, **{"add_special_tokens": False, **encode_options})
    if list(encoded["input_ids"]) != list(prompt_ids):
        return None
    starts = [start for start, _ in encoded["offset_mapping"]]
    spans = []
    for i, (begin, end) in enumerate(places):
        inside = [position for position, start in enumerate(starts) if begin <= start < end]
        if not inside:
            return None
        spans.append({"message": i, "role": messages[i]["role"], "start": inside[0], "end": inside[-1] + 1})
    return spans


def _replaced(messages: Sequence[Mapping[str, Any]], i: int, content: str) -> list[Mapping[str, Any]]:
    return [*messages[:i], {**messages[i], "content": content}, *messages[i + 1 :]]


def _place(text: str, variants: Sequence[str]) -> tuple[int, int] | None:
    """The characters of `text` that the two variants, which differ in one character, do not share with it."""
    first, second = variants
    begin = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    after = len(first) - begin - 1
    if first[:begin] != text[:begin] or first[begin + 1 :] != second[begin + 1 :] or after > len(text) - begin:
        return None
    if text[len(text) - after :] != first[begin + 1 :]:
        return None
    return begin, len(text) - after
