"""Which text each token of a prompt or an answer carries.

A character may be spread over several tokens. It is on the token that completes it, and the tokens before that one
carry "": the texts of all tokens, joined, are the tokenizer's decoding of all ids.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)
UNKNOWN = "\ufffd"
MAX_REMEMBERED = 1_000_000
"""Above any vocabulary: ids that stand for images differ each time, and would fill the memory."""
MAX_OPEN_TOKENS = 64
"""A character has four bytes at most: what is open for longer is no character, and is given as it is decoded."""
MAX_OPEN_REQUESTS = 10_000
_EXACT = {
    "skip_special_tokens": False,
    "clean_up_tokenization_spaces": False,
    "spaces_between_special_tokens": False,
}
"""Decoding as it is: the first option leaves tokens out, the others change spaces that were given already."""


@dataclass
class _Open:
    """Tokens whose last character is not complete."""

    begins: bool
    """Whether they are the beginning of the whole text: some tokenizers strip a space there."""
    ids: list[int] = field(default_factory=list)
    num_given: int = 0
    """Characters of their text that are given already."""


class TokenTexts:
    """Texts of tokens by one tokenizer. Never raises.

    A token that the tokenizer cannot decode, whatever it raises, has U+FFFD: tokenizers are of many kinds, and ids
    outside the vocabulary stand for images.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._options = _accepted(tokenizer)
        self._wholes: dict[int, str | None] = {}
        self._context, self._context_text = self._find_context()

    def prompt(self, token_ids: Sequence[int]) -> list[str]:
        """A text for each token of a whole prompt. A negative id is none and has "".

        What is open at the end is on the last token, as U+FFFD.
        """
        texts: list[str] = []
        waiting: _Open | None = None
        for i, token_id in enumerate(token_ids):
            text, waiting = self.following(waiting, token_id, begins=i == 0, ends=i == len(token_ids) - 1)
            texts.append(text)
        return texts

    def following(
        self, waiting: _Open | None, token_id: int, *, begins: bool = False, ends: bool = False
    ) -> tuple[str, _Open | None]:
        """The text of the token after those that wait, and what waits then."""
        if token_id < 0:
            return "", None
        if waiting is None:
            if not begins and (whole := self._whole(token_id)) is not None:
                return whole, None
            waiting = _Open(begins=begins)
        waiting.ids.append(token_id)
        try:
            text = self._decode(waiting.ids, begins=waiting.begins)
        except Exception:
            logger.debug("Token id %s cannot be decoded.", token_id, exc_info=True)
            return UNKNOWN, None
        # U+FFFD at the end is what the next tokens may change: with byte fallback they may change all in a row.
        complete = text.rstrip(UNKNOWN)
        if ends or complete == text or len(waiting.ids) == MAX_OPEN_TOKENS:
            return text[waiting.num_given :], None
        new = complete[waiting.num_given :]
        waiting.num_given += len(new)
        return new, waiting

    def _whole(self, token_id: int) -> str | None:
        """The text of a token after any complete character; None where its own last character is not complete."""
        if token_id in self._wholes:
            return self._wholes[token_id]
        try:
            text: str | None = self._decode([token_id], begins=False)
        except Exception:
            return None
        if text is not None and text.endswith(UNKNOWN):
            text = None
        if len(self._wholes) < MAX_REMEMBERED:
            self._wholes[token_id] = text
        return text

    def _decode(self, token_ids: Sequence[int], *, begins: bool) -> str:
        """Text of these tokens, at the beginning or after others."""
        if not begins and self._context:
            text = str(self._tokenizer.decode([*self._context, *token_ids], **self._options))
            if text.startswith(self._context_text):
                return text[len(self._context_text) :]
        return str(self._tokenizer.decode(list(token_ids), **self._options))

    def _find_context(self) -> tuple[list[int], str]:
        """Tokens to decode others after, as SentencePiece's decoding strips the space before the first."""
        try:
            ids = list(self._tokenizer.encode("a", add_special_tokens=False))
            return ids, str(self._tokenizer.decode(ids, **self._options))
        except Exception:
            logger.debug("This tokenizer cannot encode a letter: each token is decoded alone.", exc_info=True)
            return [], ""


class RequestTexts:
    """Texts of the tokens of many answers, each given when it is known; state only where a character is open."""

    def __init__(self, texts: TokenTexts) -> None:
        self.texts = texts
        self._open: dict[str, tuple[int, _Open]] = {}
        """By request: the step that comes next, and what waits."""

    def next(self, request_id: str, *, step: int, token_id: int, ends: bool) -> str:
        """The text of one more token of an answer. Where steps are missing, what waited for them is dropped."""
        expected, waiting = self._open.pop(request_id, (step, None))
        if expected != step:
            waiting = None
        text, waiting = self.texts.following(waiting, token_id, ends=ends)
        if waiting is not None:
            self._open[request_id] = step + 1, waiting
            if len(self._open) > MAX_OPEN_REQUESTS:
                del self._open[next(iter(self._open))]
        return text

    def forget(self, request_id: str) -> None:
        """The request has ended."""
        self._open.pop(request_id, None)

    @property
    def num_open(self) -> int:
        """Requests that have an open character."""
        return len(self._open)


class Separate:
    """Stands in for a tokenizer where each token has a text of its own, by a function."""

    def __init__(self, text_of: Callable[[int], str]) -> None:
        self._text_of = text_of

    def decode(self, token_ids: Sequence[int]) -> str:
        """The texts, joined."""
        return "".join(map(self._text_of, token_ids))


def _accepted(tokenizer: Any) -> dict[str, bool]:
    """Those of our options that this tokenizer's decode takes."""
    try:
        parameters = inspect.signature(tokenizer.decode).parameters
    except (AttributeError, TypeError, ValueError):  # no decode at all, or one without a signature
        return {}
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return _EXACT
    return {name: value for name, value in _EXACT.items() if name in parameters}
