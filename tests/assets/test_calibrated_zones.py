"""Zones by a calibration, all the way: labels, requests, evidence, the bundle, and the served answers that agree."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic_fingerprints import draw, hour_start_us, store_rows

from attn_assets.calibration.kept import FOLDER, SHIPPED, Calibrations, shipped
from attn_assets.discovery.embedding import NoKeeper
from attn_assets.discovery.window import window_from_table
from attn_assets.publishing import Assets, calibration_of, fit_classifier
from attn_assets.stages import find_clusters, label_zones, locate
from attn_core.classify import Classifier
from attn_core.lone import LoneClassifier, checked
from attn_core.store import HOUR_US, open_reader, read_fingerprints
from attn_core.zone_scorer import NUM_INPUTS, ZoneScorer
from attn_core.zones import ZONES


def _scorer() -> ZoneScorer:
    """Told apart by periodicity and nothing else: structure_ripple above 0.3, else long_range or syntax_floor."""
    token, sequence = np.zeros((5, NUM_INPUTS)), np.zeros((5, 2 * NUM_INPUTS))
    token[2, 21], token[2, 22] = 40.0, -12.0
    token[3, 2], token[0, 0] = 6.0, 6.0
    sequence[:, :NUM_INPUTS] = token
    return ZoneScorer(
        token=token, sequence=sequence, shortest=100.0, longest=2000.0, centre=np.zeros(NUM_INPUTS),
        spread=np.ones(NUM_INPUTS), provenance={"model": "synthetic", "made_at_us": 1, "num_answers": 2},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, dict[str, pa.Table], Calibrations]:
    folder = tmp_path_factory.mktemp("zones")
    start_us = hour_start_us(1)
    store_rows(folder / "f.db", draw(400, seed=3, start_us=start_us, end_us=start_us + HOUR_US))
    with closing(open_reader(folder / "f.db")) as connection:
        rows = read_fingerprints(connection, start_us=start_us, end_us=start_us + HOUR_US)
    located = locate(
        rows, window_us=(start_us, start_us + HOUR_US), sample_size=400, batch_size=400, seed=0, keeper=NoKeeper(),
        report=lambda done, total: None,
    )  # fmt: skip
    clusters = find_clusters(located, min_cluster_size=20, batch_size=400, previous_bundle=None)
    calibrations = Calibrations(folder / FOLDER)
    calibrations.keep(_scorer())
    return located, clusters, calibrations


def test_without_a_calibration_the_rules_label_and_it_says_so(made) -> None:
    located, clusters, _ = made
    zones = label_zones(located, clusters)
    assert calibration_of(zones) is None
    assert zones["requests"].column("zone_confidence").null_count == zones["requests"].num_rows
    assert set(zones["requests"].column("zone").to_pylist()) <= set(ZONES)


def test_a_calibration_of_another_model_is_not_used(made, tmp_path: Path) -> None:
    located, clusters, _ = made
    other = Calibrations(tmp_path)
    other.keep(replace(_scorer(), provenance={"model": "another"}))
    assert calibration_of(label_zones(located, clusters, calibrations=other)) is None


def test_labels_follow_the_calibration_and_name_what_decided(made) -> None:
    located, clusters, calibrations = made
    zones = label_zones(located, clusters, calibrations=calibrations)
    used = calibration_of(zones)
    assert used is not None
    assert used.version == "synthetic-0001"
    rippling = located.column("periodicity").to_numpy() > 0.4
    named = np.array(zones["points"].column("zone").to_pylist()) == "structure_ripple"
    assert (named == rippling).mean() > 0.97
    assert zones["requests"].column("request_id").to_pylist() == located.column("request_id").unique().to_pylist()
    assert zones["requests"].column("zone_confidence").null_count == 0
    labels = zones["zone_labels"].to_pylist()
    best = {one["cluster_id"]: one for one in sorted(labels, key=lambda one: one["score"])}
    evidence = [json.loads(one["evidence"]) for one in best.values() if one["zone"] == "structure_ripple"]
    assert evidence
    assert all(one["periodicity"]["adds"] > 0 for one in evidence)


def test_what_is_served_agrees_with_what_is_published_one_by_one_and_in_batches(made) -> None:
    located, clusters, calibrations = made
    zones = label_zones(located, clusters, calibrations=calibrations)
    fitted = fit_classifier(Assets(located=located, clusters=clusters, zones=zones), seed=0)
    assert fitted.served.figures.zone_agreement is not None
    assert fitted.served.figures.zone_agreement >= 0.95
    classifier = Classifier(fitted.served.arrays, run_id=None, scorer=calibration_of(zones))
    window = window_from_table(located)
    batch = classifier.classify(
        window.vectors, context_len=window.context_len, sink_mass=window.sink_mass, periodicity=window.periodicity
    )
    lone = LoneClassifier(classifier)
    for i in range(0, 400, 7):
        row = checked(window.vectors[i].tolist(), int(window.context_len[i]))
        assert row is not None
        known = {"sink_mass": float(window.sink_mass[i]), "periodicity": float(window.periodicity[i])}
        zone, confidence, cluster_id = lone.classify(row, context_len=int(window.context_len[i]), **known)
        assert (zone, cluster_id) == (batch.zone_index[i], batch.cluster_id[i])
        assert confidence == pytest.approx(batch.confidence[i], abs=1e-4)
    bare = classifier.classify(window.vectors[:20])
    for i in range(20):
        row = checked(window.vectors[i].tolist(), None)
        assert row is not None
        zone, confidence, _ = lone.classify(row, context_len=None, sink_mass=None, periodicity=None)
        assert zone == bare.zone_index[i]
        assert confidence == pytest.approx(bare.confidence[i], abs=1e-4)


def test_the_calibration_that_comes_with_the_project_is_of_the_demo_model_and_says_how_it_did() -> None:
    scorer = shipped("/anywhere/SmolLM2-135M-Instruct")
    assert scorer is not None, SHIPPED
    assert shipped("SmolLM2-1.7B-Instruct") is None
    told = scorer.provenance
    assert told["num_answers"] == sum(told["num_by_family"].values()) >= 400
    assert np.array(told["figures"]["held_out_requests"]["confusion"]).sum() == told["num_held_out"] == 150
    assert told["figures"]["held_out_requests"]["reliability"]
