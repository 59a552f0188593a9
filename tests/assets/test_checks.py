"""Each blocking check fails when its input is broken, and what it guards is then not published."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

from attn_assets import stages
from attn_assets.defs import checks
from attn_assets.defs.io_manager import read_tables
from attn_assets.discovery.tables import facts_of, with_facts, zone_array
from attn_core.bundle import latest_run_id, open_bundle


@pytest.fixture
def made(graph):
    graph.fill(400)
    graph.make()
    return graph


def stored(graph, asset: str) -> dict[str, pa.Table]:
    return read_tables(graph.settings.assets_dir / asset / graph.key().replace(":", "-"))


def changed(table: pa.Table, column: str, values: object) -> pa.Table:
    at = table.column_names.index(column)
    return table.set_column(at, column, pa.array(values, table.schema.field(column).type))


def test_sound_assets_pass(made):
    located = stored(made, "umap_embedding")["table"]
    assert checks.fingerprints_are_valid(stored(made, "fingerprints")["table"]).passed
    assert checks.embedding_is_complete(located).passed
    assert checks.clusters_cover_rows(stored(made, "hdbscan_clusters"), located).passed
    assert checks.zones_are_valid(stored(made, "zone_labels"), located).passed


def test_a_broken_vector_or_a_repeated_row_fails(made):
    rows = stored(made, "fingerprints")["table"]
    vectors = rows["vector"].to_pylist()
    vectors[7][:3] = [0.1, 0.1, 0.1]
    broken = checks.fingerprints_are_valid(changed(rows, "vector", vectors))
    assert not broken.passed
    assert broken.metadata["num_invalid"].value == 1
    assert "sum to" in broken.metadata["first_reason"].value
    assert not checks.fingerprints_are_valid(pa.concat_tables([rows, rows.slice(0, 1)])).passed


def test_a_lost_coordinate_or_an_untrue_map_fails(made):
    located = stored(made, "umap_embedding")["table"]
    x = located["x"].to_pylist()
    x[3] = float("nan")
    assert not checks.embedding_is_complete(changed(located, "x", x)).passed
    facts = facts_of(located)
    untrue = with_facts(located, {**facts, "metrics": {**facts["metrics"], "trustworthiness": 0.5}})
    assert not checks.embedding_is_complete(untrue).passed


def test_labels_that_do_not_cover_the_rows_fail(made):
    tables, located = stored(made, "hdbscan_clusters"), stored(made, "umap_embedding")["table"]
    assert not checks.clusters_cover_rows({**tables, "points": tables["points"].slice(1)}, located).passed
    labels = tables["points"]["cluster_id"].to_pylist()
    unknown = {**tables, "points": changed(tables["points"], "cluster_id", [99, *labels[1:]])}
    assert not checks.clusters_cover_rows(unknown, located).passed
    twice = {**tables, "clusters": changed(tables["clusters"], "cluster_id", [0] * tables["clusters"].num_rows)}
    assert not checks.clusters_cover_rows(twice, located).passed


def test_an_unknown_zone_or_a_score_outside_0_to_1_fails(made):
    tables, located = stored(made, "zone_labels"), stored(made, "umap_embedding")["table"]
    points = tables["points"]
    odd = points.set_column(0, "zone", pa.array(["nowhere"] * points.num_rows).dictionary_encode())
    assert not checks.zones_are_valid({**tables, "points": odd}, located).passed
    scores = points["score"].to_pylist()
    for wrong in (1.5, -0.1, float("nan")):
        off = changed(points, "score", [wrong, *scores[1:]])
        assert not checks.zones_are_valid({**tables, "points": off}, located).passed


def test_a_bundle_that_changed_fails(made):
    outcome, out = stored(made, "classifier_bundle")["table"], made.settings.discovery_dir
    assert checks.bundle_is_sound(outcome, discovery_dir=out, min_agreement=0.6).passed
    classifier = out / "latest" / "classifier.npz"
    classifier.write_bytes(classifier.read_bytes() + b"x")
    assert not checks.bundle_is_sound(outcome, discovery_dir=out, min_agreement=0.6).passed


def test_a_bundle_whose_classifier_disagrees_fails(large_graph):
    graph = large_graph
    graph.fill(900)
    graph.make()
    outcome, out = stored(graph, "classifier_bundle")["table"], graph.settings.discovery_dir
    assert checks.bundle_is_sound(outcome, discovery_dir=out, min_agreement=0.6).passed
    assert not checks.bundle_is_sound(outcome, discovery_dir=out, min_agreement=1.1).passed


def broken_locate(rows: pa.Table, **settings: object) -> pa.Table:
    located = stages.locate(rows, **settings)
    return changed(located, "x", np.full(located.num_rows, np.nan, dtype=np.float32))


def broken_clusters(located: pa.Table, **settings: object) -> dict[str, pa.Table]:
    tables = stages.find_clusters(located, **settings)
    return {**tables, "points": tables["points"].slice(1)}


def broken_zones(located: pa.Table, clusters: dict[str, pa.Table]) -> dict[str, pa.Table]:
    tables = stages.label_zones(located, clusters)
    points = tables["points"]
    assert points["zone"].chunk(0).dictionary.equals(zone_array(np.zeros(0, np.int8)).dictionary)
    return {**tables, "points": changed(points, "score", [2.0] * points.num_rows)}


@pytest.mark.parametrize(
    ("asset", "stage", "broken"),
    [
        ("umap_embedding", "locate", broken_locate),
        ("hdbscan_clusters", "find_clusters", broken_clusters),
        ("zone_labels", "label_zones", broken_zones),
    ],
)
def test_a_failing_check_keeps_the_old_latest(made, monkeypatch, asset, stage, broken):
    before = latest_run_id(made.settings.discovery_dir)
    monkeypatch.setattr(f"attn_assets.defs.assets.{stage}", broken)
    result = made.make(raise_on_error=False)
    assert not result.success
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [check.asset_key.to_user_string() for check in failed] == [asset]
    assert not result.asset_materializations_for_node("classifier_bundle")
    assert latest_run_id(made.settings.discovery_dir) == before
    assert open_bundle(made.settings.discovery_dir / "latest").run_id == before


def test_a_broken_vector_in_the_database_stops_the_hour(made):
    before = latest_run_id(made.settings.discovery_dir)
    with closing(sqlite3.connect(made.settings.db)) as connection, connection:
        connection.execute("UPDATE fingerprints SET vector = zeroblob(80) WHERE id = 5")
    result = made.make(raise_on_error=False)
    assert not result.success
    assert not result.asset_materializations_for_node("umap_embedding")
    assert latest_run_id(made.settings.discovery_dir) == before
