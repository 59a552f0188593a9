"""`hdbscan`: the clusters of a map, against the hdbscan package: rows/s, and whether they are the same."""

from __future__ import annotations

import time
import warnings
from functools import partial

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.clustering import cluster_sample
from attn_assets.discovery.mapping import fit_map
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.window import window_from_table
from attn_assets.settings import Settings
from benchmarks.captured import mixed
from benchmarks.discovery import MIN_ARI, plain_ari
from benchmarks.measure import figure_from_limit, figure_from_pairs, pairs, report

ROWS = 10_000
F32 = npt.NDArray[np.float32]


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where ours is the faster and finds the same."""
    features = window_from_table(mixed(rows or ROWS)).features
    positions = fit_map(Frame(features), seed=0)
    min_samples = Settings.min_cluster_size
    ours = cluster_sample(positions, min_cluster_size=Settings.min_cluster_size, min_samples=min_samples)
    ari = plain_ari(positions, ours.labels, min_samples=min_samples)
    measured = pairs(partial(_rate, positions, min_samples), partial(_peer_rate, positions, min_samples))
    speed = figure_from_pairs(
        measured, name="hdbscan", figure=f"rows_per_s, {len(features)} rows", unit="rows/s", peer="hdbscan",
        target="ratio >= 1", floor=1.0,
    )  # fmt: skip
    same = figure_from_limit(
        name="hdbscan", figure="ari", value=ari, unit="index", target=f">= {MIN_ARI}", met=ari >= MIN_ARI
    )
    report([speed, same], as_json=as_json)
    return speed.met and same.met


def _rate(positions: F32, min_samples: int) -> float:
    start = time.perf_counter()
    cluster_sample(positions, min_cluster_size=Settings.min_cluster_size, min_samples=min_samples)
    return len(positions) / (time.perf_counter() - start)


def _peer_rate(positions: F32, min_samples: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hdbscan import HDBSCAN

        start = time.perf_counter()
        HDBSCAN(min_cluster_size=Settings.min_cluster_size, min_samples=min_samples).fit(positions.astype(np.float64))
    return len(positions) / (time.perf_counter() - start)
