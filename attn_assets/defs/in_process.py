"""One discovery run without a Dagster server: the same assets, materialised in this process for a window up to now."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from attn_assets.checkpoint import Checkpoint, FolderKeepers, RunState
from attn_assets.defs import checks
from attn_assets.defs.assets import build_assets
from attn_assets.defs.io_manager import ParquetFolders
from attn_assets.defs.outcomes import why_failed
from attn_assets.defs.partitions import key_from_us
from attn_assets.defs.resources import FingerprintStore, Keepers, Plan, Progress
from attn_assets.lake import ONLY, Lake
from attn_assets.publishing import SCRATCH, reserve_run_id
from attn_assets.settings import Settings
from attn_core.bundle import latest_run_id
from attn_core.errors import AttnError, StoreError
from attn_core.store import HOUR_US, open_reader

STAGES = ("umap_embedding", "hdbscan_clusters", "zone_labels", "classifier_bundle")


MAX_OVERTAKEN = 5
"""How often a run whose clusters were overtaken by another one's is made again from them on."""


class NoFingerprints(StoreError):
    """The window holds nothing to discover."""


class DiscoveryFailed(AttnError):
    """A stage failed or a blocking check did not hold; `latest` is as it was."""

    def __init__(self, reason: str, *, stage: str = "") -> None:
        super().__init__(reason)
        self.stage = stage


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for."""

    hours: float
    min_cluster_size: int
    umap_sample_size: int
    batch_size: int
    seed: int


def begin(db: Path, output: Path, request: Request) -> tuple[RunState, int]:
    """A new run over the last `hours`, and how many fingerprints it has.

    Raises `StoreError` where the database cannot be read, `NoFingerprints` where the window is empty.
    """
    now_us = time.time_ns() // 1000
    start_us = now_us - round(request.hours * HOUR_US)
    with closing(open_reader(db)) as connection:
        sql = "SELECT count(*), coalesce(max(id), 0) FROM fingerprints WHERE captured_at_us >= ? AND captured_at_us < ?"
        count, newest_id = connection.execute(sql, (start_us, now_us)).fetchone()
        last_us = connection.execute("SELECT max(captured_at_us) FROM fingerprints").fetchone()[0]
    if count == 0:
        known = "the database is empty" if last_us is None else f"the newest is from {_utc(last_us)}"
        raise NoFingerprints(
            f"No fingerprints in the last {request.hours:g} hours in {db} ({known}). Send requests to the model server "
            "while the sidecar runs (the server needs --return-attention-tokens and --attention-backend triton), or "
            "look further back with --hours"
        )
    state = RunState(
        run_id=reserve_run_id(output, now_us),
        window_start_us=start_us,
        window_end_us=now_us,
        max_fingerprint_id=newest_id,
        previous_run_id=latest_run_id(output) or "",
        started_at_us=now_us,
        **vars(request),
    )
    return state, count


def run(
    state: RunState, *, db: Path, output: Path, progress: Progress, checkpoint: Checkpoint | None
) -> dict[str, float | int]:
    """Make what is not yet made of the run and publish it; returns its quality figures.

    With a checkpoint finished assets and pieces are kept and taken up again, otherwise they lie in a temporary folder.
    Raises `DiscoveryFailed`.
    """
    output.mkdir(parents=True, exist_ok=True)
    try:
        if checkpoint is not None:
            return _materialise(
                state, db=db, output=output, progress=progress, folder=checkpoint.assets,
                keepers=FolderKeepers(checkpoint.folder),
            )  # fmt: skip
        scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{state.run_id}.", dir=output))
        return _materialise(state, db=db, output=output, progress=progress, folder=scratch, keepers=Keepers())
    finally:
        discard(output, state.run_id)


def discard(output: Path, run_id: str) -> None:
    """Remove a run's temporary folder while its thread may still be writing there."""
    for _ in range(100):
        left = list(output.glob(f"{SCRATCH}{run_id}.*"))
        if not left:
            return
        for scratch in left:
            shutil.rmtree(scratch, ignore_errors=True)


