"""Vectors drawn to have a zone's characteristic: the last column of the table in `attn_core.zones`.

Each is the fingerprint of a real distribution where that is easy to make, and else numbers that keep every invariant.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from attn_core.fingerprint import DIM, HISTOGRAM_EDGES, valid_rows
from attn_core.zones import ZONES


@dataclass(frozen=True)
class Companioned:
    """m vectors with their companions, and the zone that they must be given."""

    vectors: np.ndarray
    context_len: np.ndarray
    sink_mass: np.ndarray
    periodicity: np.ndarray
    zone_index: np.ndarray

    def known(self) -> dict[str, np.ndarray]:
        """The companions as keyword arguments."""
        return {name: getattr(self, name) for name in ("context_len", "sink_mass", "periodicity")}


def vector_of(shares, *, evenness, n, sink, rng) -> np.ndarray:
    """float32 [20] with these local, mid and long shares and this evenness beyond the sink.

    A share is spread over the bins of the histogram that its distance class meets within the context; the sink's mass
    lies in the farthest class and bin.
    """
    masses = np.array(shares, dtype=np.float64) / np.sum(shares) * (1 - sink)
    classes = ((0, 10), (10, 100), (100, 10**9))
    edges = [*HISTOGRAM_EDGES, 10**9]
    histogram = np.zeros(8)
    for (low, high), mass in zip(classes, masses, strict=True):
        widths = np.array([max(min(high, b, n - 4) - max(low, a), 0) for a, b in pairwise(edges)])
        parts = rng.gamma(0.3 + widths * 1.0 / max(widths.max(), 1)) * (widths > 0)
        histogram += mass * parts / parts.sum() if parts.sum() else 0
    far = n - 1
    masses[0 if far < 10 else 1 if far < 100 else 2] += sink
    histogram[np.searchsorted(HISTOGRAM_EDGES, far, side="right") - 1] += sink
    binary = -sum(p * np.log(p) for p in (sink, 1 - sink) if p > 0)
    entropy = (1 - sink) * evenness * np.log(n - 4) + binary
    layers = np.clip(entropy * rng.uniform(0.5, 1, 8), 0, np.log(n))
    vector = np.zeros(DIM)
    vector[:3], vector[3], vector[4:12], vector[12:] = (
        masses,
        min(entropy, np.log(n)),
        histogram / histogram.sum(),
        layers,
    )
    return vector.astype(np.float32)


def draw_musts(zone: str, count: int, *, seed: int, usual_period: float = 0.1) -> Companioned:
    """`count` vectors of one row of the table's last column, n 150 to 900, sink 0 to 0.6."""
    rng = np.random.default_rng(seed)
    vectors, lengths, sinks, periods = [], [], [], []
    for _ in range(count):
        n, sink = int(rng.integers(150, 901)), rng.uniform(0, 0.6)
        even, period, own = rng.uniform(0.05, 0.55), rng.uniform(0, usual_period), rng.uniform(0.82, 1)
        rest = rng.dirichlet([1, 1]) * (1 - own)
        if zone == "syntax_floor":
            own = rng.uniform(0.87, 1)
            rest = rng.dirichlet([1, 1]) * (1 - own)
            shares, even, period = (own, *rest), rng.uniform(0, 0.38), rng.uniform(0, 1)
        elif zone == "semantic_bridge":
            shares = (rest[0], own, rest[1])
        elif zone == "long_range":
            n = int(rng.integers(300, 901))
            shares = (*rest, own)
        elif zone == "structure_ripple":
            shares = rng.dirichlet([2, 2, 2])
            while max(shares) >= 0.84:
                shares = rng.dirichlet([2, 2, 2])
            even, period = rng.uniform(0.1, 0.9), rng.uniform(0.71, 1)
        else:
            n = int(rng.integers(50, 901))
            reach = n - 4
            uniform = np.array([10, max(min(reach, 100) - 10, 0), max(reach - 100, 0)]) / reach
            shares, even, period = uniform * rng.uniform(0.9, 1.1, 3), rng.uniform(0.975, 1), rng.uniform(0, 0.6)
        vectors.append(vector_of(shares, evenness=even, n=n, sink=sink, rng=rng))
        lengths.append(n)
        sinks.append(sink)
        periods.append(period)
    drawn = Companioned(
        vectors=np.array(vectors),
        context_len=np.array(lengths, dtype=np.int64),
        sink_mass=np.array(sinks),
        periodicity=np.array(periods),
        zone_index=np.full(count, ZONES.index(zone)),
    )
    assert valid_rows(drawn.vectors, drawn.context_len).all()
    return drawn
