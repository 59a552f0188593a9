"""One output token's attention on its way from the scheduler to the HTTP process: scalars and bytes in a tuple."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

KEY = "attention_tokens"
"""The name in meta_info, messages, choices and deltas."""

Packed = tuple[int, int, bytes, int, float, float, float, bytes, bytes, float]


def pack(
    *,
    step: int,
    token_id: int,
    vector: npt.NDArray[np.float32],
    context_len: int,
    companions: npt.NDArray[np.float32],
    topk_positions: npt.NDArray[np.int32],
    topk_probs: npt.NDArray[np.float32],
) -> Packed:
    """Pack one row of `attn_kernels.torch_ops.Captured`, brought to the host."""
    sink, prompt, periodicity, residual = companions.tolist()
    kept = min(len(topk_positions), context_len)
    positions, probs = topk_positions[:kept].tobytes(), topk_probs[:kept].tobytes()
    return step, token_id, vector.tobytes(), context_len, sink, prompt, periodicity, positions, probs, residual


def unpack(entry: Packed) -> dict[str, Any]:
    """The object that an answer carries for one token."""
    step, token_id, vector, context_len, sink, prompt, periodicity, positions, probs, residual = entry
    return {
        "step": step,
        "token_id": token_id,
        "fingerprint": np.frombuffer(vector, np.float32).tolist(),
        "context_len": context_len,
        "sink_mass": sink,
        "prompt_mass": prompt,
        "periodicity": periodicity,
        "topk_positions": np.frombuffer(positions, np.int32).tolist(),
        "topk_probs": np.frombuffer(probs, np.float32).tolist(),
        "residual_mass": residual,
    }
