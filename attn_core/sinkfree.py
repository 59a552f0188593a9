"""Attention with the sink taken out: what is left when positions 0..3 are removed from a fingerprint.

Decoder models park much of their attention on the first positions (the attention sink, arXiv 2309.17453). The
fingerprint keeps that mass, as its definition says; to compare what a token *looked for*, it is taken out of the
distance shares and of the entropy, from `sink_mass` and `context_len` alone (`attn_core.row_loops`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_core import row_loops
from attn_core.fingerprint import DIM, NUM_BINS

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


def sink_free(
    vectors: npt.NDArray[np.floating],
    *,
    context_len: npt.NDArray[np.integer],
    sink_mass: npt.NDArray[np.floating],
) -> SinkFree:
    """`vectors` float [m, 20], `context_len` int [m] (at least 1), `sink_mass` float [m] in 0..1."""
    rows = row_loops.writable(vectors, np.float32).reshape(-1, DIM)
    m = len(rows)
    found = SinkFree(shares=np.empty((m, 3)), histogram=np.empty((m, NUM_BINS)), evenness=np.empty(m))
    row_loops.sink_free_rows(
        rows,
        row_loops.writable(context_len, np.float64),
        row_loops.writable(sink_mass, np.float64),
        found.shares,
        found.histogram,
        found.evenness,
        np.empty(m),
    )
    return found
