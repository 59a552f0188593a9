"""The bytes that the kernels load and store, counted access by access in the interpreter, masked lanes left out.

`TRITON_INTERPRET=1 python -m benchmarks.gpu.counted --context 1024` prints one JSON object, for a step of the
Qwen3-1.7B shape: 28 layers of 16 heads over 8, head_dim 128, bf16, 8 layers captured.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd
from triton.runtime import interpreter

from attn_kernels.ops.buffers import CaptureShape, positions_to_hold
from attn_kernels.ops.capture import Capture, store_scores
from benchmarks.gpu.interpreter import repair

LAYERS, CAPTURED, HEADS, KV_HEADS, DIM, SPLITS = 28, 8, 16, 8, 128, 8


@dataclass
class Counter:
    """Bytes moved between registers and device memory since it was last read."""

    loaded: int = 0
    stored: int = 0

    def take(self) -> int:
        """The bytes so far, and start anew."""
        total = self.loaded + self.stored
        self.loaded = self.stored = 0
        return total


def count_accesses() -> Counter:
    """From now on every load and store of the interpreter is counted, lane by lane that its mask lets through."""
    counter = Counter()
    builder = interpreter.InterpreterBuilder
    stock_load, stock_store = builder.create_masked_load, builder.create_masked_store

    def lanes(pointers: Any, mask: Any) -> int:
        return int(np.broadcast_to(mask.data, pointers.data.shape).astype(bool).sum())

    def width(pointers: Any) -> int:
        return max(int(pointers.get_element_ty().primitive_bitwidth) // 8, 1)

    def load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        counter.loaded += lanes(pointers, mask) * width(pointers)
        return stock_load(self, pointers, mask, *rest)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        counter.stored += lanes(pointers, mask) * width(pointers)
        return stock_store(self, pointers, value, mask, *rest)

    builder.create_masked_load = load
    builder.create_masked_store = store
    return counter


def measure(context: int) -> dict[str, int]:
    """One request with `context` positions: a layer as it is, a captured one, and what begins and ends a step.

    `finish_bytes` are without single heads, `single_heads_bytes` what those add, the request's figures not asked for.
    """
    counter = count_accesses()
    rng = np.random.default_rng(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=size).astype(np.float32)).bfloat16()

    plain, capture = (
        Capture(
            CaptureShape(
                layers=tuple(range(CAPTURED)),
                num_heads=HEADS,
                max_rows=1,
                positions=positions_to_hold(pool_tokens=context, max_rows=1, max_context=context),
                max_splits=SPLITS,
                heads=heads,
            ),
            device="cpu",
        )
        for heads in (False, True)
    )
    query, keys, values = normal(1, HEADS, DIM), normal(context, KV_HEADS, DIM), normal(context, KV_HEADS, DIM)
    indptr = torch.tensor([0, context], dtype=torch.int32)
    slots = torch.from_numpy(rng.permutation(context))
    splits = torch.tensor([SPLITS], dtype=torch.int32)

    def decode(lse: torch.Tensor, **captured: Any) -> int:
        decode_attention_fwd(
            query, keys, values, torch.empty_like(query), indptr, slots, torch.zeros(1, HEADS, SPLITS, DIM), lse,
            splits, SPLITS, DIM**-0.5, 1.0, 1.0, **captured,
        )  # fmt: skip
        return counter.take()

    begin = []
    for one in (plain, capture):
        one.begin_step(seq_lens=torch.tensor([context]), prompt_lens=splits)
        begin.append(counter.take())
    assert begin[0] == begin[1], "single heads add nothing to a step's beginning"
    stock = decode(torch.zeros(1, HEADS, SPLITS))
    captured = [
        decode(capture.lse(c), score_mod=store_scores, aux_tensors=capture.aux_tensors(c)) for c in range(CAPTURED)
    ]
    plain.buffers.memory.copy_(capture.buffers.memory)
    plain.buffers.lse.copy_(capture.buffers.lse)
    finish = []
    for one in (plain, capture):
        one.finish(num_splits=splits)
        finish.append(counter.take())
    return {
        "context": context,
        "stock_layer_bytes": stock,
        "capture_of_layers_bytes": sum(captured) - CAPTURED * stock,
        "begin_bytes": begin[0],
        "finish_bytes": finish[0],
        "single_heads_bytes": finish[1] - finish[0],
    }


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=1024)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if not repair():
        raise SystemExit("set TRITON_INTERPRET=1: bytes are counted in the interpreter")
    print(json.dumps(measure(arguments.context)))


if __name__ == "__main__":
    main()
