"""`discovery`: a whole hour of rows, read, embedded, clustered, labelled and published, against the plain flow.

The plain flow is umap-learn's fit on the same sample, its transform of the other rows, and hdbscan on the sample. Its
transform is timed on `TRANSFORMED` rows and reckoned up to all of them. Quality is looked at before anything is told:
the map against umap-learn's on the same sample, the clusters against hdbscan's on the same map.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from attn_assets.discovery import quality
from attn_assets.discovery.window import window_from_table
from attn_assets.settings import Settings
from benchmarks.captured import captured_table, mixed
from benchmarks.discovery_data import run_discovery, write_hour
from benchmarks.measure import Figure, commit, figure_from_limit, machine, report

ROWS = 1_000_000
RUNS = 3
TRANSFORMED = 4_000
MAX_SECONDS, NEXT_SECONDS = 60.0, 15.0
MAX_BYTES = 3e9
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


def plain_flow(features: F32, *, num_rows: int, min_samples: int) -> Plain:
    """umap-learn with a seed (as ours has one), then hdbscan, as their documentation has them used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hdbscan import HDBSCAN
        from umap import UMAP

        UMAP(n_neighbors=5, random_state=0).fit(features[:200])  # compiled before anything is timed
        start = time.perf_counter()
        model = UMAP(n_neighbors=15, min_dist=0.1, random_state=0).fit(features)
        fit_s = time.perf_counter() - start
        left = num_rows - len(features)
        start = time.perf_counter()
        if left:
            model.transform(window_from_table(mixed(TRANSFORMED, seed=1)).features)
        transform_s = (time.perf_counter() - start) * left / TRANSFORMED
        start = time.perf_counter()
        HDBSCAN(min_cluster_size=Settings.min_cluster_size, min_samples=min_samples).fit(model.embedding_)
        cluster_s = time.perf_counter() - start
    print(
        f"  plain flow: fit {fit_s:.1f} s, transform {transform_s:.1f} s (reckoned), hdbscan {cluster_s:.1f} s",
        file=sys.stderr,
    )
    return Plain(seconds=fit_s + transform_s + cluster_s, trustworthiness=trust(features, model.embedding_))


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
            features, positions, labels = file["features"], file["positions"], file["labels"]
            min_samples = int(file["min_samples"])
    ari = plain_ari(positions, labels, min_samples=min_samples)
    plain = plain_flow(features, num_rows=count, min_samples=min_samples)
    figures = _figures(runs, plain, ours=trust(features, positions), ari=ari)
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


def _figures(runs: list[dict[str, float]], plain: Plain, *, ours: float, ari: float) -> list[Figure]:
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
        figure_from_limit(
            name="discovery", figure="ari", value=ari, unit="index", target=f">= {MIN_ARI}", met=ari >= MIN_ARI
        ),
    ]
