"""Where the sentences of an answer begin and end, in its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SENTENCE_END = re.compile(r"[.!?。！？…]+[\"'”’)\]]*\s+|\n+|[。！？]")


def sentence_ranges(texts: Sequence[str | None]) -> list[tuple[int, int]]:
    """Half-open ranges of tokens, one a sentence; a token belongs to the sentence in which its text begins."""
    starts = [0]
    for text in texts:
        starts.append(starts[-1] + len(text or ""))
    whole = "".join(text or "" for text in texts)
    cuts = [match.end() for match in _SENTENCE_END.finditer(whole)]
    begin, token = 0, 0
    ranges = []
    for cut in [*cuts, len(whole) + 1]:
        # A token of leading space and a word, as " The", opens the sentence that its word opens.
        while token < len(texts) and starts[token] + _indent(texts[token]) < cut:
            token += 1
        if token > begin:
            ranges.append((begin, token))
            begin = token
    return ranges


def _indent(text: str | None) -> int:
    bare = (text or "").lstrip()
    return len(text or "") - len(bare) if bare else 0
