"""From what a decode step and a request gave to the rows of the wire's two schemas."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_core.fingerprint import DIM
from attn_core.head_projection import NUM_COLUMNS, NUM_SKETCH, to_float16
from attn_core.wire import FINGERPRINTS, REQUESTS
from attn_kernels.token_text import RequestTexts


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """The committed tokens of one step, m of them, as host arrays."""

    request_ids: Sequence[str]
    steps: Sequence[int]
    token_ids: Sequence[int]
    asked: Sequence[bool]
    """Whether the request asked for its attention tokens: only then its top-k is published."""
    captured_at_us: int
    context_lens: Sequence[int]
    vectors: npt.NDArray[np.float32]  # [m, 20]
    companions: npt.NDArray[np.float32]  # [m, 4]: sink_mass, prompt_mass, periodicity, residual_mass
    topk_positions: npt.NDArray[np.int32]  # [m, k]
    topk_probs: npt.NDArray[np.float32]  # [m, k]
    last: Sequence[bool] | None = None
    """Whether this token is known to be the last of its answer; None where nothing is known."""
    token_texts: Sequence[str] | None = None
    """Set by the publisher's thread."""
    head_projection: str | None = None
    """Hash of the matrix that made `sketches`; None where there are none."""
    sketches: npt.NDArray[np.float32] | None = None
    """[m, 21]: head_sketch, then zone_evidence; a row that is not of finite numbers has none."""
    head_figures: Sequence[npt.NDArray[np.float32] | None] | None = None
    """For each row the raw figures, [layers * heads * 5], or None; None where no row has any."""


@dataclass(frozen=True, kw_only=True)
class RequestEvent:
    """A request has started or ended."""

    request_id: str
    event: str
    at_us: int
    prompt_len: int
    prompt_token_ids: Sequence[int] | None = None
    """Given once, at the start."""
    prompt_spans: str | Callable[[], str | None] | None = None
    """JSON, or what gives it: that is called on the publisher's thread and must not raise."""
    prompt_token_texts: Sequence[str] | None = None
    """Set by the publisher's thread."""
    sampling_params: dict[str, Any] | None = None
    num_output_tokens: int | None = None
    finish_reason: str | None = None


_OF_THE_STEP = ("captured_at_us", "head_projection")
"""The fields of `StepRows` that all its rows share."""
NO_TOKEN = -1
"""Published in place of an id that no vocabulary holds: the padding of an image is a hash of many bits."""
_INT32_MAX = 2**31 - 1


def published_ids(token_ids: Iterable[int]) -> list[int]:
    """The ids as the wire takes them (int32): `NO_TOKEN` for one that is negative or too large."""
    return [one if 0 <= one <= _INT32_MAX else NO_TOKEN for one in token_ids]


def with_texts(item: StepRows | RequestEvent, texts: RequestTexts) -> StepRows | RequestEvent:
    """The item with the text of each of its tokens; once an item and in order, since `texts` keeps open characters."""
    if isinstance(item, RequestEvent):
        if item.prompt_token_ids is None:
            return item
        return replace(item, prompt_token_texts=texts.texts.prompt(published_ids(item.prompt_token_ids)))
    ids = published_ids(item.token_ids)
    last = item.last or [False] * len(ids)
    found = [
        texts.next(request_id, step=step, token_id=token_id, ends=ends)
        for request_id, step, token_id, ends in zip(item.request_ids, item.steps, ids, last, strict=True)
    ]
    return replace(item, token_texts=found)


def fingerprint_batch(parts: Sequence[StepRows], *, privacy: bool) -> pa.RecordBatch:
    """One record batch of the schema `FINGERPRINTS` from the rows of several steps.

    Raises ValueError where they come from different head projections: a batch names one (`by_projection`).
    """
    if len({p.head_projection for p in parts}) > 1:
        raise ValueError("rows of different head projections in one batch")
    vectors = np.concatenate([p.vectors for p in parts]).astype(np.float32, copy=False)
    companions = np.concatenate([p.companions for p in parts]).astype(np.float32, copy=False)
    token_ids = published_ids(chain.from_iterable(p.token_ids for p in parts))
    num_rows = len(token_ids)
    context_lens = np.fromiter(chain.from_iterable(p.context_lens for p in parts), np.int32, num_rows)
    columns: dict[str, Any] = {
        "request_id": list(chain.from_iterable(p.request_ids for p in parts)),
        "step": np.fromiter(chain.from_iterable(p.steps for p in parts), np.int32, num_rows),
        "captured_at_us": np.repeat([p.captured_at_us for p in parts], [len(p.token_ids) for p in parts]),
        "token_id": None if privacy else token_ids,
        "token_text": None if privacy else list(chain.from_iterable(_texts(p) for p in parts)),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM),
        "context_len": context_lens,
        "sink_mass": companions[:, 0],
        "prompt_mass": companions[:, 1],
        "periodicity": companions[:, 2],
        "topk_positions": None,
        "topk_probs": None,
        "residual_mass": None,
        **_head_columns(parts, num_rows=num_rows),
    }
    asked = np.fromiter(chain.from_iterable(p.asked for p in parts), np.bool_, num_rows)
    if asked.any() and not privacy:
        columns |= _top_columns(parts, asked=asked, context_lens=context_lens, residual_mass=companions[:, 3])
    return _batch(columns, FINGERPRINTS, num_rows=num_rows)


