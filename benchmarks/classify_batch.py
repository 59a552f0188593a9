"""`classify_batch`: vectors/s of the served classifier on two threads, against `hdbscan.approximate_predict`.

The classifier is fitted as discovery fits it, on a sample of mixed captured rows, with up to 2,048 prototypes. What it
says of rows that it has not seen is held against approximate_predict, which is given their place on the map.
"""

from __future__ import annotations

import sys
import time
import warnings
from functools import partial

import numpy as np

from attn_assets.discovery import serving
from attn_assets.discovery.clustering import cluster_sample
from attn_assets.discovery.grouping import smoothing
from attn_assets.discovery.mapping import fit_map, place
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.window import Window, window_from_table
from attn_assets.settings import Settings
from attn_core.classify import Classified, Classifier
from benchmarks.captured import mixed
from benchmarks.measure import figure_from_limit, figure_from_pairs, pairs, report

SAMPLE = 20_000
ROWS = 200_000
PEER_ROWS = 2_000
THREADS = 2
MIN_PER_S = 500_000
MIN_AGREEMENT = 0.97


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where both targets are met. `rows` are classified at a time."""
    from hdbscan import HDBSCAN, approximate_predict

    known, fresh = window_from_table(mixed(SAMPLE)), window_from_table(mixed(rows or ROWS, seed=1))
    frame = Frame(known.features)
    on_map = fit_map(frame, seed=0)
    min_samples = smoothing(SAMPLE, min_cluster_size=Settings.min_cluster_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HDBSCAN(min_cluster_size=Settings.min_cluster_size, min_samples=min_samples, prediction_data=True)
        labels = model.fit_predict(on_map.astype(np.float64)).astype(np.int32)
    count = int(labels.max()) + 1
    ours = cluster_sample(on_map, min_cluster_size=Settings.min_cluster_size, min_samples=min_samples).num_clusters
    classifier = _fitted(known, labels, num_clusters=count)
    places = place(frame, on_map, fresh.features[:PEER_ROWS]).astype(np.float64)
    judged = approximate_predict(model, places)[0]
    answer = _classify(classifier, fresh).cluster_id
    inside = judged >= 0
    agreement = float((answer[:PEER_ROWS] == judged)[inside].mean())
    claimed = float((answer[:PEER_ROWS] >= 0)[~inside].mean()) if (~inside).any() else 0.0
    num_prototypes = len(classifier.arrays.prototypes)
    print(
        f"  {count} clusters ({ours} by our tree), {num_prototypes} prototypes, {inside.mean():.0%} of rows in a "
        f"cluster; of the others {claimed:.0%} are claimed",
        file=sys.stderr,
    )
    measured = pairs(partial(_rate, classifier, fresh), partial(_peer_rate, model, places))
    speed = figure_from_pairs(
        measured, name="classify_batch", figure="vectors_per_s", unit="vectors/s",
        peer="hdbscan.approximate_predict", target=f">= {MIN_PER_S:,}", floor=0,
    )  # fmt: skip
    speed = type(speed)(**{**vars(speed), "met": speed.value >= MIN_PER_S})
    figures = [
        speed,
        figure_from_limit(
            name="classify_batch", figure="agreement", value=agreement, unit="share", target=f">= {MIN_AGREEMENT}",
            met=agreement >= MIN_AGREEMENT,
        ),
        figure_from_limit(
            name="classify_batch", figure="noise_claimed", value=claimed, unit="share", target="told", met=True,
        ),
    ]  # fmt: skip
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


def _fitted(known: Window, labels: np.ndarray[tuple[int], np.dtype[np.int32]], *, num_clusters: int) -> Classifier:
    rows = serving.Labelled(
        vectors=known.vectors,
        context_len=known.context_len,
        sink_mass=known.sink_mass,
        features=known.features,
        labels=labels,
    )
    ids = np.arange(num_clusters, dtype=np.int32)
    return Classifier(serving.fit(rows, cluster_ids=ids, seed=0).arrays, run_id=None)


def _classify(classifier: Classifier, rows: Window) -> Classified:
    return classifier.classify(
        rows.vectors,
        context_len=rows.context_len,
        sink_mass=rows.sink_mass,
        periodicity=rows.given_periodicity,
        threads=THREADS,
    )


def _rate(classifier: Classifier, rows: Window) -> float:
    start = time.perf_counter()
    _classify(classifier, rows)
    return len(rows.vectors) / (time.perf_counter() - start)


def _peer_rate(model: object, places: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    from hdbscan import approximate_predict

    start = time.perf_counter()
    approximate_predict(model, places)
    return len(places) / (time.perf_counter() - start)
