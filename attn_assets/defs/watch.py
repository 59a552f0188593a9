"""Which hours the sensor requests: pure, so that it can be tried without Dagster, a lake or a clock.

A row counts as done when a run over it has succeeded or the lake holds it, not when it was requested. What failed is
requested again after growing pauses; after the last of them the hour is reported, and requested when new rows come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from attn_assets.defs.attempts import RETRY_PAUSES_S, Attempt, State
from attn_assets.defs.cursor import Asked, Cursor, Status
from attn_assets.defs.partitions import key_from_us
from attn_core.store import HOUR_US

SECOND_US = 1_000_000
UNSEEN_S = 60
"""Seconds after a request in which Dagster may not have recorded its run yet."""
FORGET_AFTER_US = 7 * 24 * HOUR_US
"""An hour that failed is reported for so long."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When a request is worth it."""

    min_new_rows: int
    """New rows that a running hour needs; an hour that has ended needs one."""
    debounce_s: int
    """Seconds between two requests of one hour."""
    first_hour_us: int
    """Hours before this have no partition."""
    window_hours: int = 24
    """A map waits for the first rows of these hours, where they are requested."""
    max_requests: int = 24
    """Requests of one look: what is more waits for the next, newest hours first."""
    superseded_us: int = 0
    """Hours that end before this are in a newer window that is published: their rows are taken in, no map is made."""


class Outside(Protocol):
    """What is known besides the cursor."""

    def attempt(self, run_key: str) -> Attempt:
        """How the run of this key stands."""

    def lake_holds(self, hour_us: int, *, num_rows: int, max_id: int) -> bool:
        """Whether the lake's hour has so many rows at least, up to this id."""

    def is_published(self, hour_us: int, *, max_id: int) -> bool:
        """Whether the window of `latest` reaches into the hour, up to this id."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run to request."""

    hour_us: int
    num_rows: int
    run_key: str
    whole: bool
    """The whole graph, not its rows alone."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to request, why nothing where nothing, and the cursor of the next look."""

    requests: tuple[Request, ...]
    """Newest hour first, the whole graph last."""
    evidence: str
    given_up: tuple[str, ...]
    """Hours that failed for the last time, seen in this look."""
    cursor: Cursor


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """An hour's rows above the watermark, and the last request of it as it stands now."""

    num_rows: int
    max_id: int
    last: Asked | None


@dataclass(frozen=True, kw_only=True)
class _Stand:
    """Whether an hour is finished, wanted (a run is to be requested) or waits, and why."""

    reason: str = ""
    is_finished: bool = False
    is_wanted: bool = False
    is_running: bool = False
    num_failed: int = 0


_FINISHED = _Stand(is_finished=True)


def decide(
    hours: Sequence[tuple[int, int, int]], *, cursor: Cursor, now_us: int, rules: Rules, outside: Outside
) -> Decision:
    """From (hour start, rows above the watermark, highest id) of each hour with such rows."""
    ahead = dict(cursor.ahead)
    found: dict[int, tuple[int, int]] = {}
    for hour_us, num_rows, max_id in hours:
        if hour_us > now_us:
            # Dated in the future: it has no partition yet.
            ahead[hour_us] = max(max_id, ahead.get(hour_us, 0))
        else:
            found[hour_us] = (num_rows, max_id)
    for hour_us in [hour for hour in ahead if hour <= now_us]:
        num_rows, max_id = found.get(hour_us, (0, 0))
        found[hour_us] = (num_rows + 1, max(max_id, ahead[hour_us]))
    asked = {hour: _renewed(hour, one, outside=outside) for hour, one in cursor.hours.items()}
    rows = {h: _Rows(num_rows=n, max_id=m, last=asked.get(h)) for h, (n, m) in sorted(found.items(), reverse=True)}
    stands = {
        h: _stand(h, one, now_us=now_us, rules=rules, outside=outside, is_due=h in ahead) for h, one in rows.items()
    }
    target = _newest(rows, stands, rules=rules, outside=outside)
    requests, waits = _requests(rows, stands, target=target, rules=rules, outside=outside)
    watermark = _watermark(rows, stands, hours=hours, cursor=cursor, ahead=ahead, target=target)
    has_moved = watermark > cursor.watermark_id
    for hour_us, one in rows.items():
        if stands[hour_us].is_finished and hour_us != target:
            ahead.pop(hour_us, None)
            if one.last is None:
                asked[hour_us] = Asked(num_rows=one.num_rows, max_id=one.max_id, at_us=0, status=Status.DONE)
            elif one.last.status is Status.DONE:
                asked[hour_us] = replace(one.last, num_rows=one.num_rows)
    if has_moved:
        # Of rows above the new watermark it is not known how many are done; too few only means an earlier request.
        asked = {h: replace(one, num_rows=0) for h, one in asked.items()}
    sent = []
    for hour_us, is_whole in requests:
        one, stand = rows[hour_us], stands[hour_us]
        new = replace(
            _unused(hour_us, one.max_id, outside=outside),
            num_rows=_new_rows(one) if has_moved else one.num_rows,
            at_us=now_us,
            num_failed=stand.num_failed,
            whole=is_whole,
        )
        asked[hour_us] = new
        if outside.attempt(new.run_key(hour_us)).state is State.UNKNOWN:
            sent.append(Request(hour_us=hour_us, num_rows=_new_rows(one), run_key=new.run_key(hour_us), whole=is_whole))
    kept = {h: one for h, one in asked.items() if _matters(h, one, watermark, now_us=now_us, rules=rules, rows=rows)}
    failed = {h: key_from_us(h) for h, one in sorted(kept.items()) if one.status is Status.GIVEN_UP}
    just_now = [key for h, key in failed.items() if cursor.hours[h].status is not Status.GIVEN_UP]
    return Decision(
        requests=tuple(sent),
        evidence=_evidence(watermark, waits=waits, ahead=ahead, failed=list(failed.values()), now_us=now_us),
        given_up=tuple(just_now),
        cursor=Cursor(watermark_id=watermark, hours=kept, ahead=ahead),
    )


