"""An hour that the lake lacks is not an empty one: the map is made without it, and says so."""

from __future__ import annotations

import dagster as dg
import pytest

from attn_assets.defs.outcomes import why_failed
from attn_core.bundle import open_bundle


def missing_in_manifest(graph) -> list[str]:
    return open_bundle(graph.settings.discovery_dir / "latest").manifest["missing_hours"]


def warning_of(result: dg.ExecuteInProcessResult):
    (found,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "window_has_its_hours"]
    return found


def test_a_map_names_the_hours_that_the_database_has_and_the_lake_lacks(graph):
    for hours_ago in (6, 4, 1):
        graph.fill(60, hours_ago=hours_ago, seed=hours_ago)
    graph.make("fingerprints", hours_ago=4)
    result = graph.make(hours_ago=1)
    assert result.success, "a warning blocks nothing"
    warning = warning_of(result)
    assert (warning.passed, warning.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert warning.metadata["missing_hours"].value == graph.key(6)
    assert missing_in_manifest(graph) == [graph.key(6)]
    graph.make("fingerprints", hours_ago=6)
    whole = graph.make(hours_ago=1)
    assert warning_of(whole).passed
    assert missing_in_manifest(graph) == []


def test_an_hour_made_while_it_was_empty_counts_as_missing_once_it_has_rows(graph):
    graph.fill(60, hours_ago=1)
    graph.make("fingerprints", hours_ago=3)
    assert warning_of(graph.make(hours_ago=1)).passed, "nothing was captured in it"
    graph.fill(60, hours_ago=3, seed=3)
    assert warning_of(graph.make(hours_ago=1)).metadata["missing_hours"].value == graph.key(3)


def test_a_torn_hour_of_the_lake_is_named_and_made_again_from_the_database(graph):
    for hours_ago in (3, 1):
        graph.fill(60, hours_ago=hours_ago, seed=hours_ago)
    graph.make("fingerprints", hours_ago=3)
    torn = graph.settings.assets_dir / "fingerprints" / graph.key(3).replace(":", "-") / "table.parquet"
    torn.write_bytes(torn.read_bytes()[:200])
    assert warning_of(graph.make(hours_ago=1)).metadata["missing_hours"].value == graph.key(3)
    again = graph.make("fingerprints", hours_ago=3)
    (made,) = again.asset_materializations_for_node("fingerprints")
    assert made.metadata["unreadable_before"].value == graph.key(3)
    assert warning_of(graph.make(hours_ago=1)).passed


def test_a_warning_is_not_taken_for_the_reason_of_a_failure(graph, monkeypatch):
    for hours_ago in (3, 1):
        graph.fill(60, hours_ago=hours_ago, seed=hours_ago)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no clusters today")

    monkeypatch.setattr("attn_assets.defs.assets.find_clusters", broken)
    result = graph.make(hours_ago=1, raise_on_error=False)
    assert not warning_of(result).passed
    assert why_failed(result.all_events) == ("hdbscan_clusters", "hdbscan_clusters: RuntimeError: no clusters today")


@pytest.mark.parametrize("hours_ago", [1, 3])
def test_the_lake_says_how_far_an_hour_reaches(graph, hours_ago):
    graph.fill(60, hours_ago=3, seed=3)
    graph.make("fingerprints", hours_ago=hours_ago)
    extent = graph.resources["lake"].extent("fingerprints", graph.key(hours_ago))
    assert (extent.num_rows, extent.max_id) == ((60, 60) if hours_ago == 3 else (0, 0))
    assert graph.resources["lake"].extent("fingerprints", graph.key(9)) is None


def test_an_hour_that_an_older_version_wrote_lies_beside_todays(graph):
    """Its file lacks the head columns: null in the window, and the hour can be made again over it."""
    for hours_ago in (3, 1):
        graph.fill(60, hours_ago=hours_ago, seed=hours_ago)
        graph.make("fingerprints", hours_ago=hours_ago)
    lake, key = graph.resources["lake"], graph.key(3)
    older = lake.read("fingerprints", key)["table"]
    lake.write("fingerprints", key, {"table": older.drop_columns(["head_sketch", "zone_evidence", "head_projection"])})
    assert graph.make(hours_ago=1).success
    assert open_bundle(graph.settings.discovery_dir / "latest").manifest["num_fingerprints"] == 120
    assert graph.make("fingerprints", hours_ago=3).success
    assert lake.read("fingerprints", key)["table"].schema.equals(older.schema)
