"""When hours are asked for: the sensor's rules, the sensor and the schedule themselves."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from conftest import QUIET
from synthetic_fingerprints import draw, hour_start_us, store_rows

from attn_assets.definitions import build_definitions
from attn_assets.defs import attempts, automation
from attn_assets.defs.checks import CHECKS, WARNINGS
from attn_assets.defs.cursor import Cursor
from attn_assets.defs.partitions import key_from_us
from attn_core import early_run
from attn_core.baseline import Baseline
from attn_core.bundle import latest_run_id, open_bundle
from attn_core.early_run import EarlyRun
from attn_core.store import HOUR_US


def test_the_sensor_lives_with_rows_of_tomorrow(graph, definitions):
    graph.fill(60, hours_ago=2, seed=1)
    start = hour_start_us(-25)
    store_rows(graph.settings.db, draw(60, seed=4, start_us=start, end_us=start + HOUR_US))
    first = look(graph, definitions)
    assert [one.partition_key for one in first.run_requests] == [graph.key(2)]
    assert not look(graph, definitions, cursor=first.cursor).run_requests


@pytest.fixture
def definitions(graph) -> dg.Definitions:
    return build_definitions(graph.settings)


def look(
    graph, definitions: dg.Definitions, *, cursor: str | None = None, name: str = "new_fingerprints"
) -> dg.SensorResult:
    sensor = definitions.resolve_sensor_def(name)
    needed = {key: graph.resources[key] for key in sensor.required_resource_keys}
    with dg.build_sensor_context(
        instance=graph.instance, cursor=cursor, resources=needed, definitions=definitions
    ) as context:
        return sensor(context)


def run(graph, definitions: dg.Definitions, request: dg.RunRequest) -> bool:
    """Run what was requested as Dagster's daemon would, its key recorded; whether it succeeded."""
    return (
        definitions.resolve_job_def("discover_hour")
        .execute_in_process(
            partition_key=request.partition_key,
            instance=graph.instance,
            run_config=QUIET,
            asset_selection=request.asset_selection,
            tags={"dagster/run_key": request.run_key},
            raise_on_error=False,
        )
        .success
    )


@pytest.fixture
def clock(monkeypatch):
    """Moves the sensors' present by seconds."""

    class Clock(datetime):
        ahead_s = 0
        frozen: datetime | None = None

        @classmethod
        def now(cls, tz=None):
            return cls.frozen or datetime.now(tz) + timedelta(seconds=cls.ahead_s)

    monkeypatch.setattr(automation, "datetime", Clock)
    return Clock


def break_row(graph, row_id: int) -> bytes:
    with closing(sqlite3.connect(graph.settings.db)) as connection, connection:
        (vector,) = connection.execute("SELECT vector FROM tokens WHERE id = ?", (row_id,)).fetchone()
        connection.execute("UPDATE tokens SET vector = zeroblob(80) WHERE id = ?", (row_id,))
    return vector


def repair_row(graph, row_id: int, vector: bytes) -> None:
    with closing(sqlite3.connect(graph.settings.db)) as connection, connection:
        connection.execute("UPDATE tokens SET vector = ? WHERE id = ?", (vector, row_id))


def test_an_hour_whose_run_failed_is_requested_again_and_one_that_succeeded_is_not(graph, definitions, clock):
    graph.fill(60, hours_ago=2, seed=1)
    vector = break_row(graph, 5)
    first = look(graph, definitions)
    (request,) = first.run_requests
    assert not run(graph, definitions, request)
    paused = look(graph, definitions, cursor=first.cursor)
    assert not paused.run_requests
    assert f"{graph.key(2)} failed 1 times, requested again in" in paused.skip_reason.skip_message
    clock.ahead_s = 61
    again = look(graph, definitions, cursor=paused.cursor)
    assert [(one.partition_key, one.run_key) for one in again.run_requests] == [
        (graph.key(2), f"{request.run_key}/retry-1")
    ]
    repair_row(graph, 5, vector)
    assert run(graph, definitions, again.run_requests[0])
    clock.ahead_s = 4000
    done = look(graph, definitions, cursor=again.cursor)
    assert not done.run_requests
    assert done.skip_reason.skip_message == "no new fingerprints after id 60"