def _renewed(hour_us: int, last: Asked, *, outside: Outside) -> Asked:
    """The request with what became of it."""
    if last.status is Status.DONE:
        return last
    state = outside.attempt(last.run_key(hour_us)).state
    is_done = state is State.SUCCEEDED
    if not is_done and state is not State.PENDING:
        # Another run may have done it, and Dagster may have lost its records: the files tell.
        is_done = outside.lake_holds(hour_us, num_rows=0, max_id=last.max_id)
        is_done &= not last.whole or outside.is_published(hour_us, max_id=last.max_id)
    if is_done:
        return replace(last, status=Status.DONE, num_failed=0)
    if state is State.FAILED and last.num_failed >= len(RETRY_PAUSES_S):
        return replace(last, status=Status.GIVEN_UP)
    return last


def _stand(hour_us: int, rows: _Rows, *, now_us: int, rules: Rules, outside: Outside, is_due: bool) -> _Stand:
    last, key = rows.last, key_from_us(hour_us)
    if hour_us < rules.first_hour_us:
        return _FINISHED
    if last is None:
        if outside.lake_holds(hour_us, num_rows=rows.num_rows, max_id=rows.max_id):
            return _FINISHED
    elif last.status is Status.REQUESTED:
        attempt = outside.attempt(last.run_key(hour_us))
        if attempt.state is State.FAILED:
            wait_s = RETRY_PAUSES_S[last.num_failed] - (now_us - attempt.ended_at_us) // SECOND_US
            if wait_s > 0:
                return _Stand(reason=f"{key} failed {last.num_failed + 1} times, requested again in {wait_s} s")
            return _Stand(is_wanted=True, num_failed=last.num_failed + 1)
        if attempt.state is State.UNKNOWN and now_us - last.at_us >= UNSEEN_S * SECOND_US:
            return _Stand(is_wanted=True, num_failed=last.num_failed)
        return _Stand(reason=f"the run of {key} is not finished", is_running=True)
    elif rows.max_id <= last.max_id:
        return _FINISHED
    elif now_us - last.at_us < rules.debounce_s * SECOND_US:
        ago_s = (now_us - last.at_us) // SECOND_US
        return _Stand(reason=f"{_new_rows(rows)} rows of {key}, requested {ago_s} s ago")
    if _new_rows(rows) < rules.min_new_rows and now_us < hour_us + HOUR_US and not is_due:
        return _Stand(reason=f"{_new_rows(rows)} rows of the {rules.min_new_rows} that a running hour needs")
    return _Stand(is_wanted=True)


def _new_rows(rows: _Rows) -> int:
    done = rows.last.num_rows if rows.last is not None and rows.last.status is Status.DONE else 0
    return max(rows.num_rows - done, 1)


