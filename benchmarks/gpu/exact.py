"""Exactness over many shapes: `python -m benchmarks.gpu.exact --count 200` prints each outcome as JSON.

In the interpreter the shapes are drawn by hypothesis where it is installed, else by NumPy.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from benchmarks.gpu.interpreter import repair
from benchmarks.gpu.shapes import DTYPES, NAMED, Outcome, Shape, check, draw, drawn, tolerance

T = TypeVar("T")


def drawn_by_hypothesis(count: int, *, part: int) -> list[Shape]:
    """Up to `count` different shapes, the same ones each time."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    shapes: list[Shape] = []

    @seed(part)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data(), number=st.integers(0, 2**31 - 1))
    def collect(data: Any, number: int) -> None:
        def choose(options: Sequence[T]) -> T:
            return data.draw(st.sampled_from(options))  # type: ignore[no-any-return]

        shapes.append(draw(choose, seed=number))

    collect()
    return list(dict.fromkeys(shapes))


def _largest(outcome: Outcome) -> float:
    return max(outcome.max_abs_error, outcome.head_figures_error, outcome.sketch_error)


def outcomes(shapes: Sequence[Shape], *, device: str) -> Iterator[tuple[Shape, Outcome]]:
    """Each shape and how far it was off; what is off is said as it is found."""
    for shape in shapes:
        outcome = check(shape, device=device)
        if not (_largest(outcome) <= tolerance(shape) and outcome.topk_right and outcome.same_output):
            print(f"off: {shape} {outcome}", file=sys.stderr, flush=True)
        yield shape, outcome


def summary(done: Sequence[tuple[Shape, Outcome]]) -> dict[str, Any]:
    """The figures: largest errors by type (bf16 with fp8 keys apart), and how many shapes were off."""

    def worst(kind: str, error: str = "max_abs_error") -> float:
        return max((getattr(o, error) for s, o in done if s.dtype == kind), default=0.0)

    return {
        "num_shapes": len(done),
        "max_abs_error_fp32": worst("fp32"),
        "max_abs_error_bf16": worst("bf16"),
        "max_abs_error_fp8": worst("fp8"),
        **{f"max_{error}_{t}": worst(t, error) for error in ("head_figures_error", "sketch_error") for t in DTYPES},
        "max_periodicity_error_fp32": max((o.periodicity_error for s, o in done if s.dtype == "fp32"), default=0.0),
        "max_periodicity_error_bf16": max((o.periodicity_error for s, o in done if s.dtype != "fp32"), default=0.0),
        "num_topk_wrong": sum(not o.topk_right for _, o in done),
        "num_outputs_changed": sum(not o.same_output for _, o in done),
        "num_off": sum(not _largest(o) <= tolerance(s) for s, o in done),
        "by_kind": {k: sum(s.kind == k for s, _ in done) for k in ("decode", "extend", "unified", "beside")},
        "worst": [asdict(s) for s, _ in sorted(done, key=lambda one: -_largest(one[1]) / tolerance(one[0]))[:1]],
    }


def main() -> None:
    """Named shapes and drawn ones; `--part I/N` takes every N-th."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="drawn shapes, beside the named ones")
    parser.add_argument("--part", default="0/1")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    device = "cpu" if repair() else "cuda"
    part, parts = (int(n) for n in arguments.part.split("/"))
    if importlib.util.find_spec("hypothesis"):
        more = drawn_by_hypothesis(arguments.count, part=7)
    else:
        more = drawn(arguments.count)
    shapes = [*NAMED.values(), *more][part::parts]
    done = list(outcomes(shapes, device=device))
    print(json.dumps([{"shape": asdict(s), **asdict(o)} for s, o in done]))


if __name__ == "__main__":
    main()
