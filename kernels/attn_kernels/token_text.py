"""The text of single tokens, remembered."""

from __future__ import annotations

from typing import Any


class TokenTexts:
    """token id -> text. A token that is part of a character gives the replacement character U+FFFD."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def __call__(self, token_id: int) -> str:
        """The text of one token, with its leading space where it has one."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._decode(token_id)
        return text

    def _decode(self, token_id: int) -> str:
        text = str(self._tokenizer.decode([token_id]))
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        # SentencePiece writes a leading space as U+2581, and decoding a token on its own strips it.
        if isinstance(piece, str) and piece.startswith("\u2581") and not text.startswith(" "):
            return " " + text
        return text
