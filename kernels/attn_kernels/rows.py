"""From what a decode step and a request gave to the rows of the wire's two schemas."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_core.fingerprint import DIM
from attn_core.wire import FINGERPRINTS, REQUESTS


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


@dataclass(frozen=True, kw_only=True)
class RequestEvent:
    """A request has started or ended."""

    request_id: str
    event: str
    at_us: int
    prompt_len: int
    prompt_token_ids: Sequence[int] | None = None
    """Given once, at the start."""
    prompt_spans: str | None = None
    sampling_params: dict[str, Any] | None = None
    num_output_tokens: int | None = None
    finish_reason: str | None = None


def fingerprint_batch(parts: Sequence[StepRows], *, text_of: Callable[[int], str], privacy: bool) -> pa.RecordBatch:
    """One record batch of the schema `FINGERPRINTS` from the rows of several steps."""
    vectors = np.concatenate([p.vectors for p in parts]).astype(np.float32, copy=False)
    companions = np.concatenate([p.companions for p in parts]).astype(np.float32, copy=False)
    token_ids = [t for p in parts for t in p.token_ids]
    num_rows = len(token_ids)
    nothing = [None] * num_rows
    positions: list[Any] = nothing
    probs: list[Any] = nothing
    residual: list[Any] = nothing
    if not privacy:
        top = [_top(p, i) if p.asked[i] else (None, None, None) for p in parts for i in range(len(p.token_ids))]
        positions, probs, residual = ([row[c] for row in top] for c in range(3))
    columns: dict[str, Any] = {
        "request_id": [r for p in parts for r in p.request_ids],
        "step": [s for p in parts for s in p.steps],
        "captured_at_us": [p.captured_at_us for p in parts for _ in p.token_ids],
        "token_id": nothing if privacy else token_ids,
        "token_text": nothing if privacy else [text_of(t) for t in token_ids],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM),
        "context_len": [n for p in parts for n in p.context_lens],
        "sink_mass": companions[:, 0],
        "prompt_mass": companions[:, 1],
        "periodicity": companions[:, 2],
        "topk_positions": positions,
        "topk_probs": probs,
        "residual_mass": residual,
    }
    return _batch(columns, FINGERPRINTS)


def request_batch(events: Sequence[RequestEvent], *, text_of: Callable[[int], str], privacy: bool) -> pa.RecordBatch:
    """One record batch of the schema `REQUESTS`; privacy leaves the prompt and what quotes it out."""
    prompts = [None if privacy else e.prompt_token_ids for e in events]
    columns: dict[str, Any] = {
        "request_id": [e.request_id for e in events],
        "event": [e.event for e in events],
        "at_us": [e.at_us for e in events],
        "prompt_len": [e.prompt_len for e in events],
        "prompt_token_ids": prompts,
        "prompt_token_texts": [None if ids is None else [text_of(t) for t in ids] for ids in prompts],
        "prompt_spans": [None if privacy else e.prompt_spans for e in events],
        "sampling_params": [
            None
            if e.sampling_params is None
            else json.dumps(_without_text(e.sampling_params) if privacy else e.sampling_params)
            for e in events
        ],
        "num_output_tokens": [e.num_output_tokens for e in events],
        "finish_reason": [e.finish_reason for e in events],
    }
    return _batch(columns, REQUESTS)


def _without_text(sampling_params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sampling_params.items() if name != "stop"}


def _top(part: StepRows, i: int) -> tuple[Any, Any, float]:
    kept = min(part.topk_positions.shape[1], part.context_lens[i])
    return part.topk_positions[i, :kept], part.topk_probs[i, :kept], float(part.companions[i, 3])


def _batch(columns: dict[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, schema.field(name).type)
        for name, column in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
