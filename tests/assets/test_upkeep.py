"""The lake on any store that fsspec knows, and retention: what goes, what never does."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from conftest import QUIET, Graph

from attn_assets.definitions import build_resources
from attn_assets.defs.partitions import key_from_us
from attn_assets.defs.upkeep import build_retention
from attn_assets.lake import Lake
from attn_assets.retention import expire_hours, expire_rows, expire_runs
from attn_assets.settings import Settings
from attn_core.bundle import PUBLISH_LOCK, latest_run_id, open_bundle
from attn_core.errors import SettingsError

SEVERAL = {"points": pa.table({"x": [1, 2]}), "clusters": pa.table({"id": [7]})}
HOUR = "2026-01-10-04:00"


@pytest.fixture(params=["path", "file", "memory"])
def lake(request, tmp_path) -> Lake:
    bases = {"path": str(tmp_path / "lake"), "file": f"file://{tmp_path}/lake", "memory": f"memory://{tmp_path.name}"}
    return Lake(bases[request.param])


def test_what_is_written_is_read_back_and_replaced_whole(lake):
    assert lake.read("zone_labels", HOUR) is None
    assert lake.stored() == []
    lake.write("zone_labels", HOUR, SEVERAL)
    assert lake.read("zone_labels", HOUR) == SEVERAL
    fewer = {"points": pa.table({"x": [3]})}
    lake.write("zone_labels", HOUR, fewer)
    assert lake.read("zone_labels", HOUR) == fewer
    lake.write("fingerprints", HOUR, {"table": SEVERAL["points"]})
    lake.write("fingerprints", HOUR, {"table": SEVERAL["clusters"]})
    assert lake.rows("fingerprints", ["2026-01-10-03:00", HOUR]) == SEVERAL["clusters"]
    assert lake.rows("fingerprints", ["2026-01-10-03:00"]) is None
    assert [(one.asset, one.hour) for one in lake.stored()] == [("fingerprints", HOUR), ("zone_labels", HOUR)]
    assert all(one.num_bytes > 100 for one in lake.stored())
    lake.drop("zone_labels", HOUR)
    assert not lake.holds("zone_labels", HOUR)
    assert lake.holds("fingerprints", HOUR)


def test_on_a_store_without_renaming_half_an_hour_is_no_hour(tmp_path):
    """A writer that dies between two tables leaves nothing that a reader would take for the whole."""
    lake = Lake(f"memory://{tmp_path.name}")
    lake.write("zone_labels", HOUR, SEVERAL)
    broken = {"points": pa.table({"x": [9]}), "clusters": "no table"}
    with pytest.raises(AttributeError):
        lake.write("zone_labels", HOUR, broken)
    assert not lake.holds("zone_labels", HOUR)
    assert lake.read("zone_labels", HOUR) is None
    lake.write("zone_labels", HOUR, SEVERAL)
    assert lake.read("zone_labels", HOUR) == SEVERAL


def test_the_graph_runs_over_a_lake_in_memory(tmp_path):
    graph = Graph(tmp_path, lake_url=f"memory://graph-{tmp_path.name}")
    graph.fill(60)
    assert graph.make().success
    assert not graph.settings.assets_dir.exists()
    assert {one.asset for one in Lake(graph.settings.lake).stored()} >= {"fingerprints", "classifier_bundle"}
    assert open_bundle(graph.settings.discovery_dir / "latest").manifest["num_fingerprints"] == 60
    graph.instance.dispose()


def ids(graph) -> list[int]:
    with closing(sqlite3.connect(graph.settings.db)) as connection:
        return [row for (row,) in connection.execute("SELECT id FROM tokens ORDER BY id")]


def expire(graph, *, before_us: int = 1 << 62):
    lake = Lake(graph.settings.lake)
    return expire_rows(graph.settings.db, lake, before_us=before_us, hour_of=key_from_us)


def test_rows_that_are_not_in_the_lake_are_never_deleted(graph):
    graph.fill(40, hours_ago=3, seed=1)
    graph.fill(40, hours_ago=2, seed=2)
    nothing = expire(graph)
    assert (nothing.num_rows, "row 1 of hour" in nothing.waiting) == (0, True)
    graph.make("fingerprints", hours_ago=3)
    some = expire(graph)
    assert (some.num_rows, ids(graph)[0]) == (40, 41)
    assert graph.key(2) in some.waiting
    graph.make("fingerprints", hours_ago=2)
    assert expire(graph).num_rows == 39
    assert ids(graph) == [80], "the newest stays: ids are the cursors of readers"
    with closing(sqlite3.connect(graph.settings.db)) as connection:
        assert connection.execute("SELECT count(*) FROM request_numbers").fetchone() == (1,)
    graph.make("fingerprints", hours_ago=3)
    assert Lake(graph.settings.lake).rows("fingerprints", [graph.key(3)]).num_rows == 40


def test_rows_that_are_young_enough_stay(graph):
    graph.fill(40, hours_ago=3)
    graph.make("fingerprints", hours_ago=3)
    with closing(sqlite3.connect(graph.settings.db)) as connection, connection:
        connection.execute("UPDATE tokens SET stored_at_us = id")
    assert expire(graph, before_us=11).num_rows == 10
    assert ids(graph)[0] == 11


def hours_of(lake: Lake) -> set[str]:
    return {f"{one.asset}/{one.hour[11:13]}" for one in lake.stored()}


def test_a_lake_within_its_bounds_loses_what_can_be_made_again_first(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    for hour in (1, 2, 3, 4):
        for asset in ("fingerprints", "zone_labels"):
            lake.write(asset, f"2026-01-10-{hour:02}:00", {"table": pa.table({"x": list(range(500))})})
    each = lake.stored()[0].num_bytes
    late = "2026-01-10-04:00"
    assert expire_hours(lake, before=None, max_bytes=0, not_from=late) == []
    gone = expire_hours(lake, before="2026-01-10-02:00", max_bytes=0, not_from=late)
    assert gone == ["zone_labels/2026-01-10-01:00", "fingerprints/2026-01-10-01:00"]
    expire_hours(lake, before=None, max_bytes=3 * each, not_from=late)
    assert hours_of(lake) == {"fingerprints/03", "fingerprints/04", "zone_labels/04"}
    expire_hours(lake, before="2027-01-10-01:00", max_bytes=1, not_from=late)
    assert hours_of(lake) == {"fingerprints/04", "zone_labels/04"}, "what a window looks at stays, whatever the bound"


def test_old_runs_go_and_latest_with_the_one_before_it_stay(graph):
    graph.fill(60)
    for number in range(5):
        graph.make(resources={"plan": graph.plan(run_id=f"2026-01-10T04-02-1{number}")})
    folder = graph.settings.discovery_dir
    assert expire_runs(folder, keep=9) == []
    assert expire_runs(folder, keep=1) == ["2026-01-10T04-02-10", "2026-01-10T04-02-11", "2026-01-10T04-02-12"]
    assert open_bundle(folder / "latest").run_id == latest_run_id(folder) == "2026-01-10T04-02-14"
    left = {path.name for path in folder.glob("[.2]*")} - {PUBLISH_LOCK}
    assert left == {"2026-01-10T04-02-13", "2026-01-10T04-02-14"}


def test_the_retention_asset_says_what_went(tmp_path):
    graph = Graph(tmp_path, keep_db_hours=1, keep_lake_hours=30, keep_runs=2)
    graph.fill(40, hours_ago=40, seed=1)
    graph.fill(40, hours_ago=2, seed=2)
    for hours_ago in (40, 2):
        graph.make("fingerprints", hours_ago=hours_ago)
    with closing(sqlite3.connect(graph.settings.db)) as connection, connection:
        connection.execute("UPDATE tokens SET stored_at_us = captured_at_us")
    asset, resources = build_retention(), build_resources(graph.settings)
    result = dg.materialize([asset], instance=graph.instance, resources=resources, run_config=QUIET)
    (event,) = result.asset_materializations_for_node("retention")
    said = {name: value.value for name, value in event.metadata.items()}
    assert (said["num_rows_deleted"], said["rows_waiting"], said["num_hours_dropped"]) == (79, "", 1)
    assert said["num_hours_in_lake"] == 1
    assert said["lake_bytes"] > 0
    assert asset.automation_conditions_by_key[dg.AssetKey("retention")] is not None
    graph.instance.dispose()


def test_a_lake_that_would_starve_the_window_is_refused():
    with pytest.raises(SettingsError, match="must exceed window_hours, 24"):
        Settings(keep_lake_hours=24)


def test_an_hour_whose_removal_was_interrupted_is_not_half_there(tmp_path, monkeypatch):
    """Whoever reads meanwhile finds all of its tables or none."""
    lake = Lake(str(tmp_path / "lake"))
    lake.write("zone_labels", HOUR, SEVERAL)

    def killed(folder, *_, **__):
        next(iter(Path(folder).glob("*.parquet"))).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        lake.drop("zone_labels", HOUR)
    assert not lake.holds("zone_labels", HOUR)
    assert lake.read("zone_labels", HOUR) is None
    assert lake.stored() == []


def test_what_a_dead_writer_left_on_a_store_without_renaming_goes_like_an_hour(tmp_path):
    lake = Lake(f"memory://{tmp_path.name}")
    with pytest.raises(AttributeError):
        lake.write("zone_labels", HOUR, {"points": pa.table({"x": [9]}), "clusters": "no table"})
    assert not lake.holds("zone_labels", HOUR)
    gone = expire_hours(lake, before="2026-01-11-00:00", max_bytes=0, not_from="2026-01-11-00:00")
    assert gone == [f"zone_labels/{HOUR}"]
    assert lake.stored() == []
