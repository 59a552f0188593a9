"""`classify_batch`: vectors/s of the served classifier on two threads, against `hdbscan.approximate_predict`.

The landmarks are found as discovery finds them, on mixed captured rows. What the served classifier says of rows that
it has not seen is held against what discovery itself says of them when they are in its window (the same rule: 1.0 is
expected), and, for telling, against approximate_predict on umap-learn's placement of them.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.metrics import adjusted_rand_score

from attn_assets.discovery.grouping import NUM_AXES, find_landmark_clusters
from attn_assets.discovery.learned_space import coordinates, learn_space, own_sketches
from attn_assets.discovery.mapping import fit_map, place
from attn_assets.discovery.models import Models
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.serving import LandmarkRows, label_rows
from attn_assets.discovery.window import Window, window_from_table
from attn_assets.settings import Settings
from attn_core.classify import Classified, Classifier
from attn_core.space import Space
from benchmarks.captured import mixed
from benchmarks.measure import figure_from_limit, figure_from_pairs, pairs, report

SAMPLE = 20_000
ROWS = 200_000
PEER_ROWS = 2_000
THREADS = 2
MIN_RATIO = 20.0
MIN_AGREEMENT = 0.97
MAX_CLAIMED = 0.05


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where all targets are met. `rows` are classified at a time."""
    from hdbscan import HDBSCAN, approximate_predict

    table = pa.concat_tables([mixed(SAMPLE), mixed(rows or ROWS, seed=1)])
    window, models = window_from_table(table), Models(names=("bench",), of_row=np.zeros(table.num_rows, np.int64))
    space = learn_space(window, models, seed=0)
    known = np.arange(table.num_rows) < SAMPLE
    landmarks = LandmarkRows.chosen(
        window, models, space,
        in_sample=known, row_ids=np.arange(table.num_rows), positions=np.zeros((table.num_rows, 2), np.float32),
    )  # fmt: skip
    size = Settings.min_cluster_size
    found, min_samples = find_landmark_clusters(landmarks.at.main, min_cluster_size=size, seed=0)
    numbers = np.arange(found.num_clusters, dtype=np.int32)
    arrays = landmarks.arrays(found.labels, cluster_ids=numbers)
    fresh = np.flatnonzero(~known)
    offline = label_rows(window, models, space, arrays, fresh, threads=THREADS)
    classifier = Classifier(arrays, run_id=None, space=space)
    given = _Rows(window=window, space=space, rows=fresh)
    answer = given.classify(classifier).cluster_id
    inside = offline >= 0
    agreement = float((answer == offline)[inside].mean())
    claimed = float((answer >= 0)[~inside].mean()) if (~inside).any() else 0.0
    laid = fit_map(Frame(landmarks.at.main), seed=0, num_axes=NUM_AXES, min_dist=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HDBSCAN(min_cluster_size=size, min_samples=min_samples, prediction_data=True).fit(
            laid.astype(np.float64)
        )
        main = coordinates(window, models, space, fresh[:PEER_ROWS]).main
        places = place(Frame(landmarks.at.main), laid, main).astype(np.float64)
        judged = approximate_predict(model, places)[0]
    alike = adjusted_rand_score(judged[judged >= 0], answer[:PEER_ROWS][judged >= 0])
    print(
        f"  {found.num_clusters} clusters, {len(landmarks.row)} landmarks by "
        f"{'sketches' if space.projection else 'averages'}, {inside.mean():.0%} of rows in a cluster; adjusted Rand "
        f"with approximate_predict {alike:.2f}",
        file=sys.stderr,
    )
    measured = pairs(partial(_rate, classifier, given), partial(_peer_rate, model, places))
    speed = figure_from_pairs(
        measured, name="classify_batch", figure="vectors_per_s", unit="vectors/s",
        peer="hdbscan.approximate_predict", target=f"ratio >= {MIN_RATIO:g}", floor=MIN_RATIO,
    )  # fmt: skip
    figures = [
        speed,
        figure_from_limit(
            name="classify_batch", figure="agreement", value=agreement, unit="share", target=f">= {MIN_AGREEMENT}",
            met=agreement >= MIN_AGREEMENT,
        ),
        figure_from_limit(
            name="classify_batch", figure="noise_claimed", value=claimed, unit="share", target=f"<= {MAX_CLAIMED}",
            met=claimed <= MAX_CLAIMED,
        ),
    ]  # fmt: skip
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows to classify, as they arrive."""

    window: Window
    space: Space
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]

    @cached_property
    def given(self) -> dict[str, np.ndarray[Any, Any]]:
        """What the classifier takes."""
        return {
            "vectors": self.window.vectors[self.rows],
            "context_len": self.window.given_context_len[self.rows],
            "sink_mass": self.window.given_sink_mass[self.rows],
            "periodicity": self.window.given_periodicity[self.rows],
            "head_sketch": own_sketches(self.window, self.space)[self.rows],
        }

    def classify(self, classifier: Classifier) -> Classified:
        """Zone and cluster of each."""
        return classifier.classify(
            **self.given, head_projection=self.space.projection, model_id="bench", threads=THREADS
        )


def _rate(classifier: Classifier, given: _Rows) -> float:
    start = time.perf_counter()
    given.classify(classifier)
    return len(given.rows) / (time.perf_counter() - start)


def _peer_rate(model: object, places: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    from hdbscan import approximate_predict

    start = time.perf_counter()
    approximate_predict(model, places)
    return len(places) / (time.perf_counter() - start)
