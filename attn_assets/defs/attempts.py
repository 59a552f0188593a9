"""What became of a run that was requested: Dagster's own records, and when a failed one is requested again.

Dagster launches a run key once, whether or not its run succeeds. So each try has a key of its own: `root`,
`root/retry-1`, `root/retry-2` and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import dagster as dg
from dagster._core.storage.tags import RUN_KEY_TAG

RETRY_PAUSES_S = (60, 300, 900)
"""Seconds after the end of a failed try before the next; after the last of them no more is tried."""


class State(Enum):
    """How a try stands."""

    UNKNOWN = "unknown"
    """Dagster has no record of it: never started, or forgotten."""
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Failed or cancelled."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A try, and when it ended where it has failed."""

    state: State
    ended_at_us: int = 0


@dataclass(frozen=True, kw_only=True)
class NextTry:
    """The key to request now, or why none is."""

    run_key: str | None
    reason: str


def key_of_try(root: str, number: int) -> str:
    """The run key of a try; number 0 is the first."""
    return f"{root}/retry-{number}" if number else root


def attempt_in(instance: dg.DagsterInstance, run_key: str) -> Attempt:
    """How the run of this key stands in Dagster's records."""
    records = instance.get_run_records(dg.RunsFilter(tags={RUN_KEY_TAG: run_key}), limit=1)
    if not records:
        return Attempt(state=State.UNKNOWN)
    status = records[0].dagster_run.status
    if status is dg.DagsterRunStatus.SUCCESS:
        return Attempt(state=State.SUCCEEDED)
    if status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
        ended_s = records[0].end_time or records[0].update_timestamp.timestamp()
        return Attempt(state=State.FAILED, ended_at_us=round(ended_s * 1e6))
    return Attempt(state=State.PENDING)


def next_try(root: str, *, attempt_of: Callable[[str], Attempt], now_us: int) -> NextTry:
    """The key of the next try of `root`: the first, or one after a failed one and its pause."""
    due_us = 0
    for number in range(len(RETRY_PAUSES_S) + 1):
        key = key_of_try(root, number)
        attempt = attempt_of(key)
        if attempt.state is State.UNKNOWN:
            wait_s = -((now_us - due_us) // 1_000_000)
            if wait_s > 0:
                return NextTry(run_key=None, reason=f"{root} failed {number} times: requested again in {wait_s} s")
            return NextTry(run_key=key, reason=f"{root} failed {number} times" if number else f"{root} is new")
        if attempt.state is State.SUCCEEDED:
            return NextTry(run_key=None, reason=f"{root} was requested already, and its run succeeded")
        if attempt.state is State.PENDING:
            return NextTry(run_key=None, reason=f"{root} was requested already: its run is not finished")
        due_us = attempt.ended_at_us + RETRY_PAUSES_S[min(number, len(RETRY_PAUSES_S) - 1)] * 1_000_000
    return NextTry(run_key=None, reason=f"{root} failed {len(RETRY_PAUSES_S) + 1} times: not requested again")