def _newest(rows: Mapping[int, _Rows], stands: Mapping[int, _Stand], *, rules: Rules, outside: Outside) -> int | None:
    """The hour whose map is wanted: one map takes in the rows of all hours of its window."""
    busy = [h for h, one in stands.items() if not one.is_finished and (one.is_wanted or rows[h].last is not None)]
    held = [h for h, one in stands.items() if one.is_finished and rows[h].last is None and h >= rules.first_hour_us]
    newest = max(busy, default=0)
    newest_held = max(held, default=0)
    if newest_held > newest and not outside.is_published(newest_held, max_id=rows[newest_held].max_id):
        newest = newest_held
    if not newest or newest + HOUR_US < rules.superseded_us:
        return None
    return newest if stands[newest].is_wanted or newest == newest_held else None


def _requests(
    rows: Mapping[int, _Rows], stands: Mapping[int, _Stand], *, target: int | None, rules: Rules, outside: Outside
) -> tuple[list[tuple[int, bool]], list[str]]:
    """(hour, whether the whole graph) to request, and why others wait."""
    waits = [one.reason for one in stands.values() if one.reason]
    wanted = [h for h, one in stands.items() if one.is_wanted and h != target]
    most = rules.max_requests
    lacking = [] if target is None else _lacking(stands, target=target, rules=rules, outside=outside)
    if lacking:
        waits.append(f"the map of {key_from_us(target or 0)} waits for the rows of {len(lacking)} hours of its window")
        target = None
    most -= target is not None
    if len(wanted) > most:
        waits.append(f"{len(wanted) - most} hours: {rules.max_requests} are requested at a time")
    chosen = [(hour_us, False) for hour_us in wanted[:most]]
    if target is not None:
        chosen.append((target, True))
    return chosen, waits


def _lacking(stands: Mapping[int, _Stand], *, target: int, rules: Rules, outside: Outside) -> list[int]:
    """Hours of the map's window whose first rows are on their way; one that failed is not waited for."""
    start_us = target - (rules.window_hours - 1) * HOUR_US
    return [
        h
        for h, one in stands.items()
        if start_us <= h < target
        and (one.is_running or (one.is_wanted and not one.num_failed))
        and not outside.lake_holds(h, num_rows=0, max_id=0)
    ]


def _watermark(
    rows: Mapping[int, _Rows], stands: Mapping[int, _Stand], *, hours: Sequence[tuple[int, int, int]], cursor: Cursor,
    ahead: Mapping[int, int], target: int | None,
) -> int:  # fmt: skip
    """The id up to which every row is done, given up, or listed in `ahead`."""
    covered = []
    for hour_us, one in rows.items():
        if (stands[hour_us].is_finished and hour_us != target) or hour_us in ahead:
            continue
        is_done = one.last is not None and one.last.status is Status.DONE
        covered.append(one.last.max_id if one.last is not None and is_done else 0)
    reached = min(covered) if covered else max((max_id for _, _, max_id in hours), default=0)
    return max(cursor.watermark_id, reached)


def _unused(hour_us: int, max_id: int, *, outside: Outside) -> Asked:
    """A request under a key that no finished run has; a run that is under way is taken for it."""
    number = 0
    while True:
        one = Asked(num_rows=0, max_id=max_id, at_us=0, number=number)
        if outside.attempt(one.run_key(hour_us)).state in (State.UNKNOWN, State.PENDING):
            return one
        number += 1


def _matters(hour_us: int, one: Asked, watermark: int, *, now_us: int, rules: Rules, rows: Mapping[int, _Rows]) -> bool:
    if one.status is Status.GIVEN_UP:
        return now_us - one.at_us < FORGET_AFTER_US
    if hour_us not in rows and one.status is Status.REQUESTED:
        # Its rows left the database.
        return False
    return one.status is Status.REQUESTED or one.max_id > watermark or now_us - one.at_us < rules.debounce_s * SECOND_US


def _evidence(
    watermark: int, *, waits: Sequence[str], ahead: Mapping[int, int], failed: Sequence[str], now_us: int
) -> str:
    evidence = "waiting: " + "; ".join(waits) if waits else f"no new fingerprints after id {watermark}"
    if any(hour_us > now_us for hour_us in ahead):
        evidence += f"; rows of {len(ahead)} hours that have not begun: a sender's clock runs ahead"
    if failed:
        times = len(RETRY_PAUSES_S) + 1
        evidence += f"; failed {times} times, requested again when new rows come: {', '.join(failed)}"
    return evidence
