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
from attn_assets.defs.outcomes import why_failed
from attn_assets.discovery.tables import facts_of, with_facts, zone_array
from attn_assets.publishing import write_bundle
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
    assert checks.map_is_trustworthy(located).passed
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
    assert not checks.map_is_trustworthy(untrue).passed
    assert checks.map_is_trustworthy(untrue.slice(0, 99)).passed, "too few rows to say"


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
    scores = points["confidence"].to_pylist()
    for wrong in (1.5, -0.1, float("nan")):
        off = changed(points, "confidence", [wrong, *scores[1:]])
        assert not checks.zones_are_valid({**tables, "points": off}, located).passed


def test_a_bundle_that_changed_fails(made):
    out = made.settings.discovery_dir
    run_id = latest_run_id(out)
    assert checks.bundle_is_sound(run_id, discovery_dir=out).passed
    classifier = out / "latest" / "classifier.npz"
    classifier.write_bytes(classifier.read_bytes() + b"x")
    assert not checks.bundle_is_sound(run_id, discovery_dir=out).passed


def test_columns_that_are_not_the_stores_fail(made):
    rows = stored(made, "fingerprints")["table"]
    assert checks.schema_holds(rows).passed
    for broken, said in (
        (rows.drop_columns(["sink_mass"]), "sink_mass is None"),
        (rows.append_column("more", rows["step"]), "more is not known"),
        (rows.set_column(2, "step", rows["step"].cast(pa.int64())), "step is int64"),
        (changed(rows, "step", [None, *rows["step"].to_pylist()[1:]]), "step has nulls"),
    ):
        found = checks.schema_holds(broken)
        assert not found.passed
        assert said in found.metadata["strange"].value


def test_a_row_that_was_lost_on_the_way_fails(made):
    rows = stored(made, "fingerprints")["table"]
    assert checks.rows_match_database(rows, num_counted=400, num_kept=0).passed
    assert not checks.rows_match_database(rows.slice(1), num_counted=400, num_kept=0).passed
    assert checks.rows_match_database(rows, num_counted=390, num_kept=10).passed


def test_nearly_nothing_but_noise_fails_where_there_are_rows_to_expect_clusters_of():
    for count, noise, passed in ((1000, 900, True), (1000, 901, False), (400, 400, True)):
        labels = pa.array([-1] * noise + [0] * (count - noise), pa.int32())
        tables = {"points": pa.table({"cluster_id": labels})}
        assert checks.noise_share_is_bounded(tables, max_noise_share=0.9).passed is passed, count


def test_a_classifier_that_disagrees_fails_where_there_are_rows_to_judge_by():
    for agreement, judged, passed in ((0.61, 200, True), (0.59, 200, False), (0.1, 99, True), (None, 200, True)):
        figures = {"num_judged": judged, **({} if agreement is None else {"cluster_agreement": agreement})}
        assert checks.classifier_agrees(figures, min_agreement=0.6).passed is passed


def broken_locate(rows: pa.Table, **settings: object) -> pa.Table:
    located = stages.locate(rows, **settings)
    return changed(located, "x", np.full(located.num_rows, np.nan, dtype=np.float32))


def broken_clusters(located: pa.Table, **settings: object) -> dict[str, pa.Table]:
    tables = stages.find_clusters(located, **settings)
    return {**tables, "points": tables["points"].slice(1)}


def broken_zones(located: pa.Table, clusters: dict[str, pa.Table], **settings: object) -> dict[str, pa.Table]:
    tables = stages.label_zones(located, clusters, **settings)
    points = tables["points"]
    assert points["zone"].chunk(0).dictionary.equals(zone_array(np.zeros(0, np.int8)).dictionary)
    return {**tables, "points": changed(points, "confidence", [2.0] * points.num_rows)}


def untrue_locate(rows: pa.Table, **settings: object) -> pa.Table:
    located = stages.locate(rows, **settings)
    facts = facts_of(located)
    return with_facts(located, {**facts, "metrics": {**facts["metrics"], "trustworthiness": 0.5}})


