"""`discovery`: a whole hour of rows, read, embedded, clustered, labelled and published, against the plain flow.

The plain flow is what the libraries' documentation shows for the same work: umap-learn's fit to two axes on the same
sample and its transform of the other rows, for the map; umap-learn's fit to five axes and hdbscan on the landmarks, and
approximate_predict of the other rows, for the clusters. It is warmed as ours is; transform and approximate_predict are
timed on `TRANSFORMED` rows each and reckoned up, their fixed costs, timed on few rows, apart. Quality is looked at
before anything is told: the map against umap-learn's on the same sample.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_assets.discovery import quality
from attn_assets.settings import Settings
from benchmarks.captured import captured_table
from benchmarks.discovery_data import run_discovery, write_hour
from benchmarks.measure import Figure, commit, figure_from_limit, machine, report

ROWS = 1_000_000
RUNS = 3
TRANSFORMED = 100_000
PREDICTED = 10_000
"""Rows that approximate_predict, which takes them one by one, is timed on."""
MAX_SECONDS, NEXT_SECONDS = 25.0, 15.0
MAX_BYTES = 2e9
MAX_TRUST_LOST = 0.01
MIN_ARI = 0.95
JUDGED = 3
"""Draws of 2,000 rows on which trustworthiness is judged."""
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The plain flow on a sample."""

    seconds: float
    """Of all rows: the transform is reckoned up."""
    trustworthiness: float


def trust(features: F32, positions: F32) -> float:
    """Mean trustworthiness of `JUDGED` draws."""
    return statistics.mean(quality.trustworthiness(features, positions, seed=seed) or 0.0 for seed in range(JUDGED))


def plain_flow(points: F32, landmarks: F32, *, num_rows: int, min_samples: int) -> Plain:
    """umap-learn with a seed (as ours has one) and hdbscan, as their documentation has them used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hdbscan import HDBSCAN, approximate_predict
        from umap import UMAP

        warm = UMAP(n_neighbors=5, random_state=0).fit(points[:500])  # compiled before anything is timed
        warm.transform(points[:500])
        seconds = {}

        def timed(name: str, work: Callable[[], Any]) -> Any:
            start = time.perf_counter()
            found = work()
            seconds[name] = time.perf_counter() - start
            return found

        model = timed("map", lambda: UMAP(n_neighbors=15, min_dist=0.1, random_state=0).fit(points))
        space = UMAP(n_neighbors=15, min_dist=0.0, n_components=5, random_state=0)
        timed("space", lambda: space.fit(landmarks))
        found = timed(
            "hdbscan",
            lambda: HDBSCAN(
                min_cluster_size=Settings.min_cluster_size, min_samples=min_samples, prediction_data=True
            ).fit(space.embedding_),
        )
        others = _others(points, TRANSFORMED)
        seconds["transform"] = _reckoned(model.transform, others, left=num_rows - len(points))
        seconds["transform to the space"] = _reckoned(space.transform, others, left=num_rows - len(landmarks))
        places = space.transform(others[:PREDICTED])
        predict = partial(approximate_predict, found)
        seconds["approximate_predict"] = _reckoned(predict, places, left=num_rows - len(landmarks))
    shown = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    print(f"  plain flow: {shown} (transforms and approximate_predict reckoned up)", file=sys.stderr)
    return Plain(seconds=sum(seconds.values()), trustworthiness=trust(points, model.embedding_))


def _others(points: F32, count: int) -> F32:
    """So many rows as those that are not in the sample: mixtures of two of its rows."""
    rng = np.random.default_rng(1)
    one, other = (points[rng.integers(0, len(points), count)] for _ in range(2))
    mixed_rows: F32 = (0.9 * one + 0.1 * other).astype(np.float32)
    return mixed_rows


def _reckoned(work: Callable[[F32], Any], rows: F32, *, left: int) -> float:
    """Seconds for `left` rows from those for all of `rows` and for a twentieth of them: fixed costs count once."""
    few = rows[: max(len(rows) // 20, 1)]
    took = []
    for part in (few, rows):
        start = time.perf_counter()
        work(part)
        took.append(time.perf_counter() - start)
    each = max(took[1] - took[0], 0.0) / (len(rows) - len(few))
    return max(took[0] - each * len(few), 0.0) + each * left if left else 0.0


def plain_ari(positions: F32, labels: npt.NDArray[np.int32], *, min_samples: int) -> float:
    """Adjusted Rand index of our labels of the sample against hdbscan's on the same map, noise a cluster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hdbscan import HDBSCAN
        from sklearn.metrics import adjusted_rand_score

        theirs = HDBSCAN(
            min_cluster_size=Settings.min_cluster_size, min_samples=min_samples, approx_min_span_tree=False
        ).fit(positions.astype(np.float64))
    return float(adjusted_rand_score(theirs.labels_, labels))


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where every target is met."""
    count = rows or ROWS
    print(f"  {captured_table().num_rows} captured rows, mixed to {count}", file=sys.stderr, flush=True)
    with TemporaryDirectory(prefix="attn-bench-") as name:
        folder = Path(name)
        write_hour(folder / "warm.db", num_rows=3_000)
        run_discovery(folder / "warm.db", folder)  # compiled once a machine, not once a run
        db = folder / "hour.db"
        write_hour(db, num_rows=count)
        runs = []
        for _ in range(RUNS):
            runs.append(run_discovery(db, folder))
            shown = ", ".join(f"{stage} {value:.2f}" for stage, value in runs[-1].items())
            print(f"  {shown}", file=sys.stderr, flush=True)
        with np.load(folder / "sample.npz") as file:
            points, positions, landmarks = file["points"], file["positions"], file["landmarks"]
            min_samples = int(file["min_samples"])
    plain = plain_flow(points, landmarks, num_rows=count, min_samples=min_samples)
    figures = _figures(runs, plain, ours=trust(points, positions))
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


def _figures(runs: list[dict[str, float]], plain: Plain, *, ours: float) -> list[Figure]:
    seconds = sorted(one["seconds"] for one in runs)
    peak = max(one["peak_rss_bytes"] for one in runs)
    median = statistics.median(seconds)
    ratios = sorted(plain.seconds / one for one in seconds)
    timed = Figure(
        name="discovery",
        figure="seconds",
        value=median,
        unit="s",
        peer="plain flow (transform reckoned up)",
        peer_value=plain.seconds,
        ratio=plain.seconds / median,
        ratio_min=ratios[0],
        ratio_max=ratios[-1],
        target=f"< {MAX_SECONDS:g}, next {NEXT_SECONDS:g}",
        met=median < MAX_SECONDS,
        machine=machine(),
        commit=commit(),
    )
    lost = plain.trustworthiness - ours
    return [
        timed,
        figure_from_limit(
            name="discovery",
            figure="peak_rss_bytes",
            value=peak,
            unit="bytes",
            target=f"<= {MAX_BYTES:g}",
            met=peak <= MAX_BYTES,
        ),
        figure_from_limit(
            name="discovery",
            figure="trustworthiness",
            value=ours,
            unit="share",
            target=f">= umap-learn's {plain.trustworthiness:.3f} - {MAX_TRUST_LOST}",
            met=lost <= MAX_TRUST_LOST,
        ),
    ]
