"""The attention of a prompt's own positions, for a request that sends ``attention_tokens_prefill: "all"``.

Collected over the chunks of its prefill, on the request, and given to its answer with the first output token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attn_kernels.sglang_plugin import request_fields
from attn_kernels.sglang_plugin.packed import PROMPT_KEY, Packed, pack
from attn_kernels.torch_ops import Captured

_COLLECTED = "_attention_prompt"
"""Attribute of SGLang's request: position to packed row; None once handed over."""


def is_wanted(req: Any) -> bool:
    """Whether this request asks for its prompt's attention and has not been given it yet.

    One without output tokens, as SGLang sends to fill its cache before the choices of ``n`` > 1, has no answer to put
    it into.
    """
    params = req.sampling_params
    custom = params.custom_params
    return (
        isinstance(custom, dict)
        and request_fields.asks(custom)
        and custom.get(request_fields.PREFILL) == "all"
        and params.max_new_tokens != 0
        and getattr(req, _COLLECTED, {}) is not None
    )


def collect(req: Any, captured: Captured, *, first: int) -> None:
    """Keep the rows of consecutive positions, from `first`; one that is there already is replaced by the same."""
    rows: dict[int, Packed] | None = req.__dict__.setdefault(_COLLECTED, {})
    if rows is None:
        return
    vectors, companions = captured.vector.numpy(), captured.companions.numpy()
    positions, probs = captured.topk_positions.numpy(), captured.topk_probs.numpy()
    for i in range(len(vectors)):
        position = first + i
        rows[position] = pack(
            step=position,
            token_id=req.origin_input_ids[position],
            vector=vectors[i],
            context_len=position + 1,
            companions=companions[i],
            topk_positions=positions[i],
            topk_probs=probs[i],
        )


def hand_over(req: Any) -> None:
    """Put what was collected into the answer's first entry, with the positions that were not captured."""
    if not is_wanted(req):
        return
    rows: dict[int, Packed] = getattr(req, _COLLECTED, {})
    setattr(req, _COLLECTED, None)
    if req.customized_info is None:
        req.customized_info = {}
    missing = _ranges([p for p in range(len(req.origin_input_ids)) if p not in rows])
    req.customized_info[PROMPT_KEY] = [([rows[p] for p in sorted(rows)], missing)]


def _ranges(positions: list[int]) -> list[tuple[int, int]]:
    """Half-open ranges of ascending positions."""
    found: list[tuple[int, int]] = []
    for position in positions:
        if found and found[-1][1] == position:
            found[-1] = (found[-1][0], position + 1)
        else:
            found.append((position, position + 1))
    return found


def around_max_prefix_len(original: Callable[..., int], self: Any, input_len: int) -> int:
    """Hook: positions served from the prefix cache have no queries, so such a request computes all of its prompt.

    SGLang does the same for prompt log-probabilities. What it computes is cached for others as ever.
    """
    return 0 if is_wanted(self) else original(self, input_len)
