"""Zones all the way: usual values learned from the window, labels, requests, the bundle, and the served answers."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import attention_rows
import numpy as np
import pyarrow as pa
import pytest
from synthetic_fingerprints import draw, hour_start_us, store_rows

from attn_assets.calibration.kept import FOLDER, Calibrations
from attn_assets.discovery.embedding import NoKeeper
from attn_assets.discovery.window import window_from_table
from attn_assets.discovery.zone_quality import auc_of, zone_quality
from attn_assets.discovery.zoning import Models, learn_formulas, zone_rows
from attn_assets.publishing import formulas_of
from attn_assets.stages import find_clusters, label_zones, locate, shipped_of
from attn_core.classify import Classifier, no_clusters
from attn_core.store import HOUR_US, open_reader, read_fingerprints
from attn_core.zones import (
    EVENNESS,
    NUM_EVIDENCE,
    PERIODICITY,
    VALUES,
    ZONES,
    Z,
    ZoneFormula,
    ZoneFormulas,
    shipped_formula,
)


def _leaning(zone: str) -> ZoneFormula:
    """The shipped formula with a bias for one zone."""
    bias = shipped_formula().bias + 3.0 * (np.array(ZONES) == zone)
    return replace(shipped_formula(), bias=bias, provenance={"model": "synthetic", "made_at_us": 1, "num_answers": 2})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, dict[str, pa.Table]]:
    folder = tmp_path_factory.mktemp("zones")
    start_us = hour_start_us(1)
    store_rows(folder / "f.db", draw(400, seed=3, start_us=start_us, end_us=start_us + HOUR_US))
    with closing(open_reader(folder / "f.db")) as connection:
        rows = read_fingerprints(connection, start_us=start_us, end_us=start_us + HOUR_US)
    located = locate(
        rows, window_us=(start_us, start_us + HOUR_US), sample_size=400, batch_size=400, seed=0, keeper=NoKeeper(),
        report=lambda done, total: None,
    )  # fmt: skip
    return located, find_clusters(located, min_cluster_size=20, previous_bundle=None)


def test_what_is_usual_is_learned_from_the_window(made) -> None:
    located, clusters = made
    zones = label_zones(located, clusters)
    formula = formulas_of(zones).of("synthetic")
    assert formula.usual.num_tokens == 400
    window = window_from_table(located)
    usual = formula.usual.at(window.context_len).mean(axis=0)
    assert usual[PERIODICITY] == pytest.approx(window.given_periodicity.mean(), abs=0.05)
    assert set(zones["points"].column("zone").to_pylist()) == set(ZONES)
    assert set(zones["requests"].column("zone").to_pylist()) <= set(ZONES)
    assert zones["requests"].column("request_id").to_pylist() == located.column("request_id").unique().to_pylist()


def test_a_models_calibration_is_used_for_its_rows_and_no_others(made, tmp_path: Path) -> None:
    located, clusters = made
    model_id = located.column("model_id")[0].as_py()
    calibrations = Calibrations(tmp_path / FOLDER)
    calibrations.keep(replace(_leaning("diffuse"), provenance={"model": "another"}))
    plain = label_zones(located, clusters)
    assert label_zones(located, clusters, calibrations=calibrations)["points"].equals(plain["points"])
    calibrations.keep(replace(_leaning("diffuse"), provenance={"model": model_id}))
    leaning = label_zones(located, clusters, calibrations=calibrations)
    assert formulas_of(leaning).of(model_id).version.endswith("-0001")
    counts = [tables["points"].column("zone").to_pylist().count("diffuse") for tables in (plain, leaning)]
    assert counts[1] > counts[0]


def test_two_models_have_formulas_of_their_own(made) -> None:
    located, _ = made
    window = window_from_table(located)
    names = Models.from_column(pa.chunked_array([["one"] * 200 + ["two"] * 150 + [None] * 50]))
    formulas = learn_formulas(window, names, base=shipped_of, default=shipped_formula())
    assert set(formulas.of_model) == {"one", "two"}
    assert formulas.of_model["one"].usual.num_tokens == 200
    assert formulas.default.sha256() == formulas.of_model["one"].sha256()
    rows = zone_rows(window, names, formulas)
    served = Classifier(no_clusters(), run_id=None, formulas=formulas)
    part = slice(200, 350)
    answer = served.classify(
        window.vectors[part],
        context_len=window.context_len[part],
        sink_mass=window.sink_mass[part],
        periodicity=window.given_periodicity[part],
        model_id="hub/two",
    )
    np.testing.assert_array_equal(answer.zone_index, rows.zone_index[part])
    assert answer.confidence.tobytes() == rows.confidence[part].tobytes()


def test_rows_without_companions_teach_nothing_and_get_the_served_zone(made) -> None:
    located, clusters = made
    lost = located.set_column(
        located.schema.get_field_index("sink_mass"), "sink_mass", pa.nulls(located.num_rows, pa.float32())
    )
    zones = label_zones(lost, clusters)
    formulas = formulas_of(zones)
    assert formulas.of("synthetic").sha256() == shipped_formula().sha256()
    window = window_from_table(lost)
    answer = Classifier(no_clusters(), run_id=None, formulas=formulas).classify(
        window.vectors, context_len=window.context_len, periodicity=window.given_periodicity
    )
    assert zones["points"].column("zone").to_pylist() == answer.zones()


def test_clusters_say_what_sets_them_apart(made) -> None:
    located, clusters = made
    zones = label_zones(located, clusters)
    for one in zones["zone_labels"].to_pylist():
        evidence = json.loads(one["evidence"])
        assert all(set(reason) == {"mean", "usual", "lift"} for reason in evidence.values())
    shares = np.array(zones["zone_labels"].column("score").to_pylist()).reshape(-1, 5)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)


def test_quality_by_hand() -> None:
    evidence = np.zeros((4, NUM_EVIDENCE))
    evidence[:, Z + EVENNESS] = [1, 3, 2, 0]
    evidence[:, VALUES + EVENNESS] = [0.1, 0.3, 0.2, 0.0]
    zone_index = np.array([4, 4, 1, 1])
    found = zone_quality(zone_index, evidence)
    assert found.auc[4] == pytest.approx(0.75)
    assert found.shares.tolist() == [0, 0.5, 0, 0, 0.5]
    assert np.isnan(found.auc[0])
    assert found.num_long_range_without == found.num_diffuse_below_usual == 0
    assert any("syntax_floor holds 0%" in reason for reason in found.broken())
    assert auc_of(np.array([1.0, 1.0]), np.array([True, False])) == 0.5


def test_another_models_traffic_gets_all_five_zones_in_its_first_window() -> None:
    """Random attention rows, whose usual values lie elsewhere than the shipped ones: no calibration, one window."""
    drawn = attention_rows.draw(1500, seed=8)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(drawn.vectors.ravel()), 20)
    window = window_from_table(
        pa.table(
            {
                "vector": vector,
                "context_len": drawn.context_len,
                "sink_mass": drawn.sink_mass,
                # A model whose attention repeats more than the demo's.
                "periodicity": (0.4 + 0.2 * drawn.periodicity).astype(np.float32),
            }
        )
    )
    names = Models(names=["random-weights"], of_row=np.zeros(1500, dtype=np.int64))
    learned = learn_formulas(window, names, base=shipped_of, default=shipped_formula())
    rows = zone_rows(window, names, learned)
    found = zone_quality(rows.zone_index, rows.evidence)
    assert found.shares.min() >= 0.05, found.shares
    assert found.shares.max() <= 0.60, found.shares
    assert found.auc.min() >= 0.85, found.auc
    before = zone_quality(
        zone_rows(window, names, ZoneFormulas.shipped()).zone_index,
        zone_rows(window, names, ZoneFormulas.shipped()).evidence,
    )
    assert before.shares.max() > found.shares.max()