def test_a_restart_that_forgot_everything_requests_only_what_the_files_lack(graph, definitions, clock):
    for hours_ago in (30, 26, 3, 2):
        graph.fill(30, hours_ago=hours_ago, seed=hours_ago)
    cursor = None
    requested = []
    for clock.ahead_s in (0, 30, 60):
        looked = look(graph, definitions, cursor=cursor)
        cursor = looked.cursor
        for request in looked.run_requests or []:
            requested.append((request.partition_key, request.asset_selection is None))
            assert run(graph, definitions, request)
    assert requested == [(graph.key(k), k == 2) for k in (3, 26, 30, 2)]
    graph.instance.dispose()
    graph.instance = dg.DagsterInstance.ephemeral()
    clock.ahead_s = 90
    forgot = look(graph, definitions)
    assert forgot.skip_reason.skip_message == "no new fingerprints after id 120"
    graph.resources["lake"].drop("fingerprints", graph.key(26))
    torn = graph.settings.assets_dir / "fingerprints" / graph.key(3).replace(":", "-") / "table.parquet"
    torn.write_bytes(torn.read_bytes()[:100])
    lacking = look(graph, definitions)
    assert [(one.partition_key, one.asset_selection is None) for one in lacking.run_requests] == [
        (graph.key(3), False), (graph.key(26), False),
    ]  # fmt: skip


