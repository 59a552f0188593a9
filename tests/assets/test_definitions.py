"""What `dagster dev` lists, and that it does so without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from attn_assets.definitions import build_definitions
from attn_assets.settings import Settings
from attn_core.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
GRAPH = {
    "fingerprints": [],
    "umap_embedding": ["fingerprints"],
    "hdbscan_clusters": ["umap_embedding"],
    "zone_labels": ["hdbscan_clusters", "umap_embedding"],
    "classifier_bundle": ["hdbscan_clusters", "umap_embedding", "zone_labels"],
    "retention": [],
    "zone_calibration": [],
    "head_projection": [],
}
CHECKS = {
    "fingerprints": {"schema_holds", "vectors_hold_invariants", "rows_match_database"},
    "umap_embedding": {"every_row_is_on_the_map", "map_is_trustworthy", "window_has_its_hours"},
    "hdbscan_clusters": {"every_row_has_a_label", "noise_share_is_bounded"},
    "zone_labels": {"zones_are_known"},
    "classifier_bundle": {"classifier_agrees", "bundle_verifies"},
}
OF_HEADS = {"head_projection": {"head_projection_is_stable", "sketch_holds_the_variance"}}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(Settings())


def test_the_assets_and_their_edges(definitions):
    graph = definitions.resolve_asset_graph()
    found = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    edges = {name: sorted(one.to_user_string() for one in node.parent_keys) for name, node in found.items()}
    assert edges == GRAPH
    groups = {name: node.group_name for name, node in found.items()}
    not_hourly = {"retention": "upkeep", "zone_calibration": "calibration", "head_projection": "calibration"}
    assert groups == {**dict.fromkeys(CHECKS, "discovery"), **not_hourly}
    assert all(node.description for node in found.values())


def test_every_asset_has_a_blocking_check(definitions):
    specs = [spec for asset in definitions.assets for spec in asset.check_specs]
    found: dict[str, set[str]] = {}
    for spec in specs:
        found.setdefault(spec.asset_key.to_user_string(), set()).add(spec.name)
    assert found == CHECKS | OF_HEADS
    warnings = {"window_has_its_hours", "sketch_holds_the_variance"}
    assert {spec.name for spec in specs if not spec.blocking} == warnings


def test_job_schedule_and_sensor(definitions):
    repository = definitions.get_repository_def()
    assert [job.name for job in repository.get_all_jobs() if not job.name.startswith("__")] == ["discover_hour"]
    assert [(s.name, s.cron_schedule) for s in repository.schedule_defs] == [("hourly_discovery", "2 * * * *")]
    sensors = {sensor.name: sensor.default_status for sensor in repository.sensor_defs}
    names = (
        "early_discovery", "failed_discovery", "first_head_projection", "lost_runs", "new_fingerprints",
        "published_discovery", "upkeep",
    )  # fmt: skip
    assert sensors == dict.fromkeys(names, dg.DefaultSensorStatus.RUNNING)
    job = repository.get_job("discover_hour")
    assert job.executor_def.name == "in_process"
    # A calibration asks the model server hundreds of questions: never as a part of an hour.
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == set(CHECKS)


def test_partitions_are_hours_with_the_running_one(definitions):
    partitions = definitions.resolve_assets_def("umap_embedding").partitions_def
    keys = partitions.get_partition_keys(current_time=datetime(2026, 1, 2, 3, 30, tzinfo=UTC))
    assert (keys[0], keys[-1], len(keys)) == ("2026-01-01-00:00", "2026-01-02-03:00", 28)


def test_the_workspace_loads_without_a_warning(tmp_path):
    (tmp_path / "dagster.yaml").touch()
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", str(ROOT / "workspace.yaml")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Validation successful" in said
    # The command itself, not our code, is on its way out in Dagster.
    ours = [line for line in said.splitlines() if "Warning" in line and "definitions_validate_command" not in line]
    assert ours == []
    assert "WARNING" not in said


def test_loading_warns_of_nothing_under_error_filters():
    code = (
        "from attn_assets.definitions import *; "
        "build_definitions(Settings()).get_repository_def().load_all_definitions()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_settings_come_from_the_environment():
    chosen = Settings.from_environment({"ATTN_DB": "a.db", "ATTN_WINDOW_HOURS": "6", "ATTN_MIN_AGREEMENT": "0.5"})
    assert (chosen.db, chosen.window_hours, chosen.min_agreement) == (Path("a.db"), 6, 0.5)
    assert Settings.from_environment({}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ATTN_WINDOW_HOURS", "soon"),
        ("ATTN_WINDOW_HOURS", "0"),
        ("ATTN_MIN_CLUSTER_SIZE", "1"),
        ("ATTN_MIN_AGREEMENT", "1.5"),
        ("ATTN_FIRST_HOUR", "yesterday"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(variable, value):
    with pytest.raises(SettingsError, match=variable.removeprefix("ATTN_").lower() + "|" + variable):
        Settings.from_environment({variable: value})


def test_every_setting_is_in_the_table():
    import attn_assets.settings as module

    for name, default in vars(Settings()).items():
        (line,) = [one for one in module.__doc__.splitlines() if one.startswith(f"| ATTN_{name.upper()} ")]
        assert f"| {default} " in line
