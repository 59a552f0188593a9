"""How every benchmark here measures and reports: pairs in turn, medians with their spread, one JSON line a figure."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PAIRS = 5


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure beside its peer's."""

    name: str
    """The benchmark."""
    figure: str
    value: float
    unit: str
    peer: str
    peer_value: float | None
    ratio: float | None
    """Median of the pairs' ratios: ours over the peer's."""
    ratio_min: float | None
    ratio_max: float | None
    target: str
    met: bool
    machine: str
    commit: str


def pairs(ours: Callable[[], float], peer: Callable[[], float], *, count: int = PAIRS) -> list[tuple[float, float]]:
    """Measure the two in turn, A B A B ...; each function returns its own figure (a rate or seconds)."""
    return [(ours(), peer()) for _ in range(count)]


def figure_from_pairs(
    measured: Sequence[tuple[float, float]], *, name: str, figure: str, unit: str, peer: str, target: str, floor: float
) -> Figure:
    """The medians of both sides; met where the median ratio is at least `floor`."""
    ratios = [ours / theirs for ours, theirs in measured]
    return Figure(
        name=name,
        figure=figure,
        value=statistics.median(ours for ours, _ in measured),
        unit=unit,
        peer=peer,
        peer_value=statistics.median(theirs for _, theirs in measured),
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        target=target,
        met=statistics.median(ratios) >= floor,
        machine=machine(),
        commit=commit(),
    )


def figure_from_limit(*, name: str, figure: str, value: float, unit: str, target: str, met: bool) -> Figure:
    """A figure that is held against a limit and not against a peer."""
    return Figure(
        name=name, figure=figure, value=value, unit=unit, peer="limit", peer_value=None, ratio=None, ratio_min=None,
        ratio_max=None, target=target, met=met, machine=machine(), commit=commit(),
    )  # fmt: skip


def machine() -> str:
    """What the figures were measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def commit() -> str:
    """The commit measured, marked where the tree had changes."""
    root = Path(__file__).parent
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


def report(figures: Sequence[Figure], *, as_json: bool) -> None:
    """Print the figures and append them to ``benchmarks/results/NAME.jsonl``."""
    RESULTS.mkdir(exist_ok=True)
    for one in figures:
        line = json.dumps(asdict(one))
        with (RESULTS / f"{one.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if as_json:
            print(line, flush=True)
            continue
        beside = ""
        if one.ratio is not None and one.peer_value is not None:
            beside = (
                f"  {one.peer}: {one.peer_value:,.4g} {one.unit}"
                f"  ratio {one.ratio:.3f} ({one.ratio_min:.3f}..{one.ratio_max:.3f})"
            )
        verdict = "met" if one.met else "NOT MET"
        print(
            f"{one.name} {one.figure}: {one.value:,.4g} {one.unit}{beside}  target {one.target}: {verdict}", flush=True
        )
