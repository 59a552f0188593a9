"""What a row must hold before it is stored: the invariants of the contracts, checked on whole columns.

A row that breaks one is refused alone; the other rows of its batch are stored. Instants that no right clock could have
given are replaced by the sidecar's own (decision 0021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from attn_core.fingerprint import MAX_CONTEXT_LEN, SUM_TOLERANCE, valid_rows, why_invalid
from attn_core.head_projection import HEAD_FIGURES, MAX_HEADS, NUM_EVIDENCE, NUM_HEAD_FIGURES, NUM_SKETCH
from attn_core.wire import SCHEMAS, Batch, vectors_from_rows

LATEST_INSTANT_US = 2**53 - 1
"""Instants past the year 2255 are no instants, and JavaScript could not hold them exactly."""
EARLIEST_INSTANT_US = 1_577_836_800_000_000
"""2020-01-01: older than this software. A clock that was never set begins in 1970."""
MAX_AHEAD_US = 60_000_000
"""How far a sender's clock may run ahead of this machine's before its instants are replaced."""
MAX_ID_CHARS = 512
_INT32_MAX = 2**31 - 1
_INSTANTS = {"fingerprints": "captured_at_us", "requests": "at_us"}
_EVENTS = ("started", "ended")

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Fault = tuple[Bools, Callable[[int], str]]
"""Which rows break an invariant, and how to say so of one."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Prompt positions [start, end) of one message of a chat."""

    message: Annotated[int, Meta(ge=0, le=_INT32_MAX)]
    role: Annotated[str, Meta(max_length=MAX_ID_CHARS)]
    start: Annotated[int, Meta(ge=0, le=_INT32_MAX)]
    end: Annotated[int, Meta(ge=0, le=_INT32_MAX)]


SPANS_DECODER = msgspec.json.Decoder(list[Span])
_JSON_COLUMNS: dict[str, tuple[msgspec.json.Decoder[Any], str]] = {
    "prompt_spans": (SPANS_DECODER, "array of {message, role, start, end}"),
    "sampling_params": (msgspec.json.Decoder(dict[str, Any]), "object"),
}


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What of one batch may be stored, and why the rest may not."""

    batch: Batch | None
    """The batch with the rows that hold every invariant; None where it has rows and none does."""
    refused: list[str] = field(default_factory=list)
    """A reason a refused row, which begins with a stable word and a colon: ``null``, ``event``, ``id``, ``step``,
    ``instant``, ``vector``, ``context``, ``share``, ``topk``, ``sketch`` or ``json``."""
    ahead_us: int = 0
    """How far the newest instant lies ahead of this machine's clock; negative where it lies behind."""
    num_redated: int = 0
    """Rows whose instant no right clock could have given: they carry this machine's."""


def admissions(batches: Sequence[Batch], *, now_us: int) -> list[Admission]:
    """The `Admission` of each decoded batch; from one look at all their rows where they are all well."""
    if len(batches) > 1 and all(_together_well(batches, kind) for kind in SCHEMAS):
        return [_dated(batch, [], now_us=now_us) for batch in batches]
    return [_admission(batch, now_us=now_us) for batch in batches]


def why_no_instant(at_us: int, *, now_us: int) -> str | None:
    """Why no right clock gives this instant at this time of ours, None where one may."""
    if at_us > now_us + MAX_AHEAD_US:
        ahead_s = (at_us - now_us) / 1e6
        return (
            f"captured_at_us lies {ahead_s:.0f} s in the future; {MAX_AHEAD_US // 1_000_000} s are allowed for clocks"
        )
    if at_us < EARLIEST_INSTANT_US:
        return f"captured_at_us is {at_us}, which lies before 2020"
    return None


def _admission(batch: Batch, *, now_us: int) -> Admission:
    rows, refused = batch.rows, list[str]()
    for faults in (_presence_faults, partial(_value_faults, is_named=batch.info.head_projection is not None)):
        reasons = _reasons(rows, faults(batch.kind, rows))
        if reasons:
            refused += reasons.values()
            kept = np.ones(rows.num_rows, dtype=np.bool_)
            kept[list(reasons)] = False
            rows = rows.filter(pa.array(kept))
    if refused and not rows.num_rows:
        return Admission(batch=None, refused=refused)
    return _dated(replace(batch, rows=rows) if refused else batch, refused, now_us=now_us)


def _dated(batch: Batch, refused: list[str], *, now_us: int) -> Admission:
    """Admit these rows, with this machine's instant where theirs lies outside what a right clock could give."""
    name = _INSTANTS[batch.kind]
    at_us = _ints(batch.rows, name)
    if not at_us.size:
        return Admission(batch=batch, refused=refused)
    ahead_us = int(at_us.max()) - now_us
    wrong = (at_us > now_us + MAX_AHEAD_US) | (at_us < EARLIEST_INSTANT_US)
    if not wrong.any():
        return Admission(batch=batch, refused=refused, ahead_us=ahead_us)
    place = batch.rows.schema.get_field_index(name)
    dated = pa.array(np.where(wrong, now_us, at_us), type=pa.int64())
    columns = [dated if k == place else column for k, column in enumerate(batch.rows.columns)]
    rows = pa.RecordBatch.from_arrays(columns, schema=batch.rows.schema)
    return Admission(batch=replace(batch, rows=rows), refused=refused, ahead_us=ahead_us, num_redated=int(wrong.sum()))


