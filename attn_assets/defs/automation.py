"""When an hour is made: the job, its hourly schedule, and the sensors of new rows and of early runs."""

from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from attn_assets.defs.attempts import RETRY_PAUSES_S, State, attempt_in, next_try
from attn_assets.defs.cursor import Cursor
from attn_assets.defs.partitions import key_from_us, us_from_key
from attn_assets.defs.records import ROWS_OF, Records
from attn_assets.defs.resources import FingerprintStore, Plan
from attn_assets.defs.watch import Request, Rules, decide
from attn_assets.lake import Lake
from attn_core import early_run
from attn_core.bundle import latest_run_id
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
        return dg.RunRequest(run_key=hourly_root(key), partition_key=key)

    return hourly_discovery


def build_sensor(job: UnresolvedAssetJobDefinition, *, rules: Rules) -> dg.SensorDefinition:
    """Requests an hour's partition when the database has new rows of it, until they are done; of a past hour its rows.

    The hourly run that failed is requested again here too: its schedule looks once an hour.
    """

    @dg.sensor(
        job=job, name="new_fingerprints", minimum_interval_seconds=SENSOR_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )  # fmt: skip
    def new_fingerprints(
        context: dg.SensorEvaluationContext, store: FingerprintStore, plan: Plan, lake: dg.ResourceParam[Lake]
    ) -> dg.SensorResult | dg.SkipReason:
        cursor = Cursor.from_json(context.cursor)
        try:
            with closing(open_reader(store.path)) as connection:
                newest_id = max_id(connection)
                if cursor.watermark_id > newest_id:
                    # Ids never fall in one file: this is another, whose rows are all new.
                    cursor = Cursor()
                hours = hours_with_rows_after(connection, after_id=cursor.watermark_id)
                now_us = round(datetime.now(UTC).timestamp() * 1e6)
                records = Records(instance=context.instance, lake=lake, discovery_dir=plan.output, newest_id=newest_id)
                known = {*cursor.hours, *(hour_us for hour_us, _, _ in hours)}
                lost = _lost_hours(store, records, known=known, now_us=now_us, rules=rules)
                if lost:
                    context.log.warning(f"done before, and not in the lake: {', '.join(lost)}")
                    cursor = Cursor()
                    hours = hours_with_rows_after(connection, after_id=0)
        except StoreError as error:
            return dg.SkipReason(str(error))
        current = replace(rules, superseded_us=records.window_end_us)
        decision = decide(hours, cursor=cursor, now_us=now_us, rules=current, outside=records)
        for key in decision.given_up:
            context.log.error(f"{key} failed {len(RETRY_PAUSES_S) + 1} times: requested again when new rows of it come")
        requests = [_request(one) for one in decision.requests]
        requests += _failed_hourly(records, now_us=now_us)
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason(decision.evidence),
            cursor=decision.cursor.to_json(),
        )

    return new_fingerprints


def _lost_hours(
    store: FingerprintStore, records: Records, *, known: Collection[int], now_us: int, rules: Rules
) -> list[str]:
    """Hours of the window that the cursor has left behind, and that the lake lacks all the same."""
    newest_us = now_us // HOUR_US * HOUR_US
    window = range(max(newest_us - (rules.window_hours - 1) * HOUR_US, rules.first_hour_us), newest_us + 1, HOUR_US)
    absent = [h for h in window if h not in known and not records.lake_holds(h, num_rows=0, max_id=0)]
    return [key_from_us(h) for h in absent if store.count(start_us=h, end_us=h + HOUR_US)]


def _request(one: Request) -> dg.RunRequest:
    # The map of a past hour is followed by a newer one, which takes the hour's rows in with its window.
    return dg.RunRequest(
        run_key=one.run_key,
        partition_key=key_from_us(one.hour_us),
        asset_selection=None if one.whole else [dg.AssetKey(ROWS_OF)],
        tags={"attn/new_rows": str(one.num_rows)},
    )


def _failed_hourly(records: Records, *, now_us: int) -> list[dg.RunRequest]:
    """The run of the hour that ended last, where the schedule requested it, it failed, and nothing later is served."""
    hour_us = now_us // HOUR_US * HOUR_US - HOUR_US
    root = hourly_root(key_from_us(hour_us))
    if records.attempt(root).state is not State.FAILED or records.window_end_us >= hour_us + HOUR_US:
        return []
    again = next_try(root, attempt_of=records.attempt, now_us=now_us)
    return [] if again.run_key is None else [dg.RunRequest(run_key=again.run_key, partition_key=key_from_us(hour_us))]


def hourly_root(key: str) -> str:
    """The run key of the schedule's run of an hour."""
    return f"hourly/{key}"


def build_early_sensor(job: UnresolvedAssetJobDefinition, *, first_hour: str) -> dg.SensorDefinition:
    """Requests a run when the sidecar (`--online`) says that what it serves no longer fits: until one succeeds."""

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
            again = next_try(
                f"early/{asked.run_id}",
                attempt_of=partial(attempt_in, context.instance),
                now_us=round(datetime.now(UTC).timestamp() * 1e6),
            )
            if again.run_key is None:
                return dg.SkipReason(again.reason)
            newest_us = store.newest_us()
        except (BundleError, StoreError) as error:
            return dg.SkipReason(str(error))
        if newest_us is None or newest_us < us_from_key(first_hour):
            return dg.SkipReason("no fingerprints that a partition could hold")
        request = dg.RunRequest(
            run_key=again.run_key,
            partition_key=key_from_us(newest_us),
            tags={"attn/early": asked.reason, "attn/in_place_of": asked.run_id},
        )
        context.log.info(f"early run in place of {asked.run_id}: {asked.evidence}")
        return dg.SensorResult(run_requests=[request])

    return early_discovery
