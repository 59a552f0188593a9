"""What `test_recorded_graphs` runs where triton interprets: decode steps recorded once, replayed with other contents.

There is no CUDA graph without a GPU. What stands in for one here keeps each kernel launch with the very tensors that it
was given, and makes the launches again later: whatever the host had read, counted or allocated while recording stays
as it was, as in a real graph. Prints one line a case, ``name|largest error``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd
from triton.runtime import interpreter

from attn_kernels import reference
from attn_kernels.ops.buffers import CaptureShape
from attn_kernels.sglang_plugin.plan import Plan
from attn_kernels.sglang_plugin.readers import LayerCall
from attn_kernels.sglang_plugin.triton_reader import TritonReader
from benchmarks.gpu.interpreter import repair

HEADS, KV_HEADS, DIM, LAYERS, SPLITS, K, BATCH, LONGEST = 4, 2, 16, 2, 2, 4, 3, 200
SLOTS = BATCH * LONGEST
SCALING = 0.25


class Launches:
    """The stand-in for a CUDA graph."""

    def __init__(self) -> None:
        self.kept: list[Callable[[], Any]] = []
        self._stock = interpreter.GridExecutor.__call__

    def __enter__(self) -> None:
        def launch(executor: Any, *args: Any, **options: Any) -> Any:
            self.kept.append(lambda: self._stock(executor, *args, **options))
            return self._stock(executor, *args, **options)

        interpreter.GridExecutor.__call__ = launch

    def __exit__(self, *_: object) -> None:
        interpreter.GridExecutor.__call__ = self._stock

    def replay(self) -> None:
        """Every launch once more."""
        for launch in self.kept:
            launch()


class Decode:
    """SGLang's static tensors of a decode graph for three requests, and its attention on them."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.keys = [torch.randn(SLOTS, KV_HEADS, DIM, generator=draw) for _ in range(LAYERS)]
        self.values = [torch.randn(SLOTS, KV_HEADS, DIM, generator=draw) for _ in range(LAYERS)]
        self.queries = [torch.zeros(BATCH, HEADS * DIM) for _ in range(LAYERS)]
        self.seq_lens = torch.ones(BATCH, dtype=torch.int64)
        self.indptr = torch.arange(BATCH + 1, dtype=torch.int32)
        self.slots = torch.zeros(SLOTS, dtype=torch.int32)
        self.backend = SimpleNamespace(
            forward_metadata=SimpleNamespace(
                attn_lse=torch.zeros(BATCH, HEADS, SPLITS),
                num_kv_splits=torch.full((BATCH,), SPLITS, dtype=torch.int32),
            )
        )
        self.forward_batch = SimpleNamespace(batch_size=BATCH, seq_lens=self.seq_lens)
        runner = SimpleNamespace(device="cpu")
        layers = tuple(sorted([0, 1] * 4))
        shape = CaptureShape(
            layers=layers, num_heads=HEADS, max_rows=BATCH, positions=2 * SLOTS, max_splits=SPLITS, top_k=K
        )
        self.reader = TritonReader(runner=runner, shape=shape, portable=None)  # type: ignore[arg-type]

    def fill(self, lens: list[int], *, seed: int) -> None:
        """New contents in the same tensors; requests that the graph has room for beyond `lens` are padding."""
        draw = torch.Generator().manual_seed(seed)
        padded = [*lens, *[1] * (BATCH - len(lens))]
        self.seq_lens.copy_(torch.tensor(padded))
        self.indptr[1:].copy_(self.seq_lens.cumsum(0))
        self.slots[: sum(padded)] = torch.randperm(SLOTS, generator=draw)[: sum(padded)].int()
        for query in self.queries:
            query.copy_(torch.randn(query.shape, generator=draw))

    def forward(self) -> None:
        """The captured layers' attention, through the reader."""
        for number in range(LAYERS):
            layer = SimpleNamespace(layer_id=number, tp_q_head_num=HEADS, qk_head_dim=DIM)
            self.reader.attend(
                LayerCall(
                    original=self._attention, backend=self.backend, query=self.queries[number], key=None, value=None,
                    layer=layer, args=(self.forward_batch,), options={},
                )
            )  # fmt: skip

    def _attention(
        self, backend: Any, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, score_mod: Any, aux_tensors: Any
    ) -> None:
        metadata = backend.forward_metadata
        decode_attention_fwd(
            q.view(BATCH, HEADS, DIM), self.keys[layer.layer_id], self.values[layer.layer_id],
            torch.zeros(BATCH, HEADS, DIM), self.indptr, self.slots, torch.zeros(BATCH, HEADS, SPLITS, DIM),
            metadata.attn_lse, metadata.num_kv_splits, SPLITS, SCALING, 1.0, 1.0, logit_cap=0.0,
            score_mod=score_mod, aux_tensors=aux_tensors,
        )  # fmt: skip

    def expected(self, row: int, prompt_len: int) -> reference.Fingerprint:
        """The definition's fingerprint of one request."""
        slots = self.slots[int(self.indptr[row]) : int(self.indptr[row + 1])]
        rows = [
            reference.probabilities(
                query[row].view(HEADS, DIM).double().numpy(), keys[slots].double().numpy(), scaling=SCALING
            )
            for query, keys in zip(self.queries, self.keys, strict=True)
        ]
        return reference.fingerprint(np.repeat(np.stack(rows), 4, axis=0), prompt_len=prompt_len, k=K)


