"""On a machine with an NVIDIA GPU: exactness on the device, then the capture's cost there; one JSON file.

    python -m benchmarks.gpu --output capture_gpu.json            # in the model server's environment, no network needed
    TRITON_INTERPRET=1 python -m benchmarks.gpu --dry-run         # everything once, tiny, without a GPU

Measured are SGLang's own decode kernels for a step of the Qwen3-1.7B shape (28 layers of 16 heads over 8, head_dim 128,
bf16, random numbers), replayed from a CUDA graph without and with the capture of 8 layers, in turn; the capture makes
the sketches of single heads as well, and writes out one request's figures. A whole step also
reads the weights and runs everything else; `share_of_step` adds the time that reading 3.4 GB takes at the bandwidth
measured here.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton
from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd

from attn_kernels.ops.buffers import CaptureShape, positions_to_hold
from attn_kernels.ops.capture import Capture, store_scores
from attn_kernels.torch_ops import Projection
from benchmarks.gpu.exact import summary
from benchmarks.gpu.interpreter import repair
from benchmarks.gpu.shapes import NAMED, Shape, check, drawn, random_projection

LAYERS, CAPTURED, HEADS, KV_HEADS, DIM, SPLITS, TOP_K = 28, 8, 16, 8, 128, 8, 32
WEIGHT_BYTES = 3.4e9
BATCHES = (1, 8, 64, 256)
CONTEXTS = (2048, 8192, 32768, 131072)
PAIRS = 9
REPLAYS = 20
MEMORY_SHARE = 0.8
"""Of the free memory, how much a case may take; larger ones are left out and said so."""


class Decode:
    """The attention of one decode step in all layers, without and with the capture."""

    def __init__(self, *, batch: int, context: int, layers: int, captured: int, device: str) -> None:
        self.layers, self.captured, self.batch = layers, captured, batch

        def normal(*size: int) -> torch.Tensor:
            return torch.empty(*size, device=device, dtype=torch.bfloat16).normal_()

        tokens = batch * context
        # Layers take turns on two pairs of caches: more would not fit, fewer could stay in the L2 cache.
        self.caches = [(normal(tokens, KV_HEADS, DIM), normal(tokens, KV_HEADS, DIM)) for _ in range(2)]
        self.query, self.out = normal(batch, HEADS, DIM), normal(batch, HEADS, DIM)
        self.slots = torch.randperm(tokens, device=device)
        self.indptr = torch.arange(0, tokens + 1, context, device=device, dtype=torch.int32)
        self.splits = torch.full((batch,), SPLITS, device=device, dtype=torch.int32)
        self.seq_lens = torch.full((batch,), context, device=device)
        self.prompt_lens = torch.full((batch,), context // 2, device=device, dtype=torch.int32)
        self.logits = torch.zeros(batch, HEADS, SPLITS, DIM, device=device)
        self.lse = torch.zeros(batch, HEADS, SPLITS, device=device)
        self.capture = Capture(_shape(batch=batch, context=context, captured=captured), device=device)
        projection = random_projection(layers=captured, heads=HEADS, seed=0)
        own = Projection.of_rank(projection, num_heads=HEADS)
        self.capture.set_projection(own.matrix, own.offset)
        self.capture.sample_row(0)

    def step(self, *, capturing: bool) -> None:
        """Launch it."""
        if capturing:
            self.capture.begin_step(seq_lens=self.seq_lens, prompt_lens=self.prompt_lens)
        every = self.layers // self.captured
        for layer in range(self.layers):
            c, rest = divmod(layer, every)
            ours = capturing and rest == 0 and c < self.captured
            keys, values = self.caches[layer % 2]
            decode_attention_fwd(
                self.query,
                keys,
                values,
                self.out,
                self.indptr,
                self.slots,
                self.logits,
                self.capture.lse(c) if ours else self.lse,
                self.splits,
                SPLITS,
                DIM**-0.5,
                1.0,
                1.0,
                score_mod=store_scores if ours else None,
                aux_tensors=self.capture.aux_tensors(c) if ours else None,
            )
        if capturing:
            self.capture.finish(num_splits=self.splits)


def _shape(*, batch: int, context: int, captured: int) -> CaptureShape:
    return CaptureShape(
        layers=tuple(c * captured // 8 for c in range(8)),
        num_heads=HEADS,
        max_rows=batch,
        positions=positions_to_hold(pool_tokens=batch * context, max_rows=batch, max_context=context),
        max_splits=SPLITS,
        top_k=TOP_K,
        heads=True,
    )


def replayed(launch: Callable[[], None]) -> Callable[[], float]:
    """Record what `launch` launches in a CUDA graph; the function returned gives the seconds of one replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        launch()
        launch()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()

    def seconds() -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(REPLAYS):
            graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000 / REPLAYS

    return seconds


