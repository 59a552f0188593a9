"""Attention with the sink taken out: what is left when positions 0..3 are removed from a fingerprint.

Decoder models park much of their attention on the first positions (the attention sink, arXiv 2309.17453). The
fingerprint keeps that mass, as its definition says; to compare what a token *looked for*, it is taken out of the
distance shares and of the entropy here, from `sink_mass` and `context_len` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_core.fingerprint import (
    DIM,
    ENTROPY,
    HISTOGRAM,
    HISTOGRAM_EDGES,
    LAYER_ENTROPY,
    LOCAL_END,
    MASSES,
    MID_END,
    SINK_POSITIONS,
)

_TINY = 1e-6
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SinkFree:
    """Fingerprints of m tokens with the sink removed. Shares are 0 where the sink held everything."""

    shares: F64
    """Local, mid and long share of the mass beyond the sink: [m, 3], rows sum to 1 (or 0)."""
    histogram: F64
    """Distance histogram beyond the sink: [m, 8], rows sum to 1 (or 0)."""
    evenness: F64
    """Entropy beyond the sink over its maximum ln(n - 4): [m], 0 sharp .. 1 uniform."""
    layer_evenness: F64
    """Layer entropies over ln n, sink included (its mass is not known by layer): [m, 8], 0..1."""
    sink_mass: F64
    context_len: F64


def sink_free(
    vectors: npt.NDArray[np.floating],
    *,
    context_len: npt.NDArray[np.integer],
    sink_mass: npt.NDArray[np.floating],
) -> SinkFree:
    """`vectors` float [m, 20], `context_len` int [m] (at least 1), `sink_mass` float [m] in 0..1."""
    rows = np.asarray(vectors, dtype=np.float64).reshape(-1, DIM)
    n = np.maximum(np.asarray(context_len, dtype=np.float64), 1.0)
    sink = np.clip(np.asarray(sink_mass, dtype=np.float64), 0.0, 1.0)
    shares = _without_sink(rows[:, MASSES], np.array([0, LOCAL_END, MID_END]), n, sink)
    histogram = _without_sink(rows[:, HISTOGRAM], np.array(HISTOGRAM_EDGES), n, sink)
    free = 1.0 - sink
    # Chain rule: H = h(s) + s H_sink + (1 - s) H_free, h the binary entropy. H_sink is close to 0 in the models seen
    # (position 0 holds nearly all of the sink), so H_free is what remains, bounded by its maximum.
    binary = -(sink * np.log(np.maximum(sink, _TINY)) + free * np.log(np.maximum(free, _TINY)))
    most = np.log(np.maximum(n - SINK_POSITIONS, 1.0))
    left = np.clip((rows[:, ENTROPY] - binary) / np.maximum(free, _TINY), 0.0, most)
    evenness = np.where(most > 0, left / np.maximum(most, _TINY), 0.0)
    ln_n = np.maximum(np.log(n), _TINY)
    layer_evenness = np.where(n[:, None] > 1, np.clip(rows[:, LAYER_ENTROPY] / ln_n[:, None], 0.0, 1.0), 0.0)
    return SinkFree(
        shares=shares,
        histogram=histogram,
        evenness=evenness,
        layer_evenness=layer_evenness,
        sink_mass=sink,
        context_len=n,
    )


def _without_sink(masses: F64, lower_edges: npt.NDArray[np.integer], n: F64, sink: F64) -> F64:
    """Take the sink's mass out of the bins that positions 0, 1, 2, 3 fall into, farthest first, and renormalise."""
    rest = masses.copy()
    remaining = sink.copy()
    every = np.arange(len(rest))
    for position in range(SINK_POSITIONS):
        distance = n - 1 - position
        bins = np.searchsorted(lower_edges, distance, side="right") - 1
        there = distance >= 0
        take = np.where(there, np.minimum(remaining, rest[every, np.maximum(bins, 0)]), 0.0)
        rest[every, np.maximum(bins, 0)] -= take
        remaining -= take
    total = rest.sum(axis=1, keepdims=True)
    # Below 1e-3 of mass the shares would be rounding noise of float32: say nothing rather than noise.
    shares: F64 = np.where(total > 1e-3, rest / np.maximum(total, _TINY), 0.0)
    return shares