def _materialise(
    state: RunState, *, db: Path, output: Path, progress: Progress, folder: Path, keepers: Keepers
) -> dict[str, float | int]:
    first_us = state.window_start_us // HOUR_US * HOUR_US
    hour = key_from_us(state.window_end_us)
    num_hours = (state.window_end_us - first_us) // HOUR_US + 1
    lake = Lake(str(folder))
    plan = Plan(
        discovery_dir=str(output),
        window_hours=state.hours,
        min_cluster_size=state.min_cluster_size,
        umap_sample_size=state.umap_sample_size,
        batch_size=state.batch_size,
        seed=state.seed,
        min_agreement=Settings().min_agreement,
        max_noise_share=Settings().max_noise_share,
        run_id=state.run_id,
        window_start_us=state.window_start_us,
        window_end_us=state.window_end_us,
        max_fingerprint_id=state.max_fingerprint_id,
        previous_run_id=state.previous_run_id,
    )
    resources: dict[str, object] = {
        "io_manager": ParquetFolders(base_dir=str(folder)),
        "lake": lake,
        "store": FingerprintStore(db=str(db)),
        "plan": plan,
        "progress": progress,
        "keepers": keepers,
    }
    assets = build_assets(first_hour=key_from_us(first_us), window_hours=num_hours)
    hours = [key_from_us(first_us + i * HOUR_US) for i in range(num_hours)]
    with dg.DagsterInstance.ephemeral() as instance:
        missing = [key for key in hours if not lake.holds("fingerprints", key)]
        if missing and not _finished("umap_embedding", lake, hour):
            span = {"dagster/asset_partition_range_start": missing[0], "dagster/asset_partition_range_end": missing[-1]}
            _run(assets, ["fingerprints"], instance=instance, resources=resources, tags=span)
        left = list(STAGES)
        while left and left[0] != "classifier_bundle" and _finished(left[0], lake, hour):
            left.pop(0)
        tries_left = MAX_OVERTAKEN
        while True:
            try:
                result = _run(assets, left, instance=instance, resources=resources, partition_key=hour)
                break
            except DiscoveryFailed as failure:
                latest = latest_run_id(output) or ""
                if failure.stage != "classifier_bundle" or latest == plan.previous_run_id or not tries_left:
                    raise
                # Another run was published since: the map stays, the clusters follow on that run.
                tries_left -= 1
                plan = Plan(**{**plan.model_dump(), "previous_run_id": latest})
                resources, left = {**resources, "plan": plan}, list(STAGES[1:])
    published = result.asset_materializations_for_node("classifier_bundle")[0].metadata
    if not published["published"].value:
        raise DiscoveryFailed(str(published["note"].value))
    if not published["recorded"].value:
        logging.getLogger(__name__).warning(published["note"].value)
    return {name: one.value for name, one in published.items() if isinstance(one.value, int | float)}


def _run(
    assets: list[dg.AssetsDefinition], selection: list[str], *, instance: dg.DagsterInstance,
    resources: dict[str, object], partition_key: str | None = None, tags: dict[str, str] | None = None,
) -> dg.ExecuteInProcessResult:  # fmt: skip
    result = dg.materialize(
        assets,
        selection=selection,
        instance=instance,
        resources=resources,
        partition_key=partition_key,
        tags=tags,
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    if result.success:
        return result
    stage, reason = why_failed(result.all_events)
    raise DiscoveryFailed(reason, stage=stage)


def _finished(asset: str, lake: Lake, hour: str) -> bool:
    """Whether the asset is there and sound: one whose check failed is stored all the same, and must be made again."""
    tables, located = lake.read(asset, hour), lake.read("umap_embedding", hour)
    if tables is None or located is None:
        return False
    if asset == "umap_embedding":
        outcomes = [checks.embedding_is_complete(located[ONLY]), checks.map_is_trustworthy(located[ONLY])]
    elif asset == "hdbscan_clusters":
        most = Settings().max_noise_share
        outcomes = [
            checks.clusters_cover_rows(tables, located[ONLY]),
            checks.noise_share_is_bounded(tables, max_noise_share=most),
        ]
    else:
        outcomes = [checks.zones_are_valid(tables, located[ONLY])]
    return all(one.passed for one in outcomes)


def _utc(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")