def step(decode: Decode, graph: Launches | None, *, lens: list[int], captured: list[int], seed: int) -> float:
    """One decode step, replayed or eager, against the definition; the largest error."""
    decode.fill(lens, seed=seed)
    prompt_lens = tuple(lens[row] // 2 for row in captured)
    plan = Plan(
        rows=tuple(captured), context_lens=tuple(lens[row] for row in captured), prompt_lens=prompt_lens,
        asked=(True,) * len(captured), last_query=None,
    )  # fmt: skip
    decode.reader.begin(plan)
    if graph is None:
        decode.forward()
    else:
        graph.replay()
    real = SimpleNamespace(batch_size=len(lens))
    found = decode.reader.finish(decode.forward_batch if graph is None else real, replayed=graph is not None)
    assert found is not None
    assert found.rows is not None
    assert len(found.rows.vector) == len(captured)
    worst = 0.0
    for i, row in enumerate(captured):
        expected = decode.expected(row, prompt_lens[i])
        top = found.rows.topk_positions[i][: len(expected.topk_positions)]
        if top.tolist() != expected.topk_positions.tolist():
            return float("inf")
        worst = max(
            worst,
            float(np.abs(found.rows.vector[i].numpy() - expected.vector).max()),
            abs(float(found.rows.companions[i][1]) - expected.prompt_mass),
        )
    return worst


def main() -> int:
    """Record, replay with other contents, go on eagerly, replay again."""
    if not repair():
        print("triton is not interpreting: set TRITON_INTERPRET=1 before it is imported", file=sys.stderr)
        return 2
    decode, graph = Decode(), Launches()
    with graph:
        decode.reader.record(decode.forward_batch)
        decode.forward()
        decode.reader.recorded(decode.backend.forward_metadata.num_kv_splits)
    cases = {
        "all requests": (graph, [60, 7, 131], [0, 1, 2]),
        "one not captured": (graph, [9, 140, 33], [0, 2]),
        "fewer than recorded": (graph, [77], [0]),
        "eager between": (None, [12, 150, 64], [0, 1, 2]),
        "after an eager one": (graph, [200, 3, 64], [1, 2]),
    }
    for seed, (name, (through, lens, captured)) in enumerate(cases.items(), 1):
        print(f"{name}|{step(decode, through, lens=lens, captured=captured, seed=seed)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
