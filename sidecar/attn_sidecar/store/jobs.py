"""What the writer is given to store, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from attn_core.classify import Classified
from attn_core.head_projection import to_float16
from attn_core.wire import FINGERPRINTS, Batch
from attn_sidecar.classification import Answers, PostedSketch, Rows
from attn_sidecar.sequence_zones import SequenceZone


@dataclass(frozen=True, kw_only=True)
class ArrivedBatch:
    """A decoded and admitted batch from the wire."""

    batch: Batch
    answer: Callable[[str | None], None]
    """Called on the writing thread: with None once the batch is committed, with a reason if it never can be."""
    redated: bool = False
    """Whether rows of it carry this machine's time in place of their own."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A posted fingerprint's answer, given after its commit."""

    stored: bool
    """False where (request_id, step) was held already: then nothing was changed."""


@dataclass(frozen=True, kw_only=True)
class PostedFingerprint:
    """A fingerprint that came over HTTP, checked and classified."""

    request_id: str
    step: int
    captured_at_us: int
    rows: Rows
    answers: Answers
    """Of the same rows."""
    row: int
    """Which of the rows it is."""
    sketch: PostedSketch | None
    answer: Callable[[Stored | Exception], None]
    """Called on the writing thread, after the commit or its failure."""


@dataclass(frozen=True, kw_only=True)
class Committed:
    """What one transaction brought, for those who follow along."""

    newest_id: int
    num_new: int
    num_repeated: int
    run_id: str | None
    tokens: list[tuple[str, pa.RecordBatch, Classified]] = field(default_factory=list)
    """(model_id, rows, answers on arrival), all rows of the transaction that came over the wire."""
    requests: list[tuple[str, pa.RecordBatch]] = field(default_factory=list)
    """(model_id, rows) of each batch of request events."""
    request_zones: Mapping[str, SequenceZone] = field(default_factory=dict)
    """By request id, of the requests that ended in this transaction."""


def rows_from_posted(posted: Sequence[PostedFingerprint]) -> pa.RecordBatch:
    """A row each in the wire's columns, with nulls for what was not said."""
    said: dict[str, list[object]] = {
        "request_id": [one.request_id for one in posted],
        "step": [one.step for one in posted],
        "captured_at_us": [one.captured_at_us for one in posted],
        "vector": [one.rows.vectors[one.row] for one in posted],
        "context_len": [int(one.rows.context_len[one.row]) or None for one in posted],
        "sink_mass": [float(one.rows.sink_mass[one.row]) for one in posted],
        "periodicity": [float(one.rows.periodicity[one.row]) for one in posted],
    }
    sketches = {
        "head_sketch": [None if one.sketch is None else one.sketch.head_sketch for one in posted],
        "zone_evidence": [None if one.sketch is None else one.sketch.zone_evidence for one in posted],
    }
    arrays = [
        # What is NaN among the companions was not said, and is null in the store.
        pa.array(said[field.name], type=field.type, from_pandas=True)
        if field.name in said
        else _float16_lists(sketches[field.name], field.type.list_size)
        if field.name in sketches
        else pa.nulls(len(posted), field.type)
        for field in FINGERPRINTS
    ]
    return pa.RecordBatch.from_arrays(arrays, names=FINGERPRINTS.names)


def _float16_lists(rows: Sequence[Sequence[float] | None], width: int) -> pa.FixedSizeListArray:
    nothing = [0.0] * width
    values = to_float16(np.array([nothing if row is None else row for row in rows], dtype=np.float64))
    missing = pa.array([row is None for row in rows], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width, mask=missing)
