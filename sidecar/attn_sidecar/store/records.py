"""What the store is asked for by HTTP: one token, one request, as the explorer and `/events` see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from attn_core.classify import Classifier
from attn_core.zones import ZONES
from attn_sidecar.admission import SPANS_DECODER, Span
from attn_sidecar.classification import STORED, Characteristic, PostedSketch, answers_of, rows_from_stored
from attn_sidecar.sequence_zones import SentenceZone

PREVIEW_CHARACTERS = 120
_HAS_ZONE = (
    "EXISTS (SELECT 1 FROM tokens t WHERE t.request_no = (SELECT n.request_no FROM request_numbers n "
    "WHERE n.request_id = r.request_id) AND t.zone_no = (SELECT label_no FROM labels WHERE label = ?))"
)
_HAS_RESPONSE_ID = (
    "r.request_id IN (WITH x (id) AS (SELECT ?) SELECT id FROM x UNION ALL "
    "SELECT u.request_id FROM reused_ids AS u JOIN x ON u.response_id = x.id)"
)


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
    head_sketch: list[float] | None
    zone_evidence: list[float] | None
    head_projection: str | None
    """Hash of the matrix that made the sketch; null in a list that says it once for all its tokens."""
    characteristic: Characteristic | None
    """What speaks most for `zone`, by the served formula of the token's model; null where there is no zone."""


RECORD_COLUMNS = (
    "id, request_id, step, captured_at_us, model_id, token_id, token_text, zone, zone_confidence, cluster_id, "
    "classified_run_id, context_len, sink_mass, prompt_mass, periodicity, vector, topk_positions, topk_probs, "
    "residual_mass, head_sketch, zone_evidence, head_projection"
)


_BLOBS = tuple(
    (name, np.dtype(form))
    for name, form in (
        ("vector", "<f4"), ("topk_positions", "<i4"), ("topk_probs", "<f4"), ("head_sketch", "<f2"),
        ("zone_evidence", "<f2"),
    )
)  # fmt: skip


class RequestSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A request in a list. A request that only posted fingerprints has no more than its id and counts."""

    request_id: str
    response_id: str
    """The id that the OpenAI answer carries: another than `request_id` where a client used its id again."""
    model_id: str | None
    started_at_us: int | None
    ended_at_us: int | None
    prompt_len: int | None
    num_output_tokens: int | None
    finish_reason: str | None
    num_fingerprints: int
    zone: str | None
    """Of the whole answer as of its end; of a running request, of its latest 2,000 tokens. Null before its first."""
    zone_confidence: float | None
    """0..1"""
    prompt_preview: str | None
    """The beginning of the last user message, or of the prompt where it has no messages."""


@dataclass(frozen=True, kw_only=True)
class RequestFilter:
    """Which requests are asked for. None: no bound."""

    after: tuple[int | None, str] | None = None
    """(started_at_us, request_id) of the last request that was seen."""
    model_id: str | None = None
    from_us: int | None = None
    to_us: int | None = None
    """Exclusive; of `started_at_us`."""
    zone: str | None = None
    """With at least one token of this zone."""
    request_zone: str | None = None
    """Ended in this zone."""
    response_id: str | None = None
    """Whose OpenAI answer carries this id."""

    def conditions(self, part: str) -> tuple[str, list[object]]:
        """SQL and its values for the requests ``started``, or for those whose start is ``unknown``."""
        found: list[tuple[str, object]] = []
        if part == "started":
            sql = ["r.started_at_us IS NOT NULL"]
            if self.after is not None:
                sql.append("(r.started_at_us, r.request_id) < (?, ?)")
            values: list[object] = [*(self.after or ())]
        else:
            sql = ["r.started_at_us IS NULL"]
            values = []
            if self.after is not None and self.after[0] is None:
                found.append(("r.request_id < ?", self.after[1]))
        for condition, value in (
            ("r.model_id = ?", self.model_id),
            ("r.started_at_us >= ?", self.from_us),
            ("r.started_at_us < ?", self.to_us),
            (_HAS_ZONE, self.zone),
            ("r.zone = ?", self.request_zone),
            (_HAS_RESPONSE_ID, self.response_id),
        ):
            if value is not None:
                found.append((condition, value))
        return " AND ".join([*sql, *(condition for condition, _ in found)]), values + [value for _, value in found]


class RequestDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its prompt and every stored token, in order of step."""

    request_id: str
    response_id: str
    """The id that the OpenAI answer carries: another than `request_id` where a client used its id again."""
    same_response_id: list[str]
    """The request ids of all answers that carry it, by their beginnings; this one alone, as a rule."""
    model_id: str | None
    started_at_us: int | None
    ended_at_us: int | None
    prompt_len: int | None
    prompt_token_ids: list[int] | None
    prompt_token_texts: list[str] | None
    prompt_spans: list[Span] | None
    sampling_params: dict[str, Any] | None
    num_output_tokens: int | None
    finish_reason: str | None
    zone: str | None
    """Of the whole answer as of its end; of a running request, of all its tokens so far. Null before its first."""
    zone_confidence: float | None
    """0..1"""
    head_projection: str | None
    """Hash of the matrix that made the sketches of `tokens`; null where there are none, or where they differ in it and
    each token says its own."""
    tokens: list[Token]
    sentences: list[SentenceZone] | None
    """Of `tokens`, each with the zone of its tokens' mean evidence; null where texts are missing (privacy mode)."""
    unreadable: list[str]
    """Fields of the request whose stored content is damaged or foreign: they are null."""
    next_step: int | None
    """Where the next answer begins (`from_step`), null where these tokens are the last."""


