"""What `test_ops_exact` runs in a process of its own, where triton interprets: each shape against float64.

Prints one line a case, ``name|verdict``, and leaves with 0 where every case was run.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from attn_core.errors import SettingsError
from attn_core.head_projection import NUM_HEAD_FIGURES
from attn_kernels.ops import finish as finish_ops
from attn_kernels.ops.buffers import Buffers, CaptureShape
from attn_kernels.ops.capture import Capture, Keys
from attn_kernels.torch_ops import Captured, Projection
from benchmarks.gpu.interpreter import repair
from benchmarks.gpu.shapes import NAMED, Shape, Step, check, random_projection, tolerance

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
    if not outcome.head_figures_error <= tolerance(shape):
        wrong.append(f"head figures off by {outcome.head_figures_error:.2e}")
    if not outcome.sketch_error <= tolerance(shape):
        wrong.append(f"sketch off by {outcome.sketch_error:.2e}")
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


class Launches:
    """Stands in for a kernel and counts its launches."""

    def __init__(self, name: str, counts: Counter[str]) -> None:
        self.name, self.counts, self.kernel = name, counts, getattr(finish_ops, name)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.counts[self.name] += 1
        return self.kernel[grid]


def launches(shape: Shape) -> tuple[Captured, Step, Counter[str]]:
    """A step, and how often each kernel of `finish` was launched in it."""
    counts: Counter[str] = Counter()
    names = ("sums_kernel", "heads_kernel", "records_kernel", "rows_kernel")
    kernels = {name: getattr(finish_ops, name) for name in names}
    for name in names:
        setattr(finish_ops, name, Launches(name, counts))
    try:
        step = Step(shape, device="cpu")
        captured, _ = step.run()
    finally:
        for name, kernel in kernels.items():
            setattr(finish_ops, name, kernel)
    return captured, step, counts


def heads_off() -> str:
    """Without single heads all is as it was: launches, buffers, outputs; with them the fingerprint is bitwise so."""
    shape = replace(NAMED["two layers"], sinks=True, window=90)
    with_heads, own_step, own_launches = launches(shape)
    without, step, plain_launches = launches(replace(shape, single_heads=False))
    _, _, halves = launches(replace(shape, single_heads=False, halves=True))
    _, _, own_halves = launches(replace(shape, halves=True))
    layout, own_layout = step.capture.shape, own_step.capture.shape
    new = own_layout.num_elements().keys() - layout.num_elements().keys()
    same = [
        torch.equal(getattr(without, name), getattr(with_heads, name))
        for name in ("vector", "companions", "topk_positions", "topk_probs")
    ]
    checks = {
        "fingerprints differ": all(same),
        f"launched {plain_launches}": plain_launches == {"sums_kernel": 1, "rows_kernel": 1},
        f"with heads launched {own_launches}": own_launches == plain_launches,
        f"in halves launched {halves}": halves == {"sums_kernel": 1, "records_kernel": 1, "rows_kernel": 1},
        f"with heads in halves launched {own_halves}": own_halves == {**halves, "heads_kernel": 1},
        "a sketch without single heads": without.sketch is None and step.capture.buffers.heads is None,
        "outputs wider": step.capture.packed.shape == (3, 24 + 2 * shape.top_k),
        "outputs with heads not 21 wider": own_step.capture.packed.shape == (3, 24 + 2 * shape.top_k + 21),
        "sums longer": step.capture.buffers.sums.numel() == layout.capacity + layout.num_blocks * 8,
        f"new buffers {new}": new == {"head_masses", "head_entropies", "projection", "sampled_row"},
        "bytes counted wrongly": all(_bytes(Buffers(s, device="cpu")) == s.num_bytes for s in (layout, own_layout)),
    }
    return ", ".join(what for what, right in checks.items() if not right) or "ok"


def _bytes(buffers: Buffers) -> int:
    """What the buffers' tensors take, views counted once."""
    heads = [] if buffers.heads is None else list(vars(buffers.heads).values())
    tensors = [t for t in (*vars(buffers).values(), *heads) if isinstance(t, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def projections() -> str:
    """The sketch is NaN before the first matrix, follows each new one, and is NaN again once there is none."""
    shape = NAMED["sinks"]
    step = Step(replace(shape, single_heads=True), device="cpu")
    capture = step.capture
    fresh = Capture(capture.shape, device="cpu")
    step.capture = fresh
    fresh.buffers.sinks.copy_(capture.buffers.sinks)
    before, _ = step.run()
    wrong = [] if bool(before.sketch is not None and before.sketch.isnan().all()) else ["a sketch before the matrix"]
    if bool(before.vector.isnan().any()):
        wrong.append("no fingerprint before the matrix")
    # A recorded graph replays its launches over the same buffers: so does finishing the same scores again.
    for seed in (1, 2):
        projection = random_projection(layers=shape.layers, heads=shape.heads, seed=seed)
        own = Projection.of_rank(projection, num_heads=shape.heads)
        fresh.set_projection(own.matrix, own.offset)
        for row in range(len(shape.lens)):
            fresh.sample_row(row)
            captured = fresh.finish(num_splits=step.num_splits)
            want = torch.from_numpy(projection.project(fresh.sampled_figures.numpy()))[0]
            if captured.sketch is None or not torch.allclose(captured.sketch[row], want, atol=1e-6, rtol=0):
                wrong.append(f"sketch of row {row} is not of matrix {seed}")
    for matrix, offset in ((own.matrix[1:], own.offset), (own.matrix * 0, own.offset[1:])):
        try:
            fresh.set_projection(matrix, offset)
            wrong.append(f"took {list(matrix.shape)}, {list(offset.shape)}")
        except ValueError:
            again = fresh.finish(num_splits=step.num_splits)
            if again.sketch is None or captured.sketch is None or not torch.equal(again.sketch, captured.sketch):
                wrong.append("a refused projection left a trace")
    fresh.clear_projection()
    cleared = fresh.finish(num_splits=step.num_splits)
    if not bool(cleared.sketch is not None and cleared.sketch.isnan().all()):
        wrong.append("a sketch without a projection")
    return ", ".join(wrong) or "ok"


def sampled_rows() -> str:
    """`sample_row` names the request whose figures come; with -1 none are written, with a skipped one they are NaN."""
    shape = replace(NAMED["halves"], lens=(5, 130, 77), skipped=2, single_heads=True)
    wrong = []
    for halves in (False, True):
        step = Step(replace(shape, halves=halves), device="cpu")
        step.run()
        found = {}
        for row in (1, 2, 0):
            step.capture.sample_row(row)
            _finished(step)
            found[row] = step.capture.sampled_figures.clone()
            if row != shape.skipped:
                step.expected(row)
                want = torch.from_numpy(step.last_figures).float()
                if not torch.allclose(found[row], want, atol=1e-5, rtol=0):
                    wrong.append(f"row {row} off by {(found[row] - want).abs().max():.2e}")
        if not bool(found[2].isnan().all()):
            wrong.append("figures of a request that was not captured")
        for none in (-1, 3):
            step.capture.sampled_figures.fill_(7)
            step.capture.sample_row(none)
            _finished(step)
            left = 0 if halves else 7
            if not bool((step.capture.sampled_figures == left).all()):
                wrong.append(f"sampled row {none} wrote, halves {halves}")
    return ", ".join(wrong) or "ok"


def _finished(step: Step) -> Captured:
    """The same scores finished again."""
    if step.shape.halves:
        step.capture.sums(num_splits=step.num_splits)
        return step.capture.statistics()
    return step.capture.finish(num_splits=step.num_splits)


def ranks() -> str:
    """Heads over three ranks, their sums added up once: as one process has it, on every rank, step after step."""
    shape = replace(NAMED["two layers"], kind="beside", heads=6, kv_heads=3, sinks=True, lens=(5, 230, 101), skipped=0)
    step = Step(shape, device="cpu")
    step.capture.sample_row(1)
    whole, _ = step.run()
    whole_figures = step.capture.sampled_figures
    own_heads, num_ranks = 2, 3
    captures = []
    for rank in range(num_ranks):
        layout = replace(step.capture.shape, num_heads=own_heads, total_heads=shape.heads, first_head=rank * own_heads)
        capture = Capture(layout, device="cpu")
        own = Projection.of_rank(step.projection, num_heads=own_heads, first_head=rank * own_heads)
        capture.set_projection(own.matrix, own.offset)
        heads = slice(rank * own_heads, (rank + 1) * own_heads)
        capture.buffers.sinks.copy_(step.capture.buffers.sinks[:, heads])
        capture.sample_row(1)
        captures.append((capture, heads))
    wrong = []
    for turn in range(2):
        for rank, (capture, heads) in enumerate(captures):
            step.capture = capture
            step.begin()
            for c in range(shape.layers):
                keys = Keys(cache=step.keys[c][:, rank : rank + 1], slots=step.slots, slot_rows=step.indptr)
                capture.beside(c, query=step.queries[c][:, heads], keys=keys, scaling=step.scaling)
        added = torch.stack([capture.sums() for capture, _ in captures]).sum(dim=0)
        for rank, (capture, _) in enumerate(captures):
            capture.buffers.sums.copy_(added)
            captured = capture.statistics()
            for name in ("vector", "companions", "topk_probs", "sketch"):
                one, other = getattr(whole, name), getattr(captured, name)
                if not torch.allclose(one, other, atol=2e-6, rtol=0, equal_nan=True):
                    wrong.append(f"turn {turn}, rank {rank}: {name} off by {(one - other)[1:].abs().max():.2e}")
            if not torch.allclose(capture.sampled_figures, whole_figures, atol=2e-6, rtol=0):
                wrong.append(f"turn {turn}, rank {rank}: figures differ")
    return ", ".join(wrong) or "ok"


def wrong_shapes() -> str:
    """A rank's heads lie within all heads; what was made without single heads takes no projection."""
    layout = CaptureShape(layers=(0,) * 8, num_heads=2, max_rows=1, positions=128, max_splits=1)
    wrong = []
    for first in (-1, 3):
        try:
            replace(layout, total_heads=4, first_head=first, heads=True)
            wrong.append(f"first head {first} of 4 taken")
        except SettingsError:
            pass
    capture = Capture(layout, device="cpu")
    for call in (lambda: capture.sample_row(0), lambda: capture.set_projection(torch.zeros(10, 21), torch.zeros(21))):
        try:
            call()
            wrong.append("a projection without single heads")
        except RuntimeError:
            pass
    if replace(layout, heads=True, total_heads=4).num_elements()["projection"] != (2 * NUM_HEAD_FIGURES + 1, 32):
        wrong.append("rows of other ranks' heads")
    return ", ".join(wrong) or "ok"


OTHERS = {
    "ties": ties,
    "no room": no_room,
    "heads off": heads_off,
    "projections": projections,
    "sampled rows": sampled_rows,
    "ranks": ranks,
    "wrong shapes": wrong_shapes,
}


def main() -> int:
    """Run what the command line names, else everything."""
    warnings.simplefilter("error")
    if not repair():
        print("triton is not interpreting: set TRITON_INTERPRET=1 before it is imported", file=sys.stderr)
        return 2
    for name in sys.argv[1:] or [*sorted(NAMED.keys() - LEFT_TO_THE_BENCHMARK), *OTHERS]:
        print(f"{name}|{OTHERS[name]() if name in OTHERS else verdict(name)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
