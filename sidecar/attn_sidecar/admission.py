"""What a batch must hold before it is stored: the invariants of the contracts, checked on whole columns."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from attn_core.fingerprint import MAX_CONTEXT_LEN, SUM_TOLERANCE, valid_rows, why_invalid
from attn_core.wire import SCHEMAS, Batch, vectors_from_rows

LATEST_INSTANT_US = 2**53 - 1
"""Instants past the year 2255 are no instants, and JavaScript could not hold them exactly."""
MAX_ID_CHARS = 512


def why_refused(batch: Batch) -> str | None:
    """Why this decoded batch cannot be stored, or None where every row holds every invariant.

    The reason begins with a stable word and a colon: ``id``, ``step``, ``instant``, ``vector``, ``context``, ``share``,
    ``topk`` or ``json``.
    """
    return _why_refused(batch.kind, batch.rows) if batch.rows.num_rows else None


def refusals(batches: Sequence[Batch]) -> list[str | None]:
    """`why_refused` of each batch, from one look at all their rows where they are all well."""
    if len(batches) > 1 and all(_together_well(batches, kind) for kind in SCHEMAS):
        return [None] * len(batches)
    return [why_refused(batch) for batch in batches]


def _together_well(batches: Sequence[Batch], kind: str) -> bool:
    parts = [batch.rows for batch in batches if batch.kind == kind and batch.rows.num_rows]
    return not parts or _why_refused(kind, pa.concat_batches(parts)) is None


def _why_refused(kind: str, rows: pa.RecordBatch) -> str | None:
    return _id_reason(rows) or (_fingerprint_reason(rows) if kind == "fingerprints" else _request_reason(rows))


def _id_reason(rows: pa.RecordBatch) -> str | None:
    lengths = pc.utf8_length(rows.column("request_id"))
    limits = pc.min_max(lengths)
    if limits["min"].as_py() < 1 or limits["max"].as_py() > MAX_ID_CHARS:
        return f"id: a request_id has 1 to {MAX_ID_CHARS} characters"
    return None


def _ints(rows: pa.RecordBatch, name: str) -> npt.NDArray[np.int64]:
    values: npt.NDArray[np.int64] = rows.column(name).to_numpy(zero_copy_only=False).astype(np.int64)
    return values


def _outside(values: npt.NDArray[np.int64], *, least: int, most: int) -> int | None:
    """The first row whose value lies outside [least, most]."""
    bad = np.flatnonzero((values < least) | (values > most))
    return int(bad[0]) if bad.size else None


def _fingerprint_reason(rows: pa.RecordBatch) -> str | None:
    steps, at_us, context_len = _ints(rows, "step"), _ints(rows, "captured_at_us"), _ints(rows, "context_len")
    if (i := _outside(steps, least=0, most=2**31 - 1)) is not None:
        return f"step: row {i} has step {steps[i]}; steps count from 0"
    if (i := _outside(at_us, least=0, most=LATEST_INSTANT_US)) is not None:
        return f"instant: row {i} has captured_at_us {at_us[i]}; expected microseconds since 1970"
    if (i := _outside(context_len, least=1, most=MAX_CONTEXT_LEN)) is not None:
        return f"context: row {i} has context_len {context_len[i]}; it lies between 1 and {MAX_CONTEXT_LEN}"
    vectors = vectors_from_rows(rows)
    ok = valid_rows(vectors, context_len)
    if not ok.all():
        i = int(np.flatnonzero(~ok)[0])
        return f"vector: row {i}: {why_invalid(vectors[i : i + 1], context_len[i : i + 1])[0]}"
    for name in ("sink_mass", "prompt_mass", "periodicity"):
        values = rows.column(name).to_numpy(zero_copy_only=False)
        # Written so that NaN, which compares false with everything, is refused too.
        bad = np.flatnonzero(~((values >= 0) & (values <= 1 + SUM_TOLERANCE)))
        if bad.size:
            return f"share: row {bad[0]} has {name} {values[bad[0]]}; it lies between 0 and 1"
    return _topk_reason(rows, context_len)


def _topk_reason(rows: pa.RecordBatch, context_len: npt.NDArray[np.int64]) -> str | None:
    positions, probs = rows.column("topk_positions"), rows.column("topk_probs")
    if positions.null_count == len(positions) and probs.null_count == len(probs):
        return None
    lengths = pc.fill_null(pc.list_value_length(positions), -1).to_numpy(zero_copy_only=False)
    prob_lengths = pc.fill_null(pc.list_value_length(probs), -1).to_numpy(zero_copy_only=False)
    if (lengths != prob_lengths).any():
        i = int(np.flatnonzero(lengths != prob_lengths)[0])
        return f"topk: row {i} has {lengths[i]} positions and {prob_lengths[i]} probabilities"
    where, share = positions.flatten(), probs.flatten()
    if where.null_count or share.null_count:
        return "topk: a position or probability is null"
    ends = np.repeat(context_len, np.maximum(lengths, 0))
    at, p = where.to_numpy(zero_copy_only=False), share.to_numpy(zero_copy_only=False)
    if not ((at >= 0) & (at < ends)).all():
        return "topk: a position lies outside the context"
    if not ((p >= 0) & (p <= 1 + SUM_TOLERANCE)).all():
        return "topk: a probability lies outside 0..1"
    left = rows.column("residual_mass").drop_null().to_numpy(zero_copy_only=False)
    if not ((left >= -SUM_TOLERANCE) & (left <= 1 + SUM_TOLERANCE)).all():
        return "topk: a residual_mass lies outside 0..1"
    return None


def _request_reason(rows: pa.RecordBatch) -> str | None:
    at_us, prompt_len = _ints(rows, "at_us"), _ints(rows, "prompt_len")
    if (i := _outside(at_us, least=0, most=LATEST_INSTANT_US)) is not None:
        return f"instant: row {i} has at_us {at_us[i]}; expected microseconds since 1970"
    if (i := _outside(prompt_len, least=0, most=2**31 - 1)) is not None:
        return f"context: row {i} has prompt_len {prompt_len[i]}; it is at least 0"
    for name, kind in (("prompt_spans", list), ("sampling_params", dict)):
        for i, text in enumerate(rows.column(name).to_pylist()):
            try:
                fits = text is None or isinstance(json.loads(text), kind)
            except (ValueError, RecursionError):
                fits = False
            if not fits:
                return f"json: row {i} has a {name} that is no JSON {'array' if kind is list else 'object'}"
    for name in ("prompt_token_ids", "prompt_token_texts"):
        if rows.column(name).flatten().null_count:
            return f"json: a {name} holds null"
    return None