def by_projection(parts: Iterable[StepRows]) -> list[list[StepRows]]:
    """Consecutive steps whose sketches come from one matrix, together: what may be one batch. The order is kept."""
    return [list(group) for _, group in groupby(parts, key=lambda part: part.head_projection)]


def single_rows(item: StepRows | RequestEvent) -> list[StepRows | RequestEvent]:
    """A step's rows, each as a step of its own; an event is single."""
    if isinstance(item, RequestEvent):
        return [item]
    return [
        StepRows(
            **{
                name: None if (values := getattr(item, name)) is None else values[k : k + 1]
                for name in StepRows.__dataclass_fields__
                if name not in _OF_THE_STEP
            },
            **{name: getattr(item, name) for name in _OF_THE_STEP},
        )
        for k in range(len(item.token_ids))
    ]


def request_batch(events: Sequence[RequestEvent], *, privacy: bool) -> pa.RecordBatch:
    """One record batch of the schema `REQUESTS`; privacy leaves the prompt and what quotes it out."""
    prompts = [None if privacy or e.prompt_token_ids is None else published_ids(e.prompt_token_ids) for e in events]
    columns: dict[str, Any] = {
        "request_id": [e.request_id for e in events],
        "event": [e.event for e in events],
        "at_us": [e.at_us for e in events],
        "prompt_len": [e.prompt_len for e in events],
        "prompt_token_ids": prompts,
        "prompt_token_texts": [None if privacy else e.prompt_token_texts for e in events],
        "prompt_spans": [None if privacy else _spans(e) for e in events],
        "sampling_params": [
            None
            if e.sampling_params is None
            else json.dumps(_without_text(e.sampling_params) if privacy else e.sampling_params)
            for e in events
        ],
        "num_output_tokens": [e.num_output_tokens for e in events],
        "finish_reason": [e.finish_reason for e in events],
    }
    return _batch(columns, REQUESTS, num_rows=len(events))


def _texts(part: StepRows) -> Sequence[str | None]:
    return part.token_texts if part.token_texts is not None else [None] * len(part.token_ids)


def _spans(event: RequestEvent) -> str | None:
    return event.prompt_spans() if callable(event.prompt_spans) else event.prompt_spans


def _without_text(sampling_params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sampling_params.items() if name != "stop"}


def _top_columns(
    parts: Sequence[StepRows],
    *,
    asked: npt.NDArray[np.bool_],
    context_lens: npt.NDArray[np.int32],
    residual_mass: npt.NDArray[np.float32],
) -> dict[str, pa.Array]:
    """The top-k of the rows that asked, as lists; a context shorter than k has as many as it has positions."""
    widths = np.repeat([p.topk_positions.shape[1] for p in parts], [len(p.token_ids) for p in parts])
    lengths = np.where(asked, np.minimum(widths, context_lens), 0)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    unasked = pa.array(~asked)
    values: dict[str, list[npt.NDArray[Any]]] = {"topk_positions": [], "topk_probs": []}
    start = 0
    for part in parts:
        end = start + len(part.token_ids)
        kept = np.arange(part.topk_positions.shape[1]) < lengths[start:end, None]
        for name, columns in values.items():
            columns.append(getattr(part, name)[kept])
        start = end
    lists = {
        name: pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(columns)), mask=unasked)
        for name, columns in values.items()
    }
    return lists | {"residual_mass": pa.array(residual_mass, mask=~asked)}


def _head_columns(parts: Sequence[StepRows], *, num_rows: int) -> dict[str, pa.Array | None]:
    """`head_sketch`, `zone_evidence` and `head_figures`: null where a row has none, never NaN."""
    found: dict[str, pa.Array | None] = dict.fromkeys(("head_sketch", "zone_evidence", "head_figures"))
    if any(p.sketches is not None and p.head_projection is not None for p in parts):
        sketches = np.concatenate(
            [
                np.full((len(p.token_ids), NUM_COLUMNS), np.nan, np.float32) if p.sketches is None else p.sketches
                for p in parts
            ]
        )
        absent = ~np.isfinite(sketches).all(axis=1)
        values = to_float16(np.where(absent[:, None], 0, sketches))
        for name, part in (("head_sketch", values[:, :NUM_SKETCH]), ("zone_evidence", values[:, NUM_SKETCH:])):
            flat = pa.array(np.ascontiguousarray(part).reshape(-1))
            found[name] = pa.FixedSizeListArray.from_arrays(flat, part.shape[1], mask=pa.array(absent))
    if any(p.head_figures is not None for p in parts):
        each = list(chain.from_iterable(p.head_figures or [None] * len(p.token_ids) for p in parts))
        given = [None if one is None or not np.isfinite(one).all() else one for one in each]
        lengths = np.fromiter((0 if one is None else len(one) for one in given), np.int32, num_rows)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        flat = np.concatenate([np.empty(0, np.float32), *(one for one in given if one is not None)])
        missing = pa.array([one is None for one in given], pa.bool_())
        found["head_figures"] = pa.ListArray.from_arrays(offsets, pa.array(flat, pa.float32()), mask=missing)
    return found


def _batch(columns: dict[str, Any], schema: pa.Schema, *, num_rows: int) -> pa.RecordBatch:
    """Columns as arrays of the schema's types; None gives nulls."""
    arrays = [
        pa.nulls(num_rows, schema.field(name).type)
        if column is None
        else column
        if isinstance(column, pa.Array)
        else pa.array(column, schema.field(name).type)
        for name, column in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