def test_the_hourly_run_that_failed_is_requested_again(graph, definitions, clock, monkeypatch):
    # The present stands still, the runs end by the real clock: a pause that is over whenever that is.
    monkeypatch.setattr(attempts, "RETRY_PAUSES_S", (-7200, -7200, -7200))
    graph.fill(60, hours_ago=1, seed=1)
    key = graph.key(1)
    clock.frozen = datetime.fromtimestamp((hour_start_us(0) + HOUR_US // 2) / 1e6, UTC)
    first = look(graph, definitions)
    assert run(graph, definitions, first.run_requests[0])
    shutil.rmtree(graph.settings.discovery_dir)
    vector = break_row(graph, 5)
    assert not run(graph, definitions, dg.RunRequest(run_key=f"hourly/{key}", partition_key=key))
    repair_row(graph, 5, vector)
    again = look(graph, definitions, cursor=first.cursor)
    assert [(one.partition_key, one.run_key) for one in again.run_requests] == [(key, f"hourly/{key}/retry-1")]
    assert run(graph, definitions, again.run_requests[0])
    assert not look(graph, definitions, cursor=again.cursor).run_requests


def test_an_early_run_that_failed_is_requested_again(graph, definitions, clock):
    graph.fill(200, hours_ago=1, seed=1)
    graph.make()
    served = latest_run_id(graph.settings.discovery_dir)
    early_run.ask(graph.settings.discovery_dir, EarlyRun(run_id=served, reason="novelty", evidence="", asked_at_us=5))
    vector = break_row(graph, 5)
    (request,) = early(graph, definitions).run_requests
    assert not run(graph, definitions, request)
    repair_row(graph, 5, vector)
    assert "failed 1 times: requested again in" in early(graph, definitions).skip_message
    clock.ahead_s = 61
    (again,) = early(graph, definitions).run_requests
    assert again.run_key == f"early/{served}/retry-1"
    assert run(graph, definitions, again)
    assert "`latest` is" in early(graph, definitions).skip_message


def test_the_sensor_asks_for_new_rows_hours_and_late_ones(graph, definitions):
    graph.fill(60, hours_ago=2, seed=1)
    first = look(graph, definitions)
    assert [(one.partition_key, one.run_key) for one in first.run_requests] == [(graph.key(2), f"{graph.key(2)}/60")]
    assert "is not finished" in look(graph, definitions, cursor=first.cursor).skip_reason.skip_message
    graph.instance.create_run_for_job(
        definitions.resolve_job_def("discover_hour"), status=dg.DagsterRunStatus.SUCCESS,
        tags={"dagster/run_key": f"{graph.key(2)}/60"},
    )  # fmt: skip
    nothing = look(graph, definitions, cursor=first.cursor)
    assert not nothing.run_requests
    assert "no new fingerprints after id 60" in nothing.skip_reason.skip_message
    start = hour_start_us(7)
    store_rows(graph.settings.db, draw(3, seed=4, start_us=start, end_us=start + HOUR_US))
    late = look(graph, definitions, cursor=nothing.cursor)
    assert [(one.partition_key, one.run_key) for one in late.run_requests] == [(graph.key(7), f"{graph.key(7)}/63")]
    assert late.run_requests[0].asset_selection is None, "no newer window is published: its map is made too"


def test_another_database_is_looked_at_from_its_beginning(graph, definitions):
    graph.fill(60, hours_ago=2, seed=1)
    old = Cursor(watermark_id=5000).to_json()
    assert [one.run_key for one in look(graph, definitions, cursor=old).run_requests] == [f"{graph.key(2)}/60"]


def test_what_the_sensor_asks_for_can_be_run(graph, definitions):
    # Of an hour that has ended: the running one's window ends at the present minute, which cuts the rows anywhere.
    graph.fill(60, hours_ago=1, seed=1)
    (request,) = look(graph, definitions).run_requests
    job = definitions.resolve_job_def("discover_hour")
    result = job.execute_in_process(
        partition_key=request.partition_key, instance=graph.instance,
        run_config=QUIET,
    )  # fmt: skip
    assert result.success
    assert {check.check_name for check in result.get_asset_check_evaluations() if check.passed} == {
        name for kind in (CHECKS, WARNINGS) for names in kind.values() for name in names
    }


def test_without_a_database_the_sensor_says_so(graph, definitions):
    skipped = look(graph, definitions)
    assert "no database at" in skipped.skip_message


def test_the_schedule_asks_for_the_hour_that_has_ended(graph, definitions):
    schedule = definitions.resolve_schedule_def("hourly_discovery")
    # Of the hour in which the tests began: the clock may pass the next one before this line.
    now = datetime.fromtimestamp(hour_start_us(0) / 1e6, UTC) + timedelta(minutes=2)

    def at(when: datetime) -> dg.RunRequest | dg.SkipReason:
        with dg.build_schedule_context(
            instance=graph.instance, scheduled_execution_time=when, resources={"store": graph.resources["store"]}
        ) as context:
            return schedule(context)

    assert "no database at" in at(now).skip_message
    graph.fill(20, hours_ago=1)
    request = at(now)
    assert request.partition_key == key_from_us(hour_start_us(1))
    assert "no fingerprints in the 24 hours" in at(now - timedelta(days=3)).skip_message
    assert "before the first partition" in at(datetime(2026, 1, 1, 0, 2, tzinfo=UTC)).skip_message


def early(graph, definitions, *, cursor=None):
    return look(graph, definitions, cursor=cursor, name="early_discovery")


def test_an_early_run_is_requested_once_and_again_only_for_another_run(graph, definitions):
    """Real bundles, a real request as the sidecar writes it, and the run that the sensor asks for, run."""
    graph.fill(200, hours_ago=1, seed=1)
    assert "asks for no early run" in early(graph, definitions).skip_message
    graph.make()
    folder = graph.settings.discovery_dir
    served = latest_run_id(folder)
    request = EarlyRun(run_id=served, reason="novelty", evidence="0.300 more than expected", asked_at_us=5)
    early_run.ask(folder, request)
    graph.fill(60, hours_ago=0, seed=2)
    first = early(graph, definitions)
    (wanted,) = first.run_requests
    assert (wanted.run_key, wanted.partition_key) == (f"early/{served}", graph.key(0))
    assert wanted.tags == {"attn/early": "novelty", "attn/in_place_of": served}
    begun = graph.instance.create_run_for_job(
        definitions.resolve_job_def("discover_hour"), status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/run_key": wanted.run_key},
    )  # fmt: skip
    assert "was requested already" in early(graph, definitions).skip_message
    early_run.ask(folder, EarlyRun(run_id=served, reason="drift", evidence="", asked_at_us=9))
    assert "was requested already" in early(graph, definitions).skip_message
    graph.instance.delete_run(begun.run_id)
    assert run(graph, definitions, wanted)
    renewed = latest_run_id(folder)
    assert renewed != served
    assert renewed in early(graph, definitions, cursor=first.cursor).skip_message, "the request is of an older run"
    early_run.ask(folder, EarlyRun(run_id=renewed, reason="drift", evidence="", asked_at_us=11))
    assert [one.run_key for one in early(graph, definitions, cursor=first.cursor).run_requests] == [f"early/{renewed}"]


def test_a_run_says_what_it_saw(graph):
    """The baseline that `--online` compares with: held-out rows of the run, under the ids that it published."""
    graph.fill(300, hours_ago=1, seed=1)
    graph.make()
    bundle = open_bundle(graph.settings.discovery_dir / "latest")
    baseline = Baseline.load(bundle.path / "baseline.npz")
    assert baseline.num_rows == bundle.manifest["metrics"]["num_judged"]
    assert baseline.num_claimed.sum() + baseline.num_unclaimed == baseline.num_rows
    assert baseline.cluster_ids.tolist() == sorted(bundle.table("clusters").column("cluster_id").to_pylist())
    assert "baseline.npz" in bundle.manifest["files"]


def test_a_request_that_cannot_be_read_or_served_is_said(graph, definitions):
    folder = graph.settings.discovery_dir
    folder.mkdir(parents=True)
    (folder / "early_run.json").write_text("{")
    assert "cannot be read" in early(graph, definitions).skip_message
    early_run.ask(folder, EarlyRun(run_id="2026-01-10T04-02-11", reason="drift", evidence="", asked_at_us=5))
    assert "`latest` is None" in early(graph, definitions).skip_message
    (folder / "latest").symlink_to("2026-01-10T04-02-11")
    assert "no database" in early(graph, definitions).skip_message


def test_a_lake_that_lost_hours_of_the_window_has_them_made_again_whatever_the_cursor_says(graph, definitions, clock):
    """The cursor outlives the lake: another folder is named, or somebody deletes it."""
    for hours_ago in (30, 3, 2):
        graph.fill(30, hours_ago=hours_ago, seed=hours_ago)
    cursor = None
    for clock.ahead_s in (0, 30, 60):
        looked = look(graph, definitions, cursor=cursor)
        cursor = looked.cursor
        assert all(run(graph, definitions, request) for request in looked.run_requests or [])
    clock.ahead_s = 4000
    quiet = look(graph, definitions, cursor=cursor)
    assert quiet.skip_reason.skip_message == "no new fingerprints after id 90"
    cursor = quiet.cursor
    shutil.rmtree(graph.settings.assets_dir)
    made = []
    for clock.ahead_s in (4030, 4060, 8000):
        looked = look(graph, definitions, cursor=cursor)
        cursor = looked.cursor
        made.append([(one.partition_key, one.asset_selection is None) for one in looked.run_requests or []])
        assert all(run(graph, definitions, request) for request in looked.run_requests or [])
    assert made == [[(graph.key(3), False), (graph.key(30), False)], [(graph.key(2), True)], []]
    assert looked.skip_reason.skip_message == "no new fingerprints after id 90"