def noisy_clusters(located: pa.Table, **settings: object) -> dict[str, pa.Table]:
    tables = stages.find_clusters(located, **settings)
    noise = changed(tables["points"], "cluster_id", [-1] * located.num_rows)
    return {**tables, "points": noise, "clusters": tables["clusters"].slice(0, 0)}


def retyped_rows(rows: pa.Table, **_: object) -> tuple[pa.Table, int]:
    return rows.set_column(2, "step", rows["step"].cast(pa.int64())), 0


def fewer_rows(rows: pa.Table, **_: object) -> tuple[pa.Table, int]:
    return rows.slice(1), 0


def repeated_rows(rows: pa.Table, **_: object) -> tuple[pa.Table, int]:
    return pa.concat_tables([rows.slice(1), rows.slice(1, 1)]), 0


def disagreeing(assets: object, served: object) -> dict[str, float]:
    return {"cluster_agreement": 0.1, "num_judged": 500}


def torn_bundle(*arguments: object, **named: object):
    record = write_bundle(*arguments, **named)
    points = named["discovery_dir"] / arguments[2].run_id / "embeddings.parquet"
    points.write_bytes(points.read_bytes()[:-1])
    return record


@pytest.mark.parametrize(
    ("check", "place", "broken"),
    [
        ("schema_holds", "defs.assets.with_expired_rows", retyped_rows),
        ("vectors_hold_invariants", "defs.assets.with_expired_rows", repeated_rows),
        ("rows_match_database", "defs.assets.with_expired_rows", fewer_rows),
        ("every_row_is_on_the_map", "defs.assets.locate", broken_locate),
        ("map_is_trustworthy", "defs.assets.locate", untrue_locate),
        ("every_row_has_a_label", "defs.assets.find_clusters", broken_clusters),
        ("noise_share_is_bounded", "defs.assets.find_clusters", noisy_clusters),
        ("zones_are_known", "defs.assets.label_zones", broken_zones),
        ("classifier_agrees", "publishing.metrics_of", disagreeing),
        ("bundle_verifies", "publishing.write_bundle", torn_bundle),
    ],
)
def test_a_failing_check_keeps_the_old_latest(made, monkeypatch, check, place, broken):
    """Every check there is, on a window that would be published otherwise; the bundle that is served stays whole."""
    made.fill(200, seed=7)
    before = latest_run_id(made.settings.discovery_dir)
    monkeypatch.setattr(f"attn_assets.{place}", broken)
    result = made.make(raise_on_error=False)
    assert not result.success
    assert [one.check_name for one in result.get_asset_check_evaluations() if not one.passed] == [check]
    assert latest_run_id(made.settings.discovery_dir) == before
    assert open_bundle(made.settings.discovery_dir / "latest").run_id == before
    assert [path.name for path in made.settings.discovery_dir.glob("2*")] == [before], "what was refused is removed"
    stage, reason = why_failed(result.all_events)
    assert check in checks.CHECKS[stage]
    assert f"check {check} of {stage} failed" in reason


def test_the_cases_above_are_all_checks():
    (cases,) = [mark for mark in test_a_failing_check_keeps_the_old_latest.pytestmark if mark.name == "parametrize"]
    assert sorted(case[0] for case in cases.args[1]) == sorted(n for names in checks.CHECKS.values() for n in names)


def test_a_broken_vector_in_the_database_stops_the_hour(made):
    before = latest_run_id(made.settings.discovery_dir)
    with closing(sqlite3.connect(made.settings.db)) as connection, connection:
        connection.execute("UPDATE fingerprints SET vector = zeroblob(80) WHERE id = 5")
    result = made.make(raise_on_error=False)
    assert not result.success
    assert not result.asset_materializations_for_node("umap_embedding")
    assert latest_run_id(made.settings.discovery_dir) == before