def _together_well(batches: Sequence[Batch], kind: str) -> bool:
    parts = [batch.rows for batch in batches if batch.kind == kind and batch.rows.num_rows]
    if not parts:
        return True
    # Each batch names its own matrix: the checks of all rows together take it that it does.
    if kind == "fingerprints" and any(
        batch.info.head_projection is None and batch.rows.column("head_sketch").null_count < batch.rows.num_rows
        for batch in batches
        if batch.kind == kind
    ):
        return False
    rows = pa.concat_batches(parts)
    both = _presence_faults, partial(_value_faults, is_named=True)
    return not any(bad.any() for faults in both for bad, _ in faults(kind, rows))


def _reasons(rows: pa.RecordBatch, faults: Iterator[Fault]) -> dict[int, str]:
    """By row, the first invariant that it breaks."""
    found: dict[int, str] = {}
    for bad, say in faults:
        for i in np.flatnonzero(bad).tolist():
            if i not in found:
                found[i] = say(i)
    return found


def _presence_faults(kind: str, rows: pa.RecordBatch) -> Iterator[Fault]:
    """Rows without what every row has: the checks of values read these columns as a whole."""
    if not rows.num_rows:
        return
    for column in SCHEMAS[kind]:
        if not column.nullable and rows.column(column.name).null_count:
            missing = rows.column(column.name).is_null().to_numpy(zero_copy_only=False)
            yield missing, lambda i, name=column.name: f"null: row {i} has no {name}"  # type: ignore[misc]
    if kind == "requests":
        events = rows.column("event")
        known = pc.fill_null(pc.is_in(events, value_set=pa.array(_EVENTS)), False).to_numpy(zero_copy_only=False)
        yield ~known, lambda i: f"event: row {i} has event {events[i].as_py()!r:.40}; it is 'started' or 'ended'"
    # An id is of text and never empty, and both kinds have it.
    lengths = pc.fill_null(pc.utf8_length(rows.column("request_id")), 0).to_numpy(zero_copy_only=False)
    yield (
        (lengths < 1) | (lengths > MAX_ID_CHARS),
        lambda i: f"id: row {i}: a request_id has 1 to {MAX_ID_CHARS} characters",
    )


def _value_faults(kind: str, rows: pa.RecordBatch, *, is_named: bool) -> Iterator[Fault]:
    """`is_named` says whether the batch names the matrix that made its sketches."""
    if not rows.num_rows:
        return
    name = _INSTANTS[kind]
    at_us = _ints(rows, name)
    yield (
        _outside(at_us, 0, LATEST_INSTANT_US),
        lambda i: f"instant: row {i} has {name} {at_us[i]}; expected microseconds since 1970",
    )
    if kind == "requests":
        yield from _request_faults(rows)
        return
    yield from _fingerprint_faults(rows)
    yield from _sketch_faults(rows, is_named=is_named)
    yield from _figure_faults(rows)


def _fingerprint_faults(rows: pa.RecordBatch) -> Iterator[Fault]:
    steps, context_len = _ints(rows, "step"), _ints(rows, "context_len")
    yield _outside(steps, 0, _INT32_MAX), lambda i: f"step: row {i} has step {steps[i]}; steps count from 0"
    yield (
        _outside(context_len, 1, MAX_CONTEXT_LEN),
        lambda i: f"context: row {i} has context_len {context_len[i]}; it lies between 1 and {MAX_CONTEXT_LEN}",
    )
    vectors = vectors_from_rows(rows)
    yield (
        ~valid_rows(vectors, context_len),
        lambda i: f"vector: row {i}: {why_invalid(vectors[i : i + 1], context_len[i : i + 1])[0]}",
    )
    for name in ("sink_mass", "prompt_mass", "periodicity"):
        values = rows.column(name).to_numpy(zero_copy_only=False)
        # Written so that NaN, which compares false with everything, is refused too.
        yield (
            ~((values >= 0) & (values <= 1 + SUM_TOLERANCE)),
            lambda i, name=name, values=values: f"share: row {i} has {name} {values[i]}; it lies between 0 and 1",  # type: ignore[misc]
        )
    yield from _topk_faults(rows, context_len)


