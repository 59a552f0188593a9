"""The asset that keeps database, lake, discovery folder and Dagster's records within their bounds."""

# No postponed annotations in this module: Dagster reads them as types.

import time
from datetime import UTC, datetime, timedelta

import dagster as dg

from attn_assets.defs.partitions import key_from_us
from attn_assets.defs.resources import FingerprintStore, Plan
from attn_assets.defs.run_history import expire_run_records
from attn_assets.lake import Lake
from attn_assets.recording import record_remembered
from attn_assets.retention import Expired, expire_hours, expire_rows, expire_runs
from attn_core.errors import StoreError
from attn_core.store import HOUR_US

EVERY_HOUR = "17 * * * *"


class Bounds(dg.ConfigurableResource):  # type: ignore[type-arg]
    """What may stay; 0 means all."""

    keep_db_hours: int
    keep_lake_hours: int
    max_lake_bytes: int
    keep_runs: int
    keep_records_hours: int


def build_retention() -> dg.AssetsDefinition:
    """`retention`: made by its automation condition a quarter past each hour, when the hour before has been made."""

    @dg.asset(
        group_name="upkeep",
        kinds={"sqlite", "parquet"},
        automation_condition=dg.AutomationCondition.on_cron(EVERY_HOUR),
    )
    def retention(
        context: dg.AssetExecutionContext,
        store: FingerprintStore,
        lake: dg.ResourceParam[Lake],
        plan: Plan,
        bounds: Bounds,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """What was too old or too much is gone: rows of the database (only those in the lake), hours, runs, records."""
        now_us = time.time_ns() // 1000
        rows = Expired(num_rows=0)
        if bounds.keep_db_hours:
            before_us = now_us - bounds.keep_db_hours * HOUR_US
            try:
                rows = expire_rows(store.path, lake, before_us=before_us, hour_of=key_from_us)
            except StoreError as error:
                rows = Expired(num_rows=0, waiting=str(error))
        before = key_from_us(now_us - bounds.keep_lake_hours * HOUR_US) if bounds.keep_lake_hours else None
        not_from = key_from_us(now_us - round((plan.window_hours + 1) * HOUR_US))
        hours = expire_hours(lake, before=before, max_bytes=bounds.max_lake_bytes, not_from=not_from)
        runs_waiting = record_remembered(plan.output, store.path, patience_s=0)
        runs = expire_runs(plan.output, keep=bounds.keep_runs) if bounds.keep_runs else []
        num_records = 0
        if bounds.keep_records_hours:
            oldest = datetime.fromtimestamp(now_us / 1e6, UTC) - timedelta(hours=bounds.keep_records_hours)
            num_records = expire_run_records(context.instance, before=oldest)
        left = lake.stored()
        return dg.MaterializeResult(
            metadata={
                "num_rows_deleted": rows.num_rows,
                "rows_waiting": rows.waiting,
                "num_hours_dropped": len(hours),
                "num_runs_removed": len(runs),
                "runs_waiting": runs_waiting,
                "num_run_records_deleted": num_records,
                "lake_bytes": sum(one.num_bytes for one in left),
                "num_hours_in_lake": len({one.hour for one in left}),
            }
        )

    return retention


def build_upkeep_sensor() -> dg.AutomationConditionSensorDefinition:
    """What looks at the automation condition of `retention`; Dagster's own such sensor would wait to be switched on."""
    return dg.AutomationConditionSensorDefinition(
        "upkeep", target=dg.AssetSelection.groups("upkeep"), default_status=dg.DefaultSensorStatus.RUNNING
    )
