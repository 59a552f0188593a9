"""Synthetic fingerprints for the unit tests of discovery: valid by construction, of a few plausible kinds, no model.

Tests on fingerprints captured from a real model are in tests/e2e.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa

from attn_core.fingerprint import DIM, valid_rows
from attn_core.head_projection import NUM_EVIDENCE, NUM_SKETCH
from attn_core.store import HOUR_US, insert_fingerprints, open_writer
from attn_core.wire import FINGERPRINTS

PROJECTION = "cd" * 32
"""The hash of the matrix that made the sketches of `draw`: of none that there is."""

# Mass by distance bin (edges 0, 1, 2, 4, 8, 32, 128, 512), evenness, sink mass, periodicity of each kind of token.
KINDS = (
    (np.array([30, 25, 20, 15, 6, 2, 1, 1.0]), 0.25, 0.10, 0.05),
    (np.array([5, 5, 8, 12, 40, 25, 3, 2.0]), 0.55, 0.30, 0.10),
    (np.array([4, 4, 4, 6, 12, 20, 40, 10.0]), 0.70, 0.35, 0.15),
    (np.array([12, 3, 12, 3, 30, 30, 6, 4.0]), 0.45, 0.20, 0.60),
)


def vectors_of(kind: np.ndarray, *, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Vectors and companions of tokens of these kinds (int [m])."""
    count = len(kind)
    template = np.stack([one[0] for one in KINDS])[kind]
    even, sink, period = (np.array([one[i] for one in KINDS])[kind] for i in (1, 2, 3))
    context_len = rng.integers(600, 1500, size=count)
    histogram = rng.gamma(template + 0.5) + 1e-6
    histogram /= histogram.sum(axis=1, keepdims=True)
    within, below = rng.uniform(0.05, 0.15, count), rng.uniform(0.6, 0.8, count)
    local = histogram[:, :4].sum(axis=1) + within * histogram[:, 4]
    mid = (1 - within) * histogram[:, 4] + below * histogram[:, 5]
    ln_n = np.log(context_len)
    evenness = np.clip(even[:, None] + rng.normal(0, 0.03, (count, 9)), 0.02, 0.98)
    vectors = np.zeros((count, DIM))
    vectors[:, :3] = np.column_stack([local, mid, 1 - local - mid])
    vectors[:, 3] = evenness[:, 8] * ln_n
    vectors[:, 4:12] = histogram
    vectors[:, 12:] = evenness[:, :8] * ln_n[:, None]
    sinks = np.clip(sink + rng.normal(0, 0.03, count), 0, 1) * vectors[:, 2:3].ravel()
    return {
        "vector": vectors.astype(np.float32),
        "context_len": context_len.astype(np.int32),
        "sink_mass": sinks.astype(np.float32),
        "periodicity": np.clip(period + rng.normal(0, 0.03, count), 0, 1).astype(np.float32),
    }


def sketches_of(kind: np.ndarray, *, rng: np.random.Generator, apart: float = 3.0) -> np.ndarray:
    """Head sketches of tokens of these kinds (int [m]), float16 [m, 16]: each kind around a place of its own."""
    centre = np.random.default_rng(7).normal(0, apart, size=(len(KINDS), NUM_SKETCH))
    return (centre[kind] + rng.normal(size=(len(kind), NUM_SKETCH))).astype(np.float16)


def draw(
    count: int, *, seed: int, start_us: int, end_us: int, kinds: int = len(KINDS), apart: float = 3.0
) -> pa.RecordBatch:
    """`count` rows of the wire's schema, captured evenly over [start_us, end_us), 50 tokens a request.

    Every other one has a head sketch; `apart` is how far the kinds' sketches lie from one another.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, kinds, size=count)
    drawn = vectors_of(kind, rng=rng)
    assert valid_rows(drawn["vector"], drawn["context_len"]).all()
    index = np.arange(count)
    without_sketch = pa.array(index % 2 == 1)
    columns = {
        "request_id": [f"request-{seed}-{i // 50}" for i in index],
        "step": index % 50,
        "captured_at_us": start_us + index * (end_us - start_us) // max(count, 1),
        "token_text": [f" token{i % 7}" for i in index],
        "vector": _lists(drawn["vector"]),
        "head_sketch": _lists(sketches_of(kind, rng=rng, apart=apart), missing=without_sketch),
        "zone_evidence": _lists(rng.normal(size=(count, NUM_EVIDENCE)).astype(np.float16), missing=without_sketch),
        "prompt_mass": np.full(count, 0.2, dtype=np.float32),
        **{name: drawn[name] for name in ("context_len", "sink_mass", "periodicity")},
    }
    return pa.RecordBatch.from_arrays(
        [
            pa.array(columns[field.name], field.type)
            if isinstance(columns.get(field.name), (list, np.ndarray))
            else columns.get(field.name, pa.nulls(count, field.type))
            for field in FINGERPRINTS
        ],
        schema=FINGERPRINTS,
    )


def _lists(values: np.ndarray, *, missing: pa.BooleanArray | None = None) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1], mask=missing)


def store_rows(db: Path, rows: pa.RecordBatch, *, head_projection: str = PROJECTION) -> int:
    """Write the rows as the sidecar would; returns how many were new."""
    with closing(open_writer(db)) as connection:
        return insert_fingerprints(
            connection, rows, model_id="synthetic", stored_at_us=time.time_ns() // 1000, head_projection=head_projection
        )


# Once: a test that began before the full hour means the same hours after it.
_RUNNING_HOUR_US = time.time_ns() // 1000 // HOUR_US * HOUR_US


def hour_start_us(hours_ago: int) -> int:
    """The first instant of the hour that many hours before the one in which the tests began."""
    return _RUNNING_HOUR_US - hours_ago * HOUR_US