def _topk_faults(rows: pa.RecordBatch, context_len: Ints) -> Iterator[Fault]:
    positions, probs = rows.column("topk_positions"), rows.column("topk_probs")
    if positions.null_count == len(positions) and probs.null_count == len(probs):
        return
    lengths = pc.fill_null(pc.list_value_length(positions), -1).to_numpy(zero_copy_only=False)
    prob_lengths = pc.fill_null(pc.list_value_length(probs), -1).to_numpy(zero_copy_only=False)
    yield (
        lengths != prob_lengths,
        lambda i: f"topk: row {i} has {lengths[i]} positions and {prob_lengths[i]} probabilities",
    )
    ends = np.repeat(context_len, np.maximum(lengths, 0))
    # A null among the values becomes NaN, which lies in no range.
    at = positions.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
    yield (
        _rows_with(~((at >= 0) & (at < ends)), lengths),
        lambda i: f"topk: row {i}: a position lies outside the context",
    )
    p = probs.flatten().to_numpy(zero_copy_only=False)
    yield (
        _rows_with(~((p >= 0) & (p <= 1 + SUM_TOLERANCE)), prob_lengths),
        lambda i: f"topk: row {i}: a probability lies outside 0..1",
    )
    residual = rows.column("residual_mass")
    left = residual.to_numpy(zero_copy_only=False)
    known = residual.is_valid().to_numpy(zero_copy_only=False)
    yield (
        known & ~((left >= -SUM_TOLERANCE) & (left <= 1 + SUM_TOLERANCE)),
        lambda i: f"topk: row {i} has residual_mass {left[i]}; it lies between 0 and 1",
    )


def _sketch_faults(rows: pa.RecordBatch, *, is_named: bool) -> Iterator[Fault]:
    columns = {name: rows.column(name) for name in ("head_sketch", "zone_evidence")}
    if all(column.null_count == len(column) for column in columns.values()):
        return
    sketched, proven = (column.is_valid().to_numpy(zero_copy_only=False) for column in columns.values())
    yield sketched != proven, lambda i: f"sketch: row {i} has one of head_sketch and zone_evidence without the other"
    if not is_named:
        yield sketched, lambda i: f"sketch: row {i} has a head_sketch, and its batch names no head_projection"
    for (name, column), valid, width in zip(
        columns.items(), (sketched, proven), (NUM_SKETCH, NUM_EVIDENCE), strict=True
    ):
        # A null among the values becomes NaN.
        finite = np.isfinite(column.flatten().to_numpy(zero_copy_only=False))
        yield (
            _rows_with(~finite, valid * width),
            lambda i, name=name: f"sketch: row {i} has a {name} that is not of finite numbers",  # type: ignore[misc]
        )


def _figure_faults(rows: pa.RecordBatch) -> Iterator[Fault]:
    column = rows.column("head_figures")
    if column.null_count == len(column):
        return
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    yield (
        (lengths % NUM_HEAD_FIGURES != 0) | (lengths > MAX_HEADS * NUM_HEAD_FIGURES),
        lambda i: (
            f"sketch: row {i} has {lengths[i]} head_figures; a head has {NUM_HEAD_FIGURES}, and there are at most "
            f"{MAX_HEADS} heads"
        ),
    )
    # A null among the values becomes NaN.
    values = column.flatten().to_numpy(zero_copy_only=False)
    yield (
        _rows_with(~np.isfinite(values), lengths),
        lambda i: f"sketch: row {i} has head_figures that are not finite numbers",
    )
    of_row = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_mass = of_row % NUM_HEAD_FIGURES != HEAD_FIGURES.index("entropy")
    within = (values >= -SUM_TOLERANCE) & (values <= 1 + SUM_TOLERANCE)
    yield (
        _rows_with(is_mass & ~within, lengths),
        lambda i: f"sketch: row {i} has a mass among its head_figures that lies outside 0..1",
    )


def _request_faults(rows: pa.RecordBatch) -> Iterator[Fault]:
    prompt_len = _ints(rows, "prompt_len")
    yield (
        _outside(prompt_len, 0, _INT32_MAX),
        lambda i: f"context: row {i} has prompt_len {prompt_len[i]}; it is at least 0",
    )
    for name, (decoder, form) in _JSON_COLUMNS.items():
        texts = rows.column(name).to_pylist()
        bad = np.array([text is not None and not _decodes(decoder, text) for text in texts], dtype=np.bool_)
        yield bad, lambda i, name=name, form=form: f"json: row {i} has a {name} that is no JSON {form}"  # type: ignore[misc]
    for name in ("prompt_token_ids", "prompt_token_texts"):
        column = rows.column(name)
        nulls = column.flatten().is_null().to_numpy(zero_copy_only=False)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        yield _rows_with(nulls, lengths), lambda i, name=name: f"json: row {i} has a {name} that holds null"  # type: ignore[misc]


def _decodes(decoder: msgspec.json.Decoder[Any], text: str) -> bool:
    """Whether this text can be read back, by the same reader that will."""
    try:
        msgspec.json.encode(decoder.decode(text))
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _ints(rows: pa.RecordBatch, name: str) -> Ints:
    values: Ints = rows.column(name).to_numpy(zero_copy_only=False).astype(np.int64)
    return values


def _outside(values: Ints, least: int, most: int) -> Bools:
    found: Bools = (values < least) | (values > most)
    return found


def _rows_with(bad: Bools, lengths: npt.NDArray[Any]) -> Bools:
    """Which rows have a bad value among theirs, where row i has `lengths[i]` of the values."""
    lengths = np.maximum(lengths, 0)
    found = np.zeros(len(lengths), dtype=np.bool_)
    found[np.repeat(np.arange(len(lengths)), lengths)[bad]] = True
    return found
