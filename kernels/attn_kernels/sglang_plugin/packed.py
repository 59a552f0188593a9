"""One token's attention on its way from the scheduler to the HTTP process: scalars and bytes in a tuple."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

KEY = "attention_tokens"
"""The name in meta_info, messages, choices and deltas."""
PROMPT_KEY = "prompt_attention_tokens"
"""The prompt's own, beside it."""
PROMPT_MISSING_KEY = "prompt_attention_missing"
"""Half-open ranges of the prompt's positions that were not captured."""

Packed = tuple[int, int, bytes, int, float, float, float, bytes, bytes, float]
NotCaptured = tuple[int, int]
"""Step and token id alone."""
PackedPrompt = tuple[list[Packed], list[tuple[int, int]]]
"""The prompt's rows, each with its position for a step, and the missing ranges."""


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


def unpack(entry: Packed | NotCaptured, *, sampled: bool = False) -> dict[str, Any]:
    """The object that an answer carries for one output token; `sampled` where the budget thins the steps around it.

    `index` is its place in the answer's list: the OpenAI SDK's stream helper puts the deltas' lists together by it.
    """
    mark = {"sampled": True} if sampled else {}
    if len(entry) == 2:
        return {"index": entry[0], "step": entry[0], "token_id": entry[1], **mark, "captured": False}
    step, token_id, vector, context_len, sink, prompt, periodicity, positions, probs, residual = entry
    return {
        "index": step,
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
        **mark,
    }


def unpack_prompt(packed: PackedPrompt) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """The objects that an answer carries for the prompt's positions, and the ranges that are missing."""
    rows, missing = packed
    objects = []
    for index, row in enumerate(rows):
        found = unpack(row)
        position = found.pop("step")
        objects.append({**found, "index": index, "position": position})
    return objects, missing
