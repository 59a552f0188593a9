"""The space in which fingerprints are compared: clustering and the served classifier both use it.

A fingerprint is part compositional (masses and histogram sum to 1) and part entropies that grow with ln n. Shares are
taken beyond the sink and square-rooted (Euclidean distance between square roots of distributions is the Hellinger
distance), entropies are divided by their maximum. So a token keeps its place when only the context grows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_core.sinkfree import SinkFree, sink_free

FEATURES_VERSION = 1
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
    context_len: npt.NDArray[np.integer],
    sink_mass: npt.NDArray[np.floating],
) -> npt.NDArray[np.float32]:
    """float32 [m, 21] from float [m, 20], int [m] and float [m]; every value lies in 0..1."""
    return features_from_sink_free(sink_free(vectors, context_len=context_len, sink_mass=sink_mass))


def features_from_sink_free(free: SinkFree) -> npt.NDArray[np.float32]:
    """The same from fingerprints whose sink is taken out already."""
    columns = [
        np.sqrt(np.clip(free.shares, 0.0, 1.0)),
        np.sqrt(np.clip(free.histogram, 0.0, 1.0)),
        np.sqrt(free.sink_mass)[:, None],
        free.evenness[:, None],
        free.layer_evenness,
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)