def preview_from_prompt(token_texts: str | None, spans: str | None) -> str | None:
    """At most `PREVIEW_CHARACTERS` of the prompt, from the JSON columns of `requests`; None where it is unreadable."""
    if token_texts is None:
        return None
    texts: list[str] | None = read_json(token_texts, TEXTS_DECODER)
    if texts is None:
        return None
    asked = [span for span in read_json(spans or "[]", SPANS_DECODER) or [] if span.role == "user"]
    if asked:
        texts = texts[asked[-1].start : asked[-1].end]
    return "".join(texts[:PREVIEW_CHARACTERS]).strip()[:PREVIEW_CHARACTERS]


TEXTS_DECODER = msgspec.json.Decoder(list[str])
JSON_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "prompt_token_texts": TEXTS_DECODER,
    "prompt_spans": SPANS_DECODER,
    "sampling_params": msgspec.json.Decoder(dict[str, Any]),
}
"""Of the columns of `requests` that hold JSON."""


def read_json(text: str, decoder: msgspec.json.Decoder[Any]) -> Any:
    """What a stored text holds, None where it is not what this column holds: an older or a foreign writer's."""
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def ids_from_blob(blob: bytes) -> list[int] | None:
    """The int32 numbers of a stored blob, None where it is no whole number of them."""
    return np.frombuffer(blob, dtype="<i4").tolist() if len(blob) % 4 == 0 else None


def tokens_from_rows(rows: Sequence[tuple[Any, ...]], *, classifier: Classifier) -> list[Token]:
    """A `Token` for each row of the columns of `RECORD_COLUMNS`, in order."""
    columns = [name for name in Token.__struct_fields__ if name != "characteristic"]
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    reasons = _characteristics(records, classifier)
    for record in records:
        for name, dtype in _BLOBS:
            if record[name] is not None:
                # A blob of another length is foreign: what is whole of it would be shown at the wrong places.
                whole = len(record[name]) % dtype.itemsize == 0
                record[name] = np.frombuffer(record[name], dtype=dtype).tolist() if whole else None
    return [Token(**record, characteristic=reason) for record, reason in zip(records, reasons, strict=True)]


def sketch_of_token(token: Token) -> PostedSketch | None:
    """The token's head sketch, None where it has none."""
    if token.head_sketch is None or token.zone_evidence is None or token.head_projection is None:
        return None
    return PostedSketch(
        head_sketch=token.head_sketch, zone_evidence=token.zone_evidence, head_projection=token.head_projection
    )


def with_one_projection(tokens: Sequence[Token]) -> tuple[str | None, list[Token]]:
    """The matrix of all their sketches, and the tokens without it: 64 characters that each token would repeat.

    None, and the tokens as they are, where they differ in it.
    """
    matrices = {token.head_projection for token in tokens if token.head_sketch is not None}
    if len(matrices) != 1:
        return None, list(tokens)
    return matrices.pop(), [msgspec.structs.replace(token, head_projection=None) for token in tokens]


def _characteristics(records: Sequence[dict[str, Any]], classifier: Classifier) -> list[Characteristic | None]:
    """What speaks most for the zone that each token was given on arrival; None where it has none that is known."""
    found: list[Characteristic | None] = [None] * len(records)
    by_model: dict[str | None, list[int]] = {}
    for i, record in enumerate(records):
        if record["zone"] in ZONES:
            by_model.setdefault(record["model_id"], []).append(i)
    for model_id, members in by_model.items():
        rows = rows_from_stored([tuple(records[i][name] for name in STORED) for i in members])
        answers = answers_of(classifier, rows, model_id=model_id)
        for row, i in enumerate(members):
            if answers.invalid[row] is None:
                found[i] = answers.characteristic(row, zone=ZONES.index(records[i]["zone"]))
    return found
