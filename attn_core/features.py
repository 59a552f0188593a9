"""The averages: what a fingerprint, a mean over heads, says of a token, in columns that can be compared.

A fingerprint is part compositional (masses and histogram sum to 1) and part entropies that grow with ln n. Shares are
taken beyond the sink and square-rooted (Euclidean distance between square roots of distributions is the Hellinger
distance), entropies are divided by their maximum. They still go with the context length: `attn_core.space` takes them
relative to what is usual at that length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_core import row_loops
from attn_core.fingerprint import DIM

FEATURES_VERSION = 2
NAMES: tuple[str, ...] = (
    "sqrt_local_share",
    "sqrt_mid_share",
    "sqrt_long_share",
    *(f"sqrt_histogram_share_{k}" for k in range(8)),
    "sqrt_sink_mass",
    "evenness",
    *(f"layer_evenness_{k}" for k in range(8)),
)
NUM_FEATURES = len(NAMES)


def features_from_vectors(
    vectors: npt.NDArray[np.floating],
    *,
    context_len: npt.NDArray[np.integer] | npt.NDArray[np.float64],
    sink_mass: npt.NDArray[np.floating],
) -> npt.NDArray[np.float32]:
    """float32 [m, 21] from float [m, 20], int [m] and float [m]; every value lies in 0..1."""
    rows = row_loops.writable(vectors, np.float32).reshape(-1, DIM)
    found = np.empty((len(rows), NUM_FEATURES), dtype=np.float32)
    row_loops.features_rows(
        rows,
        row_loops.writable(context_len, np.float64),
        row_loops.writable(sink_mass, np.float64),
        found,
    )
    return found
