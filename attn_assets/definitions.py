"""The Dagster project: `dagster dev` finds `defs` here (workspace.yaml)."""

from __future__ import annotations

import os

import dagster as dg

from attn_assets.defs.assets import build_assets
from attn_assets.defs.automation import build_early_sensor, build_job, build_schedule, build_sensor
from attn_assets.defs.calibration import zone_calibration
from attn_assets.defs.head_projection import build_head_projection_sensor, head_projection
from attn_assets.defs.io_manager import ParquetFolders
from attn_assets.defs.lost_runs import build_lost_runs_sensor
from attn_assets.defs.outcomes import build_failure_sensor, build_published_sensor
from attn_assets.defs.partitions import us_from_key
from attn_assets.defs.resources import FingerprintStore, Keepers, Plan, Progress
from attn_assets.defs.upkeep import Bounds, build_retention, build_upkeep_sensor
from attn_assets.defs.watch import Rules
from attn_assets.lake import Lake
from attn_assets.settings import Settings
from attn_assets.sidecar_door import SidecarDoor


def build_resources(settings: Settings) -> dict[str, object]:
    """The resources that these settings ask for."""
    return {
        "io_manager": ParquetFolders(base_dir=settings.lake),
        "lake": Lake(settings.lake),
        "store": FingerprintStore(db=str(settings.db)),
        "plan": Plan(
            discovery_dir=str(settings.discovery_dir),
            window_hours=settings.window_hours,
            min_cluster_size=settings.min_cluster_size,
            umap_sample_size=settings.umap_sample_size,
            batch_size=settings.batch_size,
            seed=settings.seed,
            min_agreement=settings.min_agreement,
            max_noise_share=settings.max_noise_share,
        ),
        "bounds": Bounds(
            keep_db_hours=settings.keep_db_hours,
            keep_lake_hours=settings.keep_lake_hours,
            max_lake_bytes=settings.max_lake_bytes,
            keep_runs=settings.keep_runs,
            keep_records_hours=settings.keep_records_hours,
        ),
        "sidecar": SidecarDoor(url=settings.sidecar_url, token=settings.sidecar_token),
        "progress": Progress(),
        "keepers": Keepers(),
    }


def build_definitions(settings: Settings) -> dg.Definitions:
    """Assets, checks, job, schedule and sensors under these settings."""
    job = build_job()
    rules = Rules(
        min_new_rows=settings.min_new_rows,
        debounce_s=settings.debounce_s,
        first_hour_us=us_from_key(settings.first_hour),
        window_hours=settings.window_hours,
    )
    return dg.Definitions(
        assets=[
            *build_assets(first_hour=settings.first_hour, window_hours=settings.window_hours),
            build_retention(),
            zone_calibration,
            head_projection,
        ],
        jobs=[job],
        schedules=[build_schedule(job, first_hour=settings.first_hour, window_hours=settings.window_hours)],
        sensors=[
            build_sensor(job, rules=rules),
            build_early_sensor(job, first_hour=settings.first_hour),
            build_failure_sensor(job),
            build_published_sensor(job),
            build_lost_runs_sensor(),
            build_upkeep_sensor(),
            build_head_projection_sensor(),
        ],
        resources=build_resources(settings),
        # The multiprocess executor starts a Python for every asset: 20 s of start for seconds of work.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads, from this process's environment."""
    return build_definitions(Settings.from_environment(os.environ))
