"""The text of single tokens, remembered."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)
UNKNOWN = "\ufffd"
MAX_REMEMBERED = 1_000_000
"""Above any vocabulary: ids that stand for images differ each time, and would fill the memory."""


class TokenTexts:
    """token id -> text. A token that is part of a character gives the replacement character U+FFFD.

    So does an id that the tokenizer cannot decode, whatever it raises: tokenizers are of many kinds, and ids outside
    the vocabulary stand for images. It never raises.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def __call__(self, token_id: int) -> str:
        """The text of one token, with its leading space where it has one."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._decode(token_id)
            if len(self._texts) < MAX_REMEMBERED:
                self._texts[token_id] = text
        return text

    def _decode(self, token_id: int) -> str:
        try:
            text = str(self._tokenizer.decode([token_id]))
        except Exception:
            logger.debug("Token id %s cannot be decoded.", token_id, exc_info=True)
            return UNKNOWN
        try:
            piece = self._tokenizer.convert_ids_to_tokens(token_id)
        except Exception:
            # Not every tokenizer has pieces (SGLang's TiktokenTokenizer has none): then the decoded text is it.
            return text
        # SentencePiece writes a leading space as U+2581, and decoding a token on its own strips it.
        if isinstance(piece, str) and piece.startswith("\u2581") and not text.startswith(" "):
            return " " + text
        return text
