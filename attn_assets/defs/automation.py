"""When an hour is made: the job, its hourly schedule, and the sensors of new rows and of early runs."""

import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from attn_assets.defs.partitions import key_from_us, us_from_key
from attn_assets.defs.resources import FingerprintStore, Plan
from attn_assets.defs.watch import Cursor, Rules, decide
from attn_core import early_run
from attn_core.bundle import LATEST, MANIFEST, latest_run_id
from attn_core.errors import BundleError, StoreError
from attn_core.store import HOUR_US, hours_with_rows_after, max_id, open_reader

SENSOR_INTERVAL_S = 30


def build_job() -> UnresolvedAssetJobDefinition:
    """All five assets of one hour, with their checks."""
    return dg.define_asset_job("discover_hour", selection=dg.AssetSelection.groups("discovery"))


def build_schedule(job: UnresolvedAssetJobDefinition, *, first_hour: str, window_hours: int) -> dg.ScheduleDefinition:
    """Two minutes past each hour, the hour that has just ended: the last word on it, late rows included."""

    @dg.schedule(
        job=job, cron_schedule="2 * * * *", execution_timezone="UTC", name="hourly_discovery",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )  # fmt: skip
    def hourly_discovery(
        context: dg.ScheduleEvaluationContext, store: FingerprintStore
    ) -> dg.RunRequest | dg.SkipReason:
        ended = context.scheduled_execution_time.astimezone(UTC) - timedelta(hours=1)
        key = key_from_us(round(ended.timestamp() * 1e6))
        if us_from_key(key) < us_from_key(first_hour):
            return dg.SkipReason(f"{key} is before the first partition, {first_hour}")
        end_us = us_from_key(key) + HOUR_US
        try:
            rows = store.count(start_us=end_us - window_hours * HOUR_US, end_us=end_us)
        except StoreError as error:
            return dg.SkipReason(str(error))
        if rows == 0:
            return dg.SkipReason(f"no fingerprints in the {window_hours} hours up to {key}")
        return dg.RunRequest(run_key=f"hourly/{key}", partition_key=key)

    return hourly_discovery


def build_sensor(job: UnresolvedAssetJobDefinition, *, rules: Rules) -> dg.SensorDefinition:
    """Requests an hour's partition when the database has new rows of it; of a past hour only its rows."""

    @dg.sensor(
        job=job, name="new_fingerprints", minimum_interval_seconds=SENSOR_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )  # fmt: skip
    def new_fingerprints(
        context: dg.SensorEvaluationContext, store: FingerprintStore, plan: Plan
    ) -> dg.SensorResult | dg.SkipReason:
        cursor = Cursor.from_json(context.cursor)
        try:
            with closing(open_reader(store.path)) as connection:
                if cursor.watermark_id > max_id(connection):
                    # Ids never fall in one file: this is another, whose rows are all new.
                    cursor = Cursor()
                hours = hours_with_rows_after(connection, after_id=cursor.watermark_id)
        except StoreError as error:
            return dg.SkipReason(str(error))
        now_us = round(datetime.now(UTC).timestamp() * 1e6)
        decision = decide(
            hours, cursor=cursor, now_us=now_us, rules=replace(rules, superseded_us=_window_end_us(plan.output))
        )
        requests = [_request(*one) for one in decision.requests]
        # The map of a late row's hour was followed by newer ones: the next one takes the row in with its window.
        requests += [_request(*one, asset_selection=[dg.AssetKey("fingerprints")]) for one in decision.late]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason(decision.evidence),
            cursor=decision.cursor.to_json(),
        )

    return new_fingerprints


def build_early_sensor(job: UnresolvedAssetJobDefinition, *, first_hour: str) -> dg.SensorDefinition:
    """Requests a run when the sidecar (`--online`) says that what it serves no longer fits: once for each such run."""

    @dg.sensor(
        job=job, name="early_discovery", minimum_interval_seconds=SENSOR_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )  # fmt: skip
    def early_discovery(
        context: dg.SensorEvaluationContext, store: FingerprintStore, plan: Plan
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            asked = early_run.asked(plan.output)
            if asked is None:
                return dg.SkipReason("the sidecar asks for no early run")
            served = latest_run_id(plan.output)
            if asked.run_id != served:
                return dg.SkipReason(f"asked for while {asked.run_id} was served; `latest` is {served} by now")
            if asked.run_id == context.cursor:
                return dg.SkipReason(f"a run in place of {asked.run_id} was requested already")
            newest_us = store.newest_us()
        except (BundleError, StoreError) as error:
            return dg.SkipReason(str(error))
        if newest_us is None or newest_us < us_from_key(first_hour):
            return dg.SkipReason("no fingerprints that a partition could hold")
        request = dg.RunRequest(
            run_key=f"early/{asked.run_id}",
            partition_key=key_from_us(newest_us),
            tags={"attn/early": asked.reason, "attn/in_place_of": asked.run_id},
        )
        context.log.info(f"early run in place of {asked.run_id}: {asked.evidence}")
        return dg.SensorResult(run_requests=[request], cursor=asked.run_id)

    return early_discovery


def _request(
    hour_us: int, num_rows: int, newest_id: int, *, asset_selection: list[dg.AssetKey] | None = None
) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{key_from_us(hour_us)}/{newest_id}",
        partition_key=key_from_us(hour_us),
        asset_selection=asset_selection,
        tags={"attn/new_rows": str(num_rows)},
    )


def _window_end_us(discovery_dir: Path) -> int:
    """Where the window of `latest` ends; 0 where there is none to read. Its hashes do not matter here."""
    try:
        manifest = json.loads((discovery_dir / LATEST / MANIFEST).read_text(encoding="utf-8"))
        return int(manifest["window_end_us"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
