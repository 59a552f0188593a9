"""What `test_ops_exact` runs in a process of its own, where triton interprets: each shape against float64.

Prints one line a case, ``name|verdict``, and leaves with 0 where every case was run.
"""

from __future__ import annotations

import sys
import warnings

import torch

from benchmarks.gpu.interpreter import repair
from benchmarks.gpu.shapes import NAMED, Step, check, tolerance

LEFT_TO_THE_BENCHMARK = {
    "two layers",
    "multi-query",
    "fp8",
    "head of 80",
    "head of 256",
    "top 1",
    "top 100",
    "eight layers",
    "prefill, sinks, cap",
}


def verdict(name: str) -> str:
    """ "ok", or what is wrong."""
    shape = NAMED[name]
    outcome = check(shape, device="cpu")
    wrong = []
    if not outcome.max_abs_error <= tolerance(shape):
        wrong.append(f"error {outcome.max_abs_error:.2e}")
    if not outcome.periodicity_error <= tolerance(shape):
        wrong.append(f"periodicity off by {outcome.periodicity_error:.2e}")
    if not outcome.topk_right:
        wrong.append("top-k differs")
    if not outcome.same_output:
        wrong.append("the stock kernel's output changed")
    return ", ".join(wrong) or "ok"


def ties() -> str:
    """Of equal probabilities the lower position comes first, across blocks and in both searches."""
    step = Step(NAMED["longer than the blocks looked at"], device="cpu")
    for query in step.queries:
        query.zero_()
    captured, _ = step.run()
    return "ok" if captured.topk_positions.tolist() == [[0, 1]] * 2 else f"got {captured.topk_positions.tolist()}"


def no_room() -> str:
    """A request that the buffers cannot hold is not captured; those before it are, and nothing else is written."""
    step = Step(NAMED["halves"], device="cpu")
    buffers = step.capture.buffers
    room = buffers.shape.capacity
    step.capture.begin_step(
        seq_lens=torch.tensor([room - 128, 129, 5]), prompt_lens=torch.tensor([1, 1, 1], dtype=torch.int32)
    )
    offsets = buffers.plan[:3].tolist()
    return "ok" if offsets == [0, -1, -1] else f"got {offsets}"


def main() -> int:
    """Run what the command line names, else everything."""
    warnings.simplefilter("error")
    if not repair():
        print("triton is not interpreting: set TRITON_INTERPRET=1 before it is imported", file=sys.stderr)
        return 2
    others = {"ties": ties, "no room": no_room}
    for name in sys.argv[1:] or [*sorted(NAMED.keys() - LEFT_TO_THE_BENCHMARK), *others]:
        print(f"{name}|{others[name]() if name in others else verdict(name)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
