"""Random attention rows and their fingerprints, straight from the definition: the input of the core tests.

Not captured from a model (the model server's own tests do that); every vector here belongs to a real distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_core.fingerprint import DIM, HISTOGRAM_EDGES
from attn_core.head_projection import NUM_EVIDENCE, NUM_HEAD_FIGURES, NUM_SKETCH
from attn_core.wire import FINGERPRINTS

PROJECTION = "ab" * 32
"""The hash of the matrix that made the sketches of `wire_rows`: of none that there is."""


def entropy_nats(p: npt.NDArray[np.float64]) -> float:
    inside = p[p > 0]
    return float(-(inside * np.log(inside)).sum())


def fingerprint_of(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """float32 [20] from probabilities [8 layers, heads, n]."""
    mean = rows.mean(axis=(0, 1))
    distance = len(mean) - 1 - np.arange(len(mean))
    edges = [*HISTOGRAM_EDGES, np.inf]
    masses = [mean[(distance >= a) & (distance < b)].sum() for a, b in ((0, 10), (10, 100), (100, np.inf))]
    histogram = [mean[(distance >= a) & (distance < b)].sum() for a, b in pairwise(edges)]
    layers = [np.mean([entropy_nats(head) for head in layer]) for layer in rows]
    return np.array([*masses, entropy_nats(mean), *histogram, *layers], dtype=np.float32)


@dataclass(frozen=True)
class Drawn:
    vectors: npt.NDArray[np.float32]
    context_len: npt.NDArray[np.int32]
    sink_mass: npt.NDArray[np.float32]
    periodicity: npt.NDArray[np.float32]


def draw(count: int, *, seed: int, longest: int = 700) -> Drawn:
    """`count` tokens with contexts of 1..longest positions, sharp and flat, near and far."""
    rng = np.random.default_rng(seed)
    vectors = np.zeros((count, DIM), dtype=np.float32)
    lengths = rng.integers(1, longest + 1, size=count).astype(np.int32)
    sinks = np.zeros(count, dtype=np.float32)
    for i, n in enumerate(lengths):
        scores = rng.normal(size=(8, 2, n)) * rng.uniform(0.1, 6)
        scores -= rng.uniform(0, 2) * np.log1p(np.arange(n)[::-1])
        scores[..., 0] += rng.uniform(0, 8)
        rows = np.exp(scores - scores.max(axis=-1, keepdims=True))
        rows /= rows.sum(axis=-1, keepdims=True)
        vectors[i] = fingerprint_of(rows)
        sinks[i] = rows.mean(axis=(0, 1))[:4].sum()
    return Drawn(vectors, lengths, np.minimum(sinks, 1), rng.uniform(0, 1, count).astype(np.float32))


def wire_rows(drawn: Drawn, *, request_id: str = "r", start_us: int = 1_700_000_000_000_000) -> pa.RecordBatch:
    """The drawn tokens as the steps of one request, a row of `FINGERPRINTS` each.

    Every third has no top-k, every fourth no head sketch; every fifth has raw head figures, of two heads.
    """
    count = len(drawn.vectors)
    with_topk = [i % 3 != 2 for i in range(count)]
    without_sketch = pa.array([i % 4 == 3 for i in range(count)], pa.bool_())
    rng = np.random.default_rng(count)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([request_id] * count),
            pa.array(range(count), pa.int32()),
            pa.array([start_us + i * 1000 for i in range(count)], pa.int64()),
            pa.array(range(count), pa.int32()),
            pa.array([f" t{i}" for i in range(count)]),
            pa.FixedSizeListArray.from_arrays(pa.array(drawn.vectors.ravel(), pa.float32()), DIM),
            pa.array(drawn.context_len, pa.int32()),
            pa.array(drawn.sink_mass, pa.float32()),
            pa.array(drawn.sink_mass * 0, pa.float32()),
            pa.array(drawn.periodicity, pa.float32()),
            pa.array([[0, i] if ok else None for i, ok in enumerate(with_topk)], pa.list_(pa.int32())),
            pa.array([[0.5, 0.25] if ok else None for ok in with_topk], pa.list_(pa.float32())),
            pa.array([0.25 if ok else None for ok in with_topk], pa.float32()),
            *(
                pa.FixedSizeListArray.from_arrays(
                    pa.array(rng.normal(size=count * width).astype(np.float16)), width, mask=without_sketch
                )
                for width in (NUM_SKETCH, NUM_EVIDENCE)
            ),
            pa.array(
                [rng.uniform(size=2 * NUM_HEAD_FIGURES) if i % 5 == 0 else None for i in range(count)],
                pa.list_(pa.float32()),
            ),
        ],
        schema=FINGERPRINTS,
    )
