"""Dagster's records of runs, on an instance with its databases on disk: what the bound takes, and what it leaves."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from conftest import QUIET, Graph

from attn_assets.definitions import build_definitions, build_resources
from attn_assets.defs.upkeep import build_retention


@pytest.fixture
def operated(tmp_path):
    (tmp_path / "dagster").mkdir()
    graph = Graph(tmp_path, keep_records_hours=24)
    graph.instance.dispose()
    graph.instance = dg.DagsterInstance.local_temp(str(tmp_path / "dagster"))
    yield graph
    graph.instance.dispose()


def age(home: Path, run_id: str) -> None:
    with closing(sqlite3.connect(home / "history" / "runs.db")) as connection, connection:
        sql = "UPDATE runs SET create_timestamp = '2026-01-01 00:00:00', update_timestamp = '2026-01-01 00:00:00'"
        assert connection.execute(f"{sql} WHERE run_id = ?", (run_id,)).rowcount == 1


def test_old_runs_leave_dagsters_storage_and_the_others_stay(operated, tmp_path):
    home = tmp_path / "dagster"
    operated.fill(20, hours_ago=2, seed=1)
    old, young = (operated.make("fingerprints", hours_ago=2).run_id for _ in range(2))
    job = build_definitions(operated.settings).resolve_job_def("discover_hour")
    working = operated.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED).run_id
    logs = home / "storage" / old / "compute_logs"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "one.err").write_text("said")
    for run_id in (old, working):
        age(home, run_id)
    result = dg.materialize(
        [build_retention()], instance=operated.instance, resources=build_resources(operated.settings), run_config=QUIET
    )
    (event,) = result.asset_materializations_for_node("retention")
    assert event.metadata["num_run_records_deleted"].value == 1
    left = {run.run_id for run in operated.instance.get_runs()}
    assert left == {young, working, result.run_id}
    assert list(home.rglob(f"*{old}*")) == []
    assert operated.instance.all_logs(young)
    assert operated.instance.fetch_materializations(dg.AssetKey("fingerprints"), limit=9).records[0].run_id == young


def test_without_a_bound_every_record_stays(operated, tmp_path):
    operated.fill(20, hours_ago=2, seed=1)
    old = operated.make("fingerprints", hours_ago=2).run_id
    age(tmp_path / "dagster", old)
    resources = build_resources(replace(operated.settings, keep_records_hours=0))
    dg.materialize([build_retention()], instance=operated.instance, resources=resources, run_config=QUIET)
    assert operated.instance.get_run_by_id(old) is not None