def bandwidth() -> float:
    """Bytes a second that copying within the device's memory reads and writes."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    one = replayed(lambda: _copy(target, source))
    return 2 * source.numel() / min(one() for _ in range(3))


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    target.copy_(source)


def cost(*, batch: int, context: int, bytes_per_s: float) -> dict[str, Any]:
    """Seconds of a step's attention without and with the capture, replayed in turn."""
    case: dict[str, Any] = {"batch": batch, "context": context}
    needed = 4 * batch * context * KV_HEADS * DIM * 2 + _shape(batch=batch, context=context, captured=8).num_bytes
    free, _ = torch.cuda.mem_get_info()
    if needed > MEMORY_SHARE * free:
        return {**case, "left_out": f"needs {needed / 2**30:.0f} GiB of {free / 2**30:.0f} GiB free"}
    decode = Decode(batch=batch, context=context, layers=LAYERS, captured=CAPTURED, device="cuda")
    off, on = replayed(lambda: decode.step(capturing=False)), replayed(lambda: decode.step(capturing=True))
    pairs = [(off(), on()) for _ in range(PAIRS)]
    ratios = [after / before for before, after in pairs]
    before, after = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        **case,
        "off_s": before,
        "on_s": after,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "share_of_step": (after - before) / (before + WEIGHT_BYTES / bytes_per_s),
        "buffer_bytes": decode.capture.shape.num_bytes,
    }


def exactness(shapes: list[Shape], *, device: str) -> dict[str, Any]:
    """The summary of `benchmarks.gpu.exact`; a shape that cannot be launched here is counted with its reason."""
    done, failed = [], []
    for shape in shapes:
        try:
            done.append((shape, check(shape, device=device)))
        except (RuntimeError, triton.TritonError) as error:
            failed.append({"shape": asdict(shape), "error": str(error)[:500]})
    return {**summary(done), "failed": failed}


def main() -> int:
    """0 where every shape was exact and launched."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("capture_gpu.json"))
    parser.add_argument("--shapes", type=int, default=200, help="drawn shapes beside the named ones")
    parser.add_argument("--dry-run", action="store_true", help="everything once, tiny, in the interpreter")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    interpreting = repair()
    if arguments.dry_run != interpreting or (not interpreting and not torch.cuda.is_available()):
        print(
            "with a GPU: python -m benchmarks.gpu; without one: TRITON_INTERPRET=1 python -m benchmarks.gpu --dry-run",
            file=sys.stderr,
        )
        return 2
    result: dict[str, Any] = {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__},
        "dry_run": arguments.dry_run,
    }
    if arguments.dry_run:
        result["exactness"] = exactness([NAMED["sinks"]], device="cpu")
        decode = Decode(batch=1, context=40, layers=1, captured=1, device="cpu")
        for capturing in (False, True):
            decode.step(capturing=capturing)
        result["cost"] = [{"batch": 1, "context": 40, "left_out": "a dry run measures nothing"}]
    else:
        # Tensor cores round float32 to tf32 in SGLang's kernels: what they compute is not float32's score.
        shapes = [s for s in [*NAMED.values(), *drawn(arguments.shapes)] if s.dtype != "fp32" or s.kind == "beside"]
        result["device"] = torch.cuda.get_device_name()
        result["exactness"] = exactness(shapes, device="cuda")
        result["bytes_per_s"] = bandwidth()
        result["cost"] = []
        for context in CONTEXTS:
            for batch in BATCHES:
                torch.cuda.empty_cache()
                result["cost"].append(cost(batch=batch, context=context, bytes_per_s=result["bytes_per_s"]))
                print(json.dumps(result["cost"][-1]), flush=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    exact = result["exactness"]
    print(json.dumps({name: value for name, value in exact.items() if name != "worst"}), flush=True)
    return 1 if exact["num_off"] or exact["num_topk_wrong"] or exact["num_outputs_changed"] or exact["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
