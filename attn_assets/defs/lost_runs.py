"""Runs that Dagster takes for running though their process is gone.

Dagster's own launcher sees a run's process die as long as the code server lives. Where both go at once (`kill -9` of
the group, out of memory, a power cut), the run stays STARTED for ever: its hour is never requested again, and with one
run at a time no other run begins.
"""

import json

import dagster as dg
import psutil
from dagster._core.events import EngineEventData
from dagster._core.storage.tags import GRPC_INFO_TAG

SENSOR_INTERVAL_S = 30
_UNDER_WAY = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
_ROUNDING_S = 2.0
"""A process's start is known to a tick of the kernel, from the machine's start on."""


def fail_lost_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report every lost run as failed; returns their ids."""
    lost = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY)):
        process = _process_of(instance, run)
        if process is None or _is_alive(*process):
            continue
        # It may have ended well since the list was read: what it wrote before its end is there by now.
        now = instance.get_run_by_id(run.run_id)
        if now is not None and not now.is_finished:
            instance.report_run_failed(now, f"its process has ended (pid {process[0]}) and could not say so: killed?")
            lost.append(run.run_id)
    return lost


def build_lost_runs_sensor() -> dg.SensorDefinition:
    """Looks after each start of the daemon and then twice a minute; requests nothing."""

    @dg.sensor(
        name="lost_runs", minimum_interval_seconds=SENSOR_INTERVAL_S, default_status=dg.DefaultSensorStatus.RUNNING
    )
    def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        lost = fail_lost_runs(context.instance)
        if not lost:
            return dg.SkipReason("every run under way has its process")
        context.log.error(f"killed before they ended: {', '.join(lost)}")
        return dg.SkipReason(f"reported as failed, their processes are gone: {', '.join(lost)}")

    return lost_runs


def _process_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[int, float] | None:
    """(process id, when it was recorded) where Dagster's own launcher started the run on this machine."""
    if "socket" not in json.loads(run.tags.get(GRPC_INFO_TAG, "{}")):
        return None
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        data = entry.dagster_event.event_specific_data if entry.dagster_event is not None else None
        if isinstance(data, EngineEventData) and "pid" in data.metadata:
            return int(str(data.metadata["pid"].value)), entry.timestamp
    return None


def _is_alive(pid: int, recorded_s: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= recorded_s + _ROUNDING_S
    except psutil.NoSuchProcess:
        return False
