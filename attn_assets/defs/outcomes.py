"""What follows a run: one that published is told to the sidecar, one that failed to whoever watches."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from attn_assets.defs.partitions import us_from_key
from attn_assets.defs.resources import FingerprintStore, Plan
from attn_assets.memory import MENDS
from attn_assets.publishing import record_outcome
from attn_assets.sidecar_door import SidecarDoor, SidecarUnreachable
from attn_core import run_failure
from attn_core.bundle import run_id_from_time
from attn_core.errors import StoreError
from attn_core.run_failure import RunFailure
from attn_core.store import HOUR_US

_OUT_OF_MEMORY = ("MemoryError", "ArrowMemoryError", "_ArrayMemoryError")
PARTITION_TAG = "dagster/partition"


def why_failed(events: Iterable[dg.DagsterEvent]) -> tuple[str, str]:
    """(stage, reason) of a failed run from its events: the checks that did not hold, else the first error."""
    broken, errors = [], []
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity is not dg.AssetCheckSeverity.WARN:
                found = ", ".join(f"{name} {value.value}" for name, value in check.metadata.items())
                asset = check.asset_key.to_user_string()
                broken.append((asset, f"check {check.check_name} of {asset} failed: {found}"))
        elif event.is_step_failure and event.step_failure_data.error is not None:
            error = event.step_failure_data.error
            cause = error.cause or error
            hint = f". What helps: {MENDS}" if cause.cls_name in _OUT_OF_MEMORY else ""
            errors.append((event.step_key or "", f"{event.step_key}: {cause.message.strip()}{hint}"))
    return (broken or errors or [("", "the run failed before its first stage")])[0]


def build_failure_sensor(job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """A failed run goes into the database and into `failed_run.json`, which the sidecar tells on `/events`."""

    @dg.run_failure_sensor(name="failed_discovery", monitored_jobs=[job], default_status=dg.DefaultSensorStatus.RUNNING)
    def failed_discovery(
        context: dg.RunFailureSensorContext, store: FingerprintStore, plan: Plan
    ) -> dg.SkipReason | None:
        run = context.dagster_run
        records = context.instance.all_logs(run.run_id)
        stage, reason = why_failed(one.dagster_event for one in records if one.dagster_event is not None)
        stats = context.instance.get_run_stats(run.run_id)
        started_us = round((stats.start_time or stats.launch_time or time.time()) * 1e6)
        run_id = run_id_from_time(datetime.fromtimestamp(started_us / 1e6, UTC))
        failure = RunFailure(run_id=run_id, stage=stage, reason=reason, failed_at_us=time.time_ns() // 1000)
        run_failure.tell(plan.output, failure)
        end_us = us_from_key(run.tags[PARTITION_TAG]) + HOUR_US if PARTITION_TAG in run.tags else started_us
        row = {"run_id": run_id, "status": "failed", "error": reason, "started_at_us": started_us}
        try:
            start_us = end_us - round(plan.window_hours * HOUR_US)
            record_outcome(store.path, run={**row, "window_start_us": start_us, "window_end_us": end_us})
        except StoreError as error:
            return dg.SkipReason(f"told, but not recorded: {error}")
        return None

    return failed_discovery


def build_published_sensor(job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """A run that ended well: the sidecar (ATTN_SIDECAR_URL) is told to look at `latest` now."""

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name="published_discovery",
        monitored_jobs=[job],
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def published_discovery(
        context: dg.RunStatusSensorContext, sidecar: dg.ResourceParam[SidecarDoor]
    ) -> dg.SkipReason | None:
        if not sidecar.url:
            return dg.SkipReason("ATTN_SIDECAR_URL is not set: the sidecar looks at `latest` by itself, each second")
        try:
            context.log.info(f"{sidecar.url} serves {sidecar.reload()}")
        except SidecarUnreachable as error:
            return dg.SkipReason(f"{error}; it looks at `latest` by itself")
        return None

    return published_discovery
