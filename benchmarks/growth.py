"""`growth`: a discovery from ten thousand to three million rows: the log-log slope of its time, and memory a row."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.discovery_data import run_discovery, write_hour
from benchmarks.measure import figure_from_limit, report

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
MAX_SLOPE = 1.05
MAX_BYTES_PER_ROW = 1_500
"""What `attn_assets.memory` plans with: a run holds its window's rows, so memory is not flat, only bounded by row."""


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; `rows` is the largest size."""
    sizes = [size for size in SIZES if size <= (rows or SIZES[-1])]
    seconds, peaks = [], []
    with TemporaryDirectory(prefix="attn-bench-") as name:
        for size in sizes:
            folder = Path(name) / str(size)
            folder.mkdir()
            write_hour(folder / "hour.db", num_rows=size)
            if size == sizes[0]:
                run_discovery(folder / "hour.db", folder)  # compiled once a machine, not once a run
            found = run_discovery(folder / "hour.db", folder)
            (folder / "hour.db").unlink()
            seconds.append(found["seconds"])
            peaks.append(found["peak_rss_bytes"])
            print(f"  {size:>9,} rows: {seconds[-1]:.2f} s, {peaks[-1] / 1e9:.2f} GB", file=sys.stderr, flush=True)
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    # Beyond the sample: what is fitted on it does not grow.
    past = [k for k, size in enumerate(sizes) if size >= 100_000]
    per_row = float(np.polyfit(np.array(sizes)[past], np.array(peaks)[past], 1)[0]) if len(past) > 1 else 0.0
    figures = [
        figure_from_limit(
            name="growth", figure="slope", value=slope, unit="log s / log rows", target=f"<= {MAX_SLOPE}",
            met=slope <= MAX_SLOPE,
        ),
        figure_from_limit(
            name="growth", figure="bytes_per_row_past_the_sample", value=per_row, unit="bytes",
            target=f"<= {MAX_BYTES_PER_ROW}", met=per_row <= MAX_BYTES_PER_ROW,
        ),
    ]  # fmt: skip
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)
