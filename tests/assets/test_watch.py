"""The rules by which hours are requested: what is done, what is requested again, what waits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_assets.defs.attempts import Attempt, State, next_try
from attn_assets.defs.cursor import Asked, Cursor, Status
from attn_assets.defs.partitions import key_from_us, us_from_key
from attn_assets.defs.watch import Rules, decide
from attn_core.store import HOUR_US

NOON_US = us_from_key("2026-11-20-12:00")
NOW_US = NOON_US + HOUR_US // 2
RULES = Rules(min_new_rows=50, debounce_s=300, first_hour_us=us_from_key("2026-01-01-00:00"))
SECOND_US = 1_000_000
NOON = "2026-11-20-12:00"


@dataclass
class World:
    """Runs by key, hours of the lake as (rows, highest id), and the published window as (end, highest id)."""

    runs: dict[str, Attempt] = field(default_factory=dict)
    lake: dict[int, tuple[int, int]] = field(default_factory=dict)
    published: tuple[int, int] = (0, 0)

    def attempt(self, run_key: str) -> Attempt:
        return self.runs.get(run_key, Attempt(state=State.UNKNOWN))

    def lake_holds(self, hour_us: int, *, num_rows: int, max_id: int) -> bool:
        held = self.lake.get(hour_us)
        return held is not None and held[0] >= num_rows and held[1] >= max_id

    def is_published(self, hour_us: int, *, max_id: int) -> bool:
        return self.published[0] > hour_us and self.published[1] >= max_id

    def end(self, key: str, *, ok: bool = True, at_us: int = NOW_US) -> None:
        self.runs[key] = Attempt(state=State.SUCCEEDED if ok else State.FAILED, ended_at_us=at_us)


def look(world: World, *hours: tuple[int, int, int], cursor: Cursor | None = None, now_us: int = NOW_US):
    rules = replace(RULES, superseded_us=world.published[0])
    found = decide(hours, cursor=cursor or Cursor(), now_us=now_us, rules=rules, outside=world)
    assert Cursor.from_json(found.cursor.to_json()) == found.cursor
    return found


def asked(found) -> list[tuple[str, bool]]:
    return [(one.run_key, one.whole) for one in found.requests]


def test_a_running_hour_waits_for_enough_rows():
    few = look(World(), (NOON_US, 49, 49))
    assert few.requests == ()
    assert "49 rows of the 50" in few.evidence
    assert few.cursor == Cursor()
    assert asked(look(World(), (NOON_US, 50, 50))) == [(f"{NOON}/50", True)]


def test_an_hour_that_has_ended_needs_one_row_and_is_done_when_its_run_has_succeeded():
    world = World()
    late = look(world, (NOON_US - 5 * HOUR_US, 1, 77))
    assert asked(late) == [("2026-11-20-07:00/77", True)]
    assert late.cursor.watermark_id == 0, "requested is not done"
    world.end("2026-11-20-07:00/77")
    done = look(world, (NOON_US - 5 * HOUR_US, 1, 77), cursor=late.cursor, now_us=NOW_US + 30 * SECOND_US)
    assert done.requests == ()
    assert done.cursor.watermark_id == 77


def test_a_busy_hour_is_not_requested_on_every_tick():
    world = World()
    first = look(world, (NOON_US, 100, 100))
    world.end(f"{NOON}/100")
    soon = look(world, (NOON_US, 180, 180), cursor=first.cursor, now_us=NOW_US + 30 * SECOND_US)
    assert soon.requests == ()
    assert "requested 30 s ago" in soon.evidence
    assert soon.cursor.watermark_id == 100
    few = look(world, (NOON_US, 20, 120), cursor=soon.cursor, now_us=NOW_US + 301 * SECOND_US)
    assert "20 rows of the 50" in few.evidence
    later = look(world, (NOON_US, 140, 240), cursor=few.cursor, now_us=NOW_US + 331 * SECOND_US)
    assert asked(later) == [(f"{NOON}/240", True)]
    assert later.cursor.watermark_id == 100


def test_an_hour_that_waits_does_not_hold_up_another_nor_lose_rows():
    world, before = World(), NOON_US - HOUR_US
    both = look(world, (before, 5, 5), (NOON_US, 10, 15))
    assert asked(both) == [("2026-11-20-11:00/5", True)]
    world.end("2026-11-20-11:00/5")
    again = look(world, (before, 5, 5), (NOON_US, 10, 15), cursor=both.cursor, now_us=NOW_US + 30 * SECOND_US)
    assert again.requests == (), "the hour that was requested has nothing new"
    grown = look(world, (before, 5, 5), (NOON_US, 60, 65), cursor=again.cursor, now_us=NOW_US + 60 * SECOND_US)
    assert asked(grown) == [(f"{NOON}/65", True)]
    world.end(f"{NOON}/65")
    done = look(world, (before, 5, 5), (NOON_US, 60, 65), cursor=grown.cursor, now_us=NOW_US + 90 * SECOND_US)
    assert done.cursor.watermark_id == 65


def test_a_failed_hour_is_requested_again_after_growing_pauses_and_then_reported():
    world, cursor, now, requested = World(), None, NOW_US, []
    given_up = []
    while now < NOW_US + 2 * HOUR_US:
        found = look(world, (NOON_US - HOUR_US, 5, 5), cursor=cursor, now_us=now)
        for one in found.requests:
            requested.append((one.run_key, (now - NOW_US) // SECOND_US))
            world.end(one.run_key, ok=False, at_us=now)
        given_up += found.given_up
        cursor, now = found.cursor, now + 30 * SECOND_US
    key = "2026-11-20-11:00"
    assert requested == [
        (f"{key}/5", 0),
        (f"{key}/5/retry-1", 60),
        (f"{key}/5/retry-2", 360),
        (f"{key}/5/retry-3", 1260),
    ]
    assert given_up == [key], "once in the log"
    assert f"failed 4 times, requested again when new rows come: {key}" in found.evidence
    assert cursor.watermark_id == 5, "an hour that was given up does not hold up the others"
    new = look(world, (NOON_US - HOUR_US, 1, 6), cursor=cursor, now_us=now)
    assert asked(new) == [(f"{key}/6", True)]
    world.end(f"{key}/6")
    done = look(world, (NOON_US - HOUR_US, 1, 6), cursor=new.cursor, now_us=now + 30 * SECOND_US)
    assert "failed" not in done.evidence


def test_a_given_up_hour_that_a_person_has_materialised_is_no_longer_reported():
    world, hour_us = World(), NOON_US - HOUR_US
    gone = Asked(num_rows=5, max_id=5, at_us=NOW_US, num_failed=3, number=3, status=Status.GIVEN_UP)
    cursor = Cursor(watermark_id=5, hours={hour_us: gone})
    assert "2026-11-20-11:00" in look(world, cursor=cursor).evidence
    world.lake[hour_us], world.published = (5, 5), (NOON_US, 5)
    assert "failed" not in look(world, cursor=cursor).evidence


def test_new_rows_while_an_hour_fails_do_not_start_the_pauses_anew():
    world, cursor, now, requested = World(), None, NOON_US + 60 * SECOND_US, []
    for number in range(80):
        found = look(world, (NOON_US, 60 + number, 60 + number), cursor=cursor, now_us=now)
        for one in found.requests:
            requested.append((now - NOON_US) // SECOND_US)
            world.end(one.run_key, ok=False, at_us=now)
        cursor, now = found.cursor, now + 30 * SECOND_US
    assert requested[:4] == [60, 120, 420, 1320]


def test_a_request_that_was_never_started_is_made_again_under_its_own_key():
    world, hour = World(), (NOON_US - HOUR_US, 5, 5)
    first = look(world, hour)
    soon = look(world, hour, cursor=first.cursor, now_us=NOW_US + 30 * SECOND_US)
    assert soon.requests == ()
    assert "is not finished" in soon.evidence
    again = look(world, hour, cursor=soon.cursor, now_us=NOW_US + 90 * SECOND_US)
    assert asked(again) == asked(first)


def test_an_hour_whose_run_is_under_way_is_left_alone_whatever_comes():
    world = World()
    first = look(world, (NOON_US, 60, 60))
    world.runs[f"{NOON}/60"] = Attempt(state=State.PENDING)
    found = look(world, (NOON_US, 900, 900), cursor=first.cursor, now_us=NOW_US + 1000 * SECOND_US)
    assert found.requests == ()
    assert "the run of 2026-11-20-12:00 is not finished" in found.evidence
    lost = look(world, (NOON_US, 60, 60), now_us=NOW_US + 1000 * SECOND_US)
    assert lost.requests == (), "a reset cursor takes the run that Dagster knows for its own"


def test_a_reset_cursor_uses_no_key_again():
    world = World()
    world.end("2026-11-20-11:00/5", ok=False)
    assert asked(look(world, (NOON_US - HOUR_US, 5, 5))) == [("2026-11-20-11:00/5/retry-1", True)]


def test_rows_older_than_the_first_partition_are_passed_over():
    old = look(World(), (us_from_key("2025-12-31-23:00"), 500, 500))
    assert old.requests == ()
    assert old.cursor.watermark_id == 500


def test_a_first_start_requests_the_rows_of_a_week_and_one_map():
    """168 hours: rows a day at a time from the newest on; the map as soon as its window is in the lake."""
    hours = [(NOON_US - k * HOUR_US, 10, 10 * (169 - k)) for k in range(168, 0, -1)]
    world, cursor, rows, maps, now = World(), None, [], [], NOW_US
    for tick in range(12):
        found = look(world, *hours, cursor=cursor, now_us=now)
        assert len(found.requests) <= RULES.max_requests
        for one in found.requests:
            (maps if one.whole else rows).append((tick, one.hour_us))
            world.end(one.run_key)
            world.lake[one.hour_us] = (10, next(m for h, _, m in hours if h == one.hour_us))
            if one.whole:
                world.published = (one.hour_us + HOUR_US, 1680)
        cursor, now = found.cursor, now + 30 * SECOND_US
    assert maps == [(1, NOON_US - HOUR_US)], "one map, of the newest hour, after its window's rows"
    assert [hour for _, hour in rows] == [NOON_US - k * HOUR_US for k in range(2, 169)]
    assert cursor.watermark_id == 1680
    assert len(look(world, cursor=cursor, now_us=now + 600 * SECOND_US).cursor.to_json()) < 100


def test_after_a_restart_without_memory_only_what_the_files_lack_is_requested():
    hours = [(NOON_US - k * HOUR_US, 10, 10 * (721 - k)) for k in range(720, 0, -1)]
    world = World(lake={h: (n, m) for h, n, m in hours}, published=(NOON_US, 7200))
    quiet = look(world, *hours)
    assert quiet.requests == ()
    assert quiet.cursor.watermark_id == 7200
    del world.lake[NOON_US - 9 * HOUR_US]
    world.lake[NOON_US - 500 * HOUR_US] = (9, 2209)
    found = look(world, *hours)
    assert [(one.hour_us, one.whole) for one in found.requests] == [
        (NOON_US - 9 * HOUR_US, False), (NOON_US - 500 * HOUR_US, False),
    ]  # fmt: skip
    world = World(lake={h: (n, m) for h, n, m in hours}, published=(NOON_US - 3 * HOUR_US, 7170))
    assert [(one.hour_us, one.whole) for one in look(world, *hours).requests] == [(NOON_US - HOUR_US, True)]


def test_late_rows_of_an_hour_under_a_published_window_make_no_map_and_hold_none_up():
    world = World(lake={NOON_US - 5 * HOUR_US: (9, 9)}, published=(NOON_US + HOUR_US // 4, 90))
    late = look(world, (NOON_US - 5 * HOUR_US, 3, 93))
    assert [(one.hour_us, one.whole) for one in late.requests] == [(NOON_US - 5 * HOUR_US, False)]
    both = look(world, (NOON_US - 5 * HOUR_US, 3, 93), (NOON_US, 60, 160))
    assert [(one.hour_us, one.whole) for one in both.requests] == [(NOON_US - 5 * HOUR_US, False), (NOON_US, True)]


def test_a_past_hour_that_keeps_failing_does_not_hold_up_the_map():
    world, hours = World(), [(NOON_US - 2 * HOUR_US, 5, 5), (NOON_US - HOUR_US, 5, 10)]
    first = look(world, *hours)
    assert asked(first) == [("2026-11-20-10:00/5", False)]
    assert "waits for the rows of 1 hours" in first.evidence
    world.end("2026-11-20-10:00/5", ok=False)
    second = look(world, *hours, cursor=first.cursor, now_us=NOW_US + 30 * SECOND_US)
    assert asked(second) == [("2026-11-20-11:00/10", True)]


HOURS = st.lists(st.integers(0, 3), max_size=60)


@given(HOURS, st.lists(st.integers(0, 600), min_size=1, max_size=8), st.lists(st.sampled_from("yynl"), max_size=30))
def test_every_row_is_done_in_the_end_and_no_key_repeats(arrivals, waits, outcomes):
    """Rows arrive in hours 0..3, an id each; runs succeed (y), fail (n) or never start (l)."""
    world, cursor, now, used, left = World(), Cursor(), NOON_US + 3 * HOUR_US, [], list(outcomes)
    for tick, wait in enumerate([*waits, *[4000] * (len(outcomes) + 8)]):
        now += wait * SECOND_US
        visible = arrivals if tick >= len(waits) else arrivals[: len(arrivals) * (tick + 1) // len(waits)]
        rows: dict[int, list[int]] = {}
        for row_id, hour in enumerate(visible, start=1):
            if row_id > cursor.watermark_id:
                rows.setdefault(NOON_US + hour * HOUR_US, []).append(row_id)
        found = look(world, *[(h, len(ids), max(ids)) for h, ids in sorted(rows.items())], cursor=cursor, now_us=now)
        cursor = found.cursor
        for one in found.requests:
            outcome = left.pop(0) if left else "y"
            if outcome == "l":
                continue
            used.append(one.run_key)
            world.end(one.run_key, ok=outcome == "y", at_us=now)
            if outcome == "y":
                ids = [i for i, hour in enumerate(visible, start=1) if NOON_US + hour * HOUR_US == one.hour_us]
                world.lake[one.hour_us] = (len(ids), max(ids))
    assert len(used) == len(set(used))
    newest = {NOON_US + hour * HOUR_US: row_id for row_id, hour in enumerate(arrivals, start=1)}
    given_up = {hour: one.max_id for hour, one in cursor.hours.items() if one.status is Status.GIVEN_UP}
    for hour_us, row_id in newest.items():
        assert world.lake.get(hour_us, (0, 0))[1] == row_id or given_up.get(hour_us) == row_id, key_from_us(hour_us)
    assert cursor.watermark_id == len(arrivals)


@pytest.mark.parametrize("num_rows", [1, 49, 50, 5000])
def test_rows_dated_in_the_future_stop_nothing_and_are_requested_once_their_hour_has_begun(num_rows):
    world, future = World(), NOON_US + 2 * HOUR_US
    hours = [(NOON_US - HOUR_US, 3, 3), (future, num_rows, 3 + num_rows)]
    first = look(world, *hours)
    assert asked(first) == [("2026-11-20-11:00/3", True)]
    world.end("2026-11-20-11:00/3")
    still = look(world, *hours, cursor=first.cursor)
    assert still.requests == ()
    assert still.cursor.watermark_id == 3 + num_rows
    assert "clock runs ahead" in look(world, cursor=still.cursor).evidence
    begun = look(world, cursor=still.cursor, now_us=future + HOUR_US // 2)
    assert asked(begun) == [(f"2026-11-20-14:00/{3 + num_rows}", True)]
    world.end(begun.requests[0].run_key)
    done = look(world, cursor=begun.cursor, now_us=future + HOUR_US)
    assert done.requests == ()
    assert done.cursor.ahead == {}


def test_the_cursor_is_small_json_and_that_of_the_version_before_is_read():
    cursor = Cursor(watermark_id=9, hours={NOON_US: Asked(num_rows=3, max_id=9, at_us=NOON_US)})
    assert len(cursor.to_json()) < 110
    assert Cursor.from_json(None) == Cursor()
    old = f'{{"watermark_id": 9, "hours": {{"{NOON_US}": [3, 9, {NOON_US}]}}}}'
    assert Cursor.from_json(old) == cursor


def test_tries_of_one_root_follow_one_another_and_end():
    world, now, keys = World(), NOW_US, []
    for _ in range(200):
        found = next_try("early/a", attempt_of=world.attempt, now_us=now)
        if found.run_key is not None:
            keys.append((found.run_key, (now - NOW_US) // SECOND_US))
            world.end(found.run_key, ok=False, at_us=now)
        now += 30 * SECOND_US
    assert keys == [("early/a", 0), ("early/a/retry-1", 60), ("early/a/retry-2", 360), ("early/a/retry-3", 1260)]
    assert found.reason == "early/a failed 4 times: not requested again"
    world.end("early/a/retry-3")
    assert "succeeded" in next_try("early/a", attempt_of=world.attempt, now_us=now).reason
