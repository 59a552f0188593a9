"""The graph on a real database in a temporary folder: what it makes, publishes and records."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from synthetic_fingerprints import draw, hour_start_us, store_rows

from attn_assets.defs import checks
from attn_assets.defs.io_manager import read_tables
from attn_assets.discovery.window import rows_between
from attn_core.bundle import latest_run_id, open_bundle
from attn_core.classify import Classifier
from attn_core.errors import BundleError
from attn_core.store import HOUR_US
from attn_core.zones import ZONES

CHECKS = {name for kind in (checks.CHECKS, checks.WARNINGS) for names in kind.values() for name in names}


def sql(graph, statement: str) -> list[tuple]:
    with closing(sqlite3.connect(graph.settings.db)) as connection:
        return connection.execute(statement).fetchall()


def latest(graph):
    return open_bundle(graph.settings.discovery_dir / "latest")


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


def test_an_hour_becomes_a_published_bundle(graph):
    rows = graph.fill(900)
    result = graph.make()
    assert {check.check_name for check in result.get_asset_check_evaluations() if check.passed} == CHECKS
    bundle = latest(graph)
    manifest = bundle.manifest
    assert manifest["num_fingerprints"] == 900
    assert manifest["models"] == ["synthetic"]
    assert manifest["window_end_us"] - manifest["window_start_us"] == 24 * HOUR_US
    points = bundle.table("embeddings")
    expected = "request_id step captured_at_us token_text x y cluster_id zone confidence context_len former_cluster_id"
    assert points.column_names == expected.split()
    stored = set(zip(rows["request_id"].to_pylist(), rows["step"].to_pylist(), strict=True))
    assert set(zip(points["request_id"].to_pylist(), points["step"].to_pylist(), strict=True)) == stored
    assert np.isfinite(points["x"].to_numpy()).all()
    assert set(points["zone"].unique().to_pylist()) <= set(ZONES)
    assert 0 <= pc.min(points["confidence"]).as_py() <= pc.max(points["confidence"]).as_py() <= 1
    clusters = bundle.table("clusters")
    assert clusters.num_rows == manifest["num_clusters"] >= 3
    assert pc.sum(clusters["size"]).as_py() == pc.sum(pc.greater_equal(points["cluster_id"], 0)).as_py()
    for exemplar in clusters["exemplars"].to_pylist():
        assert {(one["request_id"], one["step"]) for one in exemplar} <= stored
    requests = bundle.table("requests")
    assert pc.sum(requests["num_tokens"]).as_py() == 900
    shares = sum(requests[f"share_{zone}"].to_numpy() for zone in ZONES)
    np.testing.assert_allclose(shares, 1.0, atol=1e-5)
    assert set(bundle.table("prototypes")["cluster_id"].to_pylist()) == set(clusters["cluster_id"].to_pylist())
    assert Classifier.from_bundle(bundle).run_id == bundle.run_id


def test_published_zones_are_what_the_formula_says_and_a_cluster_has_that_of_most_members(graph):
    graph.fill(900)
    graph.make()
    bundle = latest(graph)
    located = read_tables(graph.settings.assets_dir / "umap_embedding" / graph.key().replace(":", "-"))["table"]
    vectors = np.stack(located["vector"].to_pylist()).astype(np.float32)
    companions = {name: located[name].to_numpy() for name in ("context_len", "sink_mass", "periodicity")}
    points = bundle.table("embeddings")
    served = Classifier.from_bundle(bundle).classify(vectors, **companions)
    assert points["zone"].to_pylist() == served.zones()
    np.testing.assert_array_equal(points["confidence"].to_numpy(), served.confidence)
    cluster_id = points["cluster_id"].to_numpy()
    for cluster in bundle.table("clusters").to_pylist():
        counts = np.bincount(served.zone_index[cluster_id == cluster["cluster_id"]], minlength=5)
        assert counts[ZONES.index(cluster["zone"])] == counts.max()
        assert cluster["zone_score"] == pytest.approx(counts.max() / counts.sum())
    assert len(set(served.zones())) == 5


def test_a_request_has_the_zone_of_its_tokens_mean_evidence(graph):
    graph.fill(900)
    graph.make()
    bundle = latest(graph)
    located = read_tables(graph.settings.assets_dir / "umap_embedding" / graph.key().replace(":", "-"))["table"]
    classifier = Classifier.from_bundle(bundle)
    for request in bundle.table("requests").to_pylist()[:5]:
        mine = located.filter(pc.equal(located["request_id"], request["request_id"]))
        evidence = classifier.classify(
            np.stack(mine["vector"].to_pylist()).astype(np.float32),
            **{name: mine[name].to_numpy() for name in ("context_len", "sink_mass", "periodicity")},
            with_evidence=True,
        ).evidence
        whole = classifier.formula_of(None).zones_of(evidence.astype(np.float64).mean(axis=0))
        assert ZONES[whole.zone_index[0]] == request["zone"]
        assert request["zone_confidence"] == pytest.approx(whole.confidence[0], abs=1e-5)


def test_the_centroid_is_the_mean_of_the_members(graph):
    graph.fill(500)
    graph.make()
    bundle = latest(graph)
    row = bundle.table("clusters").to_pylist()[0]
    located = read_tables(graph.settings.assets_dir / "umap_embedding" / graph.key().replace(":", "-"))["table"]
    member = bundle.table("embeddings")["cluster_id"].to_numpy() == row["cluster_id"]
    vectors = np.stack(located["vector"].to_pylist())[member]
    np.testing.assert_allclose(row["centroid"], vectors.mean(axis=0), rtol=1e-4, atol=1e-5)
    assert row["centroid_x"] == pytest.approx(located["x"].to_numpy()[member].mean(), abs=1e-4)


def test_the_database_learns_of_the_run(graph):
    graph.fill(600)
    graph.make()
    bundle = latest(graph)
    ((run_id, status, count, clusters, metrics),) = sql(
        graph, "SELECT run_id, status, num_fingerprints, num_clusters, metrics FROM discovery_runs"
    )
    assert (run_id, status, count, clusters) == (bundle.run_id, "published", 600, bundle.manifest["num_clusters"])
    assert json.loads(metrics)["trustworthiness"] > 0.9
    found = sql(graph, "SELECT cluster_id, cluster_label, size, zone, length(centroid) FROM clusters")
    names = ("cluster_id", "cluster_label", "size", "zone")
    published = bundle.table("clusters").select(names).to_pylist()
    assert [row[:4] for row in found] == sorted(tuple(row.values()) for row in published)
    labels = sql(graph, "SELECT cluster_id, zone, score, margin, evidence FROM zone_labels")
    assert len(labels) == 5 * clusters
    assert all("local_share" in json.loads(row[4]) for row in labels)


def test_metadata_has_numbers_to_plot(graph):
    graph.fill(500)
    result = graph.make()
    for asset in ("fingerprints", "umap_embedding", "hdbscan_clusters", "zone_labels", "classifier_bundle"):
        found = metadata_of(result, asset)
        assert found["dagster/row_count"] == 500, asset
        assert found["duration_s"] >= 0
        assert found["peak_memory_bytes"] > 50_000_000
        assert "preview" in found
    assert metadata_of(result, "umap_embedding")["trustworthiness"] > 0.9
    assert 0 <= metadata_of(result, "hdbscan_clusters")["noise_share"] < 0.5
    assert 0 <= metadata_of(result, "classifier_bundle")["ece"] < 0.2


def test_an_hour_holds_its_rows_and_no_others(graph):
    graph.fill(300, hours_ago=2, seed=1)
    graph.fill(200, hours_ago=1, seed=2)
    graph.make("fingerprints", hours_ago=2)
    found = read_tables(graph.settings.assets_dir / "fingerprints" / graph.key(2).replace(":", "-"))["table"]
    assert found.num_rows == 300
    assert set(found["captured_at_us"].to_numpy() // HOUR_US * HOUR_US) == {hour_start_us(2)}


def test_the_window_is_the_hours_up_to_the_partition(graph):
    for hours_ago, count in ((26, 70), (20, 90), (2, 110), (1, 130), (0, 150)):
        graph.fill(count, hours_ago=hours_ago, seed=hours_ago)
        graph.make("fingerprints", hours_ago=hours_ago)
    graph.make("umap_embedding", hours_ago=1)
    found = read_tables(graph.settings.assets_dir / "umap_embedding" / graph.key(1).replace(":", "-"))["table"]
    assert found.num_rows == 90 + 110 + 130


def test_a_window_is_half_open_and_ends_at_the_newest_id():
    table = pa.table({"captured_at_us": [30, 10, 20, 20, 40], "id": [1, 2, 9, 3, 4]})
    kept = rows_between(table, start_us=10, end_us=40, max_id=None)
    assert kept["id"].to_pylist() == [2, 3, 9, 1]
    assert rows_between(table, start_us=11, end_us=41, max_id=4)["id"].to_pylist() == [3, 1, 4]


def test_late_rows_are_there_when_their_hour_is_made_again(graph):
    graph.fill(300, seed=1)
    graph.make()
    before = latest(graph)
    start = hour_start_us(1)
    store_rows(graph.settings.db, draw(120, seed=9, start_us=start, end_us=start + HOUR_US))
    graph.make()
    after = latest(graph)
    assert after.run_id != before.run_id
    assert (before.manifest["num_fingerprints"], after.manifest["num_fingerprints"]) == (300, 420)
    assert after.manifest["previous_run_id"] == before.run_id


def test_cluster_ids_last_from_run_to_run(graph):
    graph.fill(800)
    graph.make()
    before = latest(graph).table("embeddings")
    graph.make()
    after = latest(graph)
    np.testing.assert_array_equal(before["cluster_id"], after.table("embeddings")["cluster_id"])
    assert {row["event"] for row in after.table("clusters")["lineage"].to_pylist()} == {"kept"}


def test_the_same_rows_and_seed_give_the_same_files(graph):
    graph.fill(500)
    graph.make()
    first = latest(graph)
    shutil.move(graph.settings.discovery_dir, graph.settings.discovery_dir.with_name("earlier"))
    graph.make()
    assert first.manifest["files"] == latest(graph).manifest["files"]


def test_an_empty_hour_is_made_and_publishes_nothing(graph):
    graph.fill(10, hours_ago=30)
    result = graph.make()
    assert result.success
    assert "no fingerprints" in metadata_of(result, "fingerprints")["note"]
    outcome = metadata_of(result, "classifier_bundle")
    assert outcome["published"] is False
    assert "no fingerprints in the window" in outcome["note"]
    assert latest_run_id(graph.settings.discovery_dir) is None


@pytest.mark.parametrize("count", [1, 15, 50])
def test_few_rows_publish_honestly(graph, count):
    graph.fill(count)
    result = graph.make()
    bundle = latest(graph)
    assert bundle.manifest["num_fingerprints"] == count
    if count < 2 * graph.settings.min_cluster_size:
        assert bundle.manifest["num_clusters"] == 0
        assert bundle.manifest["noise_share"] == 1.0
        assert "No clusters detected" in metadata_of(result, "hdbscan_clusters")["note"]
    Classifier.from_bundle(bundle)


def test_an_older_window_does_not_take_latest_back(graph):
    graph.fill(200, hours_ago=5, seed=1)
    graph.fill(200, hours_ago=1, seed=2)
    graph.make("fingerprints", hours_ago=5)
    graph.make(hours_ago=1)
    newest = latest(graph).run_id
    outcome = metadata_of(graph.make(hours_ago=5), "classifier_bundle")
    assert outcome["published"] is False
    assert "superseded" in outcome["note"]
    assert latest(graph).run_id == newest


def test_rows_without_companions_are_placed_and_counted(graph):
    graph.fill(300)
    with closing(sqlite3.connect(graph.settings.db)) as connection, connection:
        connection.execute(
            "UPDATE fingerprints SET context_len=NULL, sink_mass=NULL, periodicity=NULL WHERE id % 3 = 0"
        )
    result = graph.make()
    assert metadata_of(result, "umap_embedding")["num_companions_assumed"] == 100
    assert latest(graph).manifest["num_fingerprints"] == 300


def test_two_hours_in_one_run_are_stored_apart(graph):
    graph.fill(120, hours_ago=2, seed=1)
    graph.fill(80, hours_ago=1, seed=2)
    span = {"dagster/asset_partition_range_start": graph.key(3), "dagster/asset_partition_range_end": graph.key(1)}
    dg.materialize(
        graph.assets, selection=["fingerprints"], instance=graph.instance, resources=graph.resources, tags=span,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )  # fmt: skip
    folder = graph.settings.assets_dir / "fingerprints"
    counts = [
        pq.read_metadata(folder / graph.key(ago).replace(":", "-") / "table.parquet").num_rows for ago in (3, 2, 1)
    ]
    assert counts == [0, 120, 80]


def test_a_classifier_that_does_not_agree_is_not_published(large_graph):
    graph = large_graph
    graph.fill(900)
    graph.make()
    before = latest(graph).run_id
    strict = graph.plan(min_agreement=1.1)
    graph.fill(900, seed=5)
    result = graph.make(raise_on_error=False, resources={"plan": strict})
    assert not result.success
    (broken,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert broken.check_name == "classifier_agrees"
    assert "not published" in broken.metadata["note"].value
    assert latest(graph).run_id == before
    assert [path.name for path in graph.settings.discovery_dir.glob("2*")] == [before]


def test_a_run_that_was_published_but_not_recorded_is_recorded(graph):
    graph.fill(200)
    plan = graph.plan(run_id="2026-01-10T04-02-11")
    graph.make(resources={"plan": plan})
    with closing(sqlite3.connect(graph.settings.db)) as connection, connection:
        connection.execute("DELETE FROM discovery_runs")
        connection.execute("DELETE FROM clusters")
    graph.make("classifier_bundle", resources={"plan": plan})
    assert sql(graph, "SELECT run_id, status FROM discovery_runs") == [("2026-01-10T04-02-11", "published")]
    assert sql(graph, "SELECT count(*) FROM clusters")[0][0] == latest(graph).manifest["num_clusters"]


def test_a_damaged_latest_is_not_carried_on(graph):
    graph.fill(300)
    graph.make()
    damaged = graph.settings.discovery_dir / "latest" / "clusters.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(BundleError):
        latest(graph)
    graph.make()
    assert latest(graph).manifest["previous_run_id"] is None
