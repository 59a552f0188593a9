"""`kernel_exact`: the Triton kernels in the interpreter against float64, over named and hypothesis-drawn shapes."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import figure_from_limit, report
from benchmarks.server_python import answer, start

DRAWN = 240
"""Beside the named ones; hypothesis draws some of them twice, more than 200 different ones are left together."""
PROCESSES = 2
LIMITS = {"fp32": 1e-5, "bf16": 2e-3, "fp8": 2e-3}


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where every target is met. `rows` is the number of shapes drawn."""
    count = rows or DRAWN
    parts = [
        start("benchmarks.gpu.exact", "--count", str(count), "--part", f"{i}/{PROCESSES}", interpret=True)
        for i in range(PROCESSES)
    ]
    done: list[dict[str, Any]] = [outcome for part in parts for outcome in answer(part)]

    def figure(name: str, value: float, unit: str, target: str, met: bool) -> Any:
        return figure_from_limit(name="kernel_exact", figure=name, value=value, unit=unit, target=target, met=met)

    figures = []
    for dtype, limit in LIMITS.items():
        worst = max((o["max_abs_error"] for o in done if o["shape"]["dtype"] == dtype), default=0.0)
        figures.append(figure(f"max_abs_error_{dtype}", worst, "abs", f"<= {limit:g}", worst <= limit))
        for error in ("head_figures_error", "sketch_error"):
            of_heads = max((o[error] for o in done if o["shape"]["dtype"] == dtype), default=0.0)
            figures.append(figure(f"max_{error}_{dtype}", of_heads, "abs", f"<= {limit:g}", of_heads <= limit))
        period = max((o["periodicity_error"] for o in done if o["shape"]["dtype"] == dtype), default=0.0)
        figures.append(figure(f"max_periodicity_error_{dtype}", period, "abs", f"<= {limit:g}", period <= limit))
    wrong = sum(not o["topk_right"] for o in done)
    changed = sum(not o["same_output"] for o in done)
    figures += [
        figure("topk_sets_wrong", wrong, "shapes", "0", wrong == 0),
        figure("stock_outputs_changed", changed, "shapes", "0", changed == 0),
        figure(
            "shapes", len(done), "shapes", ">= 200" if rows is None else "any", rows is not None or len(done) >= 200
        ),
    ]
    report(figures, as_json=as_json)
    return all(one.met for one in figures)
