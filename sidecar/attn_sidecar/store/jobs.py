"""What the writer is given to store, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from attn_core.classify import Classified
from attn_core.wire import FINGERPRINTS, Batch
from attn_sidecar.manifold import Manifold, Question


@dataclass(frozen=True, kw_only=True)
class ArrivedBatch:
    """A decoded and admitted batch from the wire."""

    batch: Batch
    answer: Callable[[str | None], None]
    """Called on the writing thread: with None once the batch is committed, with a reason if it never can be."""


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
    question: Question
    manifold: Manifold
    run_id: str | None
    """The run that classified it."""
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


def row_from_posted(posted: PostedFingerprint) -> pa.RecordBatch:
    """A batch of one row in the wire's columns, with nulls for what was not said."""
    q = posted.question
    values: dict[str, object] = {
        "request_id": posted.request_id,
        "step": posted.step,
        "captured_at_us": posted.captured_at_us,
        "vector": q.vector,
        "context_len": q.context_len,
        "sink_mass": q.sink_mass,
        "periodicity": q.periodicity,
    }
    return pa.RecordBatch.from_arrays(
        [pa.array([values.get(field.name)], type=field.type) for field in FINGERPRINTS], names=FINGERPRINTS.names
    )
