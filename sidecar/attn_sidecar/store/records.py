"""What the store is asked for by HTTP: one token, one request, as the explorer and `/events` see them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np

PREVIEW_CHARACTERS = 120


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One stored fingerprint with everything beside it. Null: not known, or left out in privacy mode."""

    id: int
    request_id: str
    step: int
    captured_at_us: int
    model_id: str | None
    token_id: int | None
    token_text: str | None
    zone: str | None
    confidence: float | None
    cluster_id: int | None
    classified_run_id: str | None
    context_len: int | None
    sink_mass: float | None
    prompt_mass: float | None
    periodicity: float | None
    vector: list[float]
    topk_positions: list[int] | None
    topk_probs: list[float] | None
    residual_mass: float | None


RECORD_COLUMNS = (
    "id, request_id, step, captured_at_us, model_id, token_id, token_text, zone, zone_confidence, cluster_id, "
    "classified_run_id, context_len, sink_mass, prompt_mass, periodicity, vector, topk_positions, topk_probs, "
    "residual_mass"
)


class RequestSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A request in a list. A request that only posted fingerprints has no more than its id and counts."""

    request_id: str
    model_id: str | None
    started_at_us: int | None
    ended_at_us: int | None
    prompt_len: int | None
    num_output_tokens: int | None
    finish_reason: str | None
    num_fingerprints: int
    prompt_preview: str | None
    """The beginning of the last user message, or of the prompt where it has no messages."""


class RequestDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its prompt and every stored token, in order of step."""

    request_id: str
    model_id: str | None
    started_at_us: int | None
    ended_at_us: int | None
    prompt_len: int | None
    prompt_token_ids: list[int] | None
    prompt_token_texts: list[str] | None
    prompt_spans: list[dict[str, Any]] | None
    sampling_params: dict[str, Any] | None
    num_output_tokens: int | None
    finish_reason: str | None
    tokens: list[Token]


def preview_from_prompt(token_texts: str | None, spans: str | None) -> str | None:
    """At most `PREVIEW_CHARACTERS` of the prompt, from the JSON columns of `requests`."""
    if token_texts is None:
        return None
    texts: list[str] = json.loads(token_texts)
    asked = [span for span in json.loads(spans or "[]") if span["role"] == "user"]
    if asked:
        texts = texts[asked[-1]["start"] : asked[-1]["end"]]
    return "".join(texts[:PREVIEW_CHARACTERS]).strip()[:PREVIEW_CHARACTERS]


def token_from_row(row: tuple[object, ...]) -> Token:
    """A `Token` from the columns of `RECORD_COLUMNS`."""
    values = dict(zip(Token.__struct_fields__, row, strict=True))
    for name, dtype in (("vector", "<f4"), ("topk_positions", "<i4"), ("topk_probs", "<f4")):
        blob = values[name]
        if isinstance(blob, bytes):
            values[name] = np.frombuffer(blob, dtype=dtype).tolist()
    return Token(**values)  # type: ignore[arg-type]
