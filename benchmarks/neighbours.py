"""`neighbours`: rows/s of the 15 nearest of every row, exact, against SciPy's k-d tree (exact) and pynndescent."""

from __future__ import annotations

import os
import time
import warnings
from functools import partial

import numpy as np

from attn_assets.discovery.mapping import NUM_NEIGHBOURS
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.window import window_from_table
from benchmarks.captured import mixed
from benchmarks.measure import figure_from_limit, figure_from_pairs, pairs, report

ROWS = 10_000
MIN_RATIO = 1.0


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where we are the faster and miss nothing."""
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    features = window_from_table(mixed(rows or ROWS)).features
    ours = Frame(features).nearest(features, k=NUM_NEIGHBOURS)
    exact, _ = cKDTree(features).query(features, k=NUM_NEIGHBOURS, workers=-1)
    worst = float(np.abs(ours.distance - exact).max())
    figures = []
    for peer, rate in (("scipy cKDTree", _scipy_rate), ("pynndescent", _descent_rate)):
        measured = pairs(partial(_rate, features), partial(rate, features))
        figures.append(
            figure_from_pairs(
                measured, name="neighbours", figure=f"rows_per_s, {len(features)} rows", unit="rows/s", peer=peer,
                target=f"ratio >= {MIN_RATIO}", floor=MIN_RATIO,
            )
        )  # fmt: skip
    figures.append(
        figure_from_limit(
            name="neighbours", figure="max_abs_error", value=worst, unit="distance", target="<= 1e-5", met=worst <= 1e-5
        )
    )
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


def _rate(features: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> float:
    start = time.perf_counter()
    Frame(features).nearest(features, k=NUM_NEIGHBOURS)
    return len(features) / (time.perf_counter() - start)


def _scipy_rate(features: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> float:
    from scipy.spatial import cKDTree

    start = time.perf_counter()
    cKDTree(features, balanced_tree=False).query(features, k=NUM_NEIGHBOURS, workers=os.cpu_count())
    return len(features) / (time.perf_counter() - start)


def _descent_rate(features: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pynndescent import NNDescent

        NNDescent(features[:500], n_neighbors=NUM_NEIGHBOURS, random_state=0)  # compiled before it is timed
        start = time.perf_counter()
        NNDescent(features, n_neighbors=NUM_NEIGHBOURS, random_state=0).neighbor_graph  # noqa: B018 - computed on access
    return len(features) / (time.perf_counter() - start)
