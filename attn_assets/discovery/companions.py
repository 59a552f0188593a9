"""Rows that came without their companions (`context_len`, `sink_mass`, `periodicity`): the likeliest values instead.

A vector sent by hand to ``POST /fingerprint`` may lack them. Discovery has to place it all the same, so each missing
value is replaced by the one that `attn_core.classify` weighs most for an unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_core.fingerprint import ENTROPY, LAYER_ENTROPY, MASSES

_LEAST_CONTEXT = np.array([5, 16, 128])
_SINK_SHARE = 0.8
_USUAL_PERIODICITY = 0.22
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Companions:
    """What lies beside m vectors, nothing missing."""

    context_len: npt.NDArray[np.int64]
    sink_mass: F32
    periodicity: F32
    num_filled: int
    """Rows in which at least one value had to be filled in."""


def fill_companions(
    vectors: F32,
    *,
    context_len: npt.NDArray[np.float64],
    sink_mass: npt.NDArray[np.float64],
    periodicity: npt.NDArray[np.float64],
) -> Companions:
    """Companions of float32 [m, 20], from float64 [m] each in which NaN means missing.

    The context is at least e^entropy long and reaches the farthest distance class that holds mass; the sink lies in
    that class.
    """
    masses = vectors[:, MASSES].astype(np.float64)
    farthest = np.where(masses[:, 2] > 1e-4, 2, np.where(masses[:, 1] > 1e-4, 1, 0))
    largest_entropy = np.maximum(vectors[:, ENTROPY], vectors[:, LAYER_ENTROPY].max(axis=1, initial=0.0))
    least = np.ceil(np.maximum(np.exp(largest_entropy.astype(np.float64)), _LEAST_CONTEXT[farthest]))
    far_mass = masses[np.arange(len(masses)), farthest]
    missing = np.isnan(context_len) | np.isnan(sink_mass) | np.isnan(periodicity)
    return Companions(
        context_len=np.where(np.isnan(context_len), least, context_len).astype(np.int64),
        sink_mass=np.where(np.isnan(sink_mass), _SINK_SHARE * far_mass, sink_mass).astype(np.float32),
        periodicity=np.where(np.isnan(periodicity), _USUAL_PERIODICITY, periodicity).astype(np.float32),
        num_filled=int(missing.sum()),
    )
