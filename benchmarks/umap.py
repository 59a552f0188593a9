"""`umap`: seconds and trustworthiness of the map of a sample, against umap-learn with a seed, as ours has one."""

from __future__ import annotations

import statistics
import time
import warnings

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.mapping import MIN_DIST, NUM_EPOCHS, NUM_NEIGHBOURS, fit_map
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.window import window_from_table
from benchmarks.captured import mixed
from benchmarks.discovery import MAX_TRUST_LOST, trust
from benchmarks.measure import figure_from_limit, figure_from_pairs, report

ROWS = 10_000
PAIRS = 3
F32 = npt.NDArray[np.float32]


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where ours is the faster and not the worse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP
    features = window_from_table(mixed(rows or ROWS)).features
    fit_map(Frame(features[:500]), seed=0)  # both compiled before anything is timed
    UMAP(n_neighbors=NUM_NEIGHBOURS, random_state=0).fit(features[:500])
    measured, lost = [], []
    for seed in range(PAIRS):
        start = time.perf_counter()
        ours = fit_map(Frame(features), seed=seed)
        between = time.perf_counter()
        theirs = _theirs(features, seed=seed)
        measured.append((1 / (between - start), 1 / (time.perf_counter() - between)))
        lost.append(trust(features, theirs) - trust(features, ours))
    speed = figure_from_pairs(
        measured, name="umap", figure=f"maps_per_s, {len(features)} rows", unit="maps/s", peer="umap-learn, seeded",
        target="ratio >= 1", floor=1.0,
    )  # fmt: skip
    worse = statistics.median(lost)
    quality = figure_from_limit(
        name="umap", figure="trustworthiness_lost", value=worse, unit="share", target=f"<= {MAX_TRUST_LOST}",
        met=worse <= MAX_TRUST_LOST,
    )  # fmt: skip
    report([speed, quality], as_json=as_json)
    return speed.met and quality.met


def _theirs(features: F32, *, seed: int) -> F32:
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = UMAP(n_neighbors=NUM_NEIGHBOURS, min_dist=MIN_DIST, n_epochs=NUM_EPOCHS, random_state=seed)
        found: F32 = model.fit_transform(features)
    return found
