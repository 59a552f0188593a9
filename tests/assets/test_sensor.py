"""When hours are asked for: the sensor's rules, the sensor and the schedule themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_fingerprints import draw, hour_start_us, store_rows

from attn_assets.definitions import build_definitions
from attn_assets.defs.checks import CHECKS
from attn_assets.defs.partitions import key_from_us, us_from_key
from attn_assets.defs.watch import Asked, Cursor, Rules, decide
from attn_core import early_run
from attn_core.baseline import Baseline
from attn_core.bundle import latest_run_id, open_bundle
from attn_core.early_run import EarlyRun
from attn_core.store import HOUR_US

NOON_US = us_from_key("2026-11-20-12:00")
RULES = Rules(min_new_rows=50, debounce_s=300, first_hour_us=us_from_key("2026-01-01-00:00"))
SECOND_US = 1_000_000


def ask(*hours: tuple[int, int, int], cursor: Cursor | None = None, now_us: int = NOON_US + HOUR_US // 2):
    return decide(hours, cursor=cursor or Cursor(), now_us=now_us, rules=RULES)


def test_a_running_hour_waits_for_enough_rows():
    few = ask((NOON_US, 49, 49))
    assert few.requests == ()
    assert "49 rows of the 50" in few.evidence
    assert few.cursor == Cursor()
    assert ask((NOON_US, 50, 50)).requests == ((NOON_US, 50, 50),)


def test_an_hour_that_has_ended_needs_one_row():
    late = ask((NOON_US - 5 * HOUR_US, 1, 77))
    assert late.requests == ((NOON_US - 5 * HOUR_US, 1, 77),)
    assert late.cursor.watermark_id == 77


def test_a_busy_hour_is_not_asked_for_on_every_tick():
    now = NOON_US + HOUR_US // 2
    first = ask((NOON_US, 100, 100), now_us=now)
    soon = ask((NOON_US, 80, 180), cursor=first.cursor, now_us=now + 30 * SECOND_US)
    assert soon.requests == ()
    assert "asked for 30 s ago" in soon.evidence
    later = ask((NOON_US, 140, 240), cursor=soon.cursor, now_us=now + 301 * SECOND_US)
    assert later.requests == ((NOON_US, 140, 240),)
    assert later.cursor.watermark_id == 240


def test_an_hour_that_waits_does_not_hold_up_another_nor_lose_rows():
    now = NOON_US + HOUR_US // 2
    both = ask((NOON_US - HOUR_US, 5, 5), (NOON_US, 10, 15), now_us=now)
    assert both.requests == ((NOON_US - HOUR_US, 5, 5),)
    assert both.cursor.watermark_id == 0, "rows of the waiting hour are still above the watermark"
    again = ask((NOON_US - HOUR_US, 5, 5), (NOON_US, 10, 15), cursor=both.cursor, now_us=now + 30 * SECOND_US)
    assert again.requests == (), "the hour that was asked for has nothing new"
    grown = ask((NOON_US - HOUR_US, 5, 5), (NOON_US, 60, 65), cursor=again.cursor, now_us=now + 60 * SECOND_US)
    assert grown.requests == ((NOON_US, 60, 65),)
    assert grown.cursor.watermark_id == 65


def test_rows_older_than_the_first_partition_are_passed_over():
    old = ask((us_from_key("2025-12-31-23:00"), 500, 500))
    assert old.requests == ()
    assert old.cursor.watermark_id == 500


HOURS = st.lists(st.integers(0, 3), max_size=60)


@given(HOURS, st.lists(st.integers(0, 600), min_size=1, max_size=8))
def test_every_row_is_asked_for_in_the_end_and_no_request_repeats(arrivals, waits):
    """Rows arrive in hours 0..3, an id each; ticks come after these seconds."""
    cursor, now, asked = Cursor(), NOON_US + 3 * HOUR_US, []
    ticks = [*waits, 4000, 4000]
    for tick, wait in enumerate(ticks):
        now += wait * SECOND_US
        visible = arrivals if tick >= len(waits) else arrivals[: len(arrivals) * (tick + 1) // len(waits)]
        rows: dict[int, list[int]] = {}
        for row_id, hour in enumerate(visible, start=1):
            if row_id > cursor.watermark_id:
                rows.setdefault(NOON_US + hour * HOUR_US, []).append(row_id)
        decision = ask(*[(h, len(ids), max(ids)) for h, ids in sorted(rows.items())], cursor=cursor, now_us=now)
        cursor = Cursor.from_json(decision.cursor.to_json())
        assert cursor == decision.cursor
        asked += decision.requests
    newest = {NOON_US + hour * HOUR_US: row_id for row_id, hour in enumerate(arrivals, start=1)}
    covered: dict[int, int] = {}
    for hour_us, new_rows, max_id in asked:
        assert new_rows > 0
        assert max_id > covered.get(hour_us, 0)
        covered[hour_us] = max_id
    assert covered == newest


@pytest.mark.parametrize("num_rows", [1, 49, 50, 5000])
def test_rows_dated_in_the_future_stop_nothing_and_are_asked_for_once_their_hour_has_begun(num_rows):
    future = NOON_US + 2 * HOUR_US
    first = ask((NOON_US - HOUR_US, 3, 3), (future, num_rows, 3 + num_rows))
    assert first.requests == ((NOON_US - HOUR_US, 3, 3),)
    assert first.cursor.watermark_id == 3 + num_rows
    cursor = Cursor.from_json(first.cursor.to_json())
    still = ask(cursor=cursor)
    assert still.requests == ()
    assert "clock runs ahead" in still.evidence
    begun = ask(cursor=still.cursor, now_us=future + HOUR_US // 2)
    assert [(hour, max_id) for hour, _, max_id in begun.requests] == [(future, 3 + num_rows)]
    assert ask(cursor=begun.cursor, now_us=future + HOUR_US).requests == ()


def test_a_month_of_hours_is_asked_for_a_day_at_a_time_oldest_first():
    hours = [(NOON_US - k * HOUR_US, 10, 10 * (721 - k)) for k in range(720, 0, -1)]
    cursor, asked = Cursor(), []
    for tick in range(40):
        visible = [one for one in hours if one[2] > cursor.watermark_id]
        decision = ask(*visible, cursor=cursor, now_us=NOON_US + HOUR_US // 2 + tick * 30 * SECOND_US)
        assert len(decision.requests) <= 24
        asked += decision.requests
        cursor = decision.cursor
    assert [hour for hour, _, _ in asked] == [hour for hour, _, _ in hours]


def test_the_sensor_lives_with_rows_of_tomorrow(graph, definitions):
    graph.fill(60, hours_ago=2, seed=1)
    start = hour_start_us(-25)
    store_rows(graph.settings.db, draw(60, seed=4, start_us=start, end_us=start + HOUR_US))
    first = look(graph, definitions)
    assert [one.partition_key for one in first.run_requests] == [graph.key(2)]
    assert not look(graph, definitions, cursor=first.cursor).run_requests


def test_the_cursor_is_small_json():
    cursor = Cursor(watermark_id=9, hours={NOON_US: Asked(num_rows=3, max_id=9, at_us=NOON_US)})
    assert Cursor.from_json(cursor.to_json()) == cursor
    assert len(cursor.to_json()) < 100
    assert Cursor.from_json(None) == Cursor()


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


def test_the_sensor_asks_for_new_rows_hours_and_late_ones(graph, definitions):
    graph.fill(60, hours_ago=2, seed=1)
    first = look(graph, definitions)
    assert [(one.partition_key, one.run_key) for one in first.run_requests] == [(graph.key(2), f"{graph.key(2)}/60")]
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
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )  # fmt: skip
    assert result.success
    assert {check.check_name for check in result.get_asset_check_evaluations() if check.passed} == {
        name for names in CHECKS.values() for name in names
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
    assert "was requested already" in early(graph, definitions, cursor=first.cursor).skip_message
    early_run.ask(folder, EarlyRun(run_id=served, reason="drift", evidence="", asked_at_us=9))
    assert "was requested already" in early(graph, definitions, cursor=first.cursor).skip_message
    result = definitions.resolve_job_def("discover_hour").execute_in_process(
        partition_key=wanted.partition_key, instance=graph.instance,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )  # fmt: skip
    assert result.success
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
