"""`place`: rows/s placed on a finished map, and how trustworthy they lie there, against umap-learn's transform."""

from __future__ import annotations

import time
import warnings

import numpy as np

from attn_assets.discovery.mapping import MIN_DIST, NUM_NEIGHBOURS, fit_map, place
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.window import window_from_table
from benchmarks.captured import mixed
from benchmarks.discovery import trust
from benchmarks.measure import figure_from_limit, figure_from_pairs, report

ROWS = 10_000
PLACED = 4_000
PAIRS = 3


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; `rows` are fitted. True where ours is the faster; the trustworthiness of both is told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        features = window_from_table(mixed((rows or ROWS) + PLACED)).features
        known, fresh = features[PLACED:], features[:PLACED]
        frame = Frame(known)
        frame_map = fit_map(frame, seed=0)
        model = UMAP(n_neighbors=NUM_NEIGHBOURS, min_dist=MIN_DIST, random_state=0).fit(known)
        place(frame, frame_map, fresh[:600])  # both compiled before anything is timed
        model.transform(fresh[:100])
        measured = []
        for _ in range(PAIRS):
            start = time.perf_counter()
            ours = place(frame, frame_map, fresh)
            between = time.perf_counter()
            theirs = model.transform(fresh)
            measured.append((PLACED / (between - start), PLACED / (time.perf_counter() - between)))
    speed = figure_from_pairs(
        measured, name="place", figure=f"rows_per_s, {len(known)} fitted", unit="rows/s", peer="umap-learn transform",
        target="ratio >= 1", floor=1.0,
    )  # fmt: skip
    lost = trust(fresh, np.asarray(theirs, dtype=np.float32)) - trust(fresh, ours)
    quality = figure_from_limit(
        name="place", figure="trustworthiness_lost", value=lost, unit="share", target="told", met=True
    )
    report([speed, quality], as_json=as_json)
    return speed.met
