"""Dagster's records of runs that have ended: each takes a third of a megabyte, and Dagster itself deletes none."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage

RUNS_A_TIME = 1_000
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def expire_run_records(instance: dg.DagsterInstance, *, before: datetime) -> int:
    """Delete runs that ended before this instant, with their events and logs; returns how many.

    At most `RUNS_A_TIME`, oldest first. With a run's events go the materialisations that it recorded: the hours stay in
    the lake, and Dagster's pages no longer list them.
    """
    filters = dg.RunsFilter(statuses=_ENDED, updated_before=before)
    old = instance.get_run_records(filters, limit=RUNS_A_TIME, ascending=True)
    for record in old:
        run_id = record.dagster_run.run_id
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        storage = instance.event_log_storage
        if isinstance(storage, SqliteEventLogStorage):
            # A file a run, which Dagster empties and leaves.
            file = Path(storage.path_for_shard(run_id))
            for name in (file.name, f"{file.name}-wal", f"{file.name}-shm"):
                file.with_name(name).unlink(missing_ok=True)
    return len(old)
