"""`dagster_overhead`: one partition through Dagster against the same functions called plainly, on the same rows."""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import pyarrow as pa

from attn_assets.definitions import build_definitions, build_resources
from attn_assets.defs import checks
from attn_assets.defs.partitions import key_from_us
from attn_assets.defs.resources import Plan
from attn_assets.discovery.embedding import NoKeeper
from attn_assets.publishing import Assets, Run, publish_checked
from attn_assets.settings import Settings
from attn_assets.stages import find_clusters, label_zones, locate
from attn_core.bundle import LATEST, open_bundle
from attn_core.store import HOUR_US
from benchmarks.captured import bootstrapped
from benchmarks.kill_discovery import store_captured
from benchmarks.measure import PAIRS, figure_from_limit, report

DEFAULT_ROWS = 2_000
MOST_S = 2.0
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure the two in turn and report the median difference; each must find the same clusters."""
    with TemporaryDirectory(prefix="attn-overhead-") as name:
        folder = Path(name)
        hour_us = time.time_ns() // 1000 // HOUR_US * HOUR_US - HOUR_US
        store_captured(folder / "fingerprints.db", bootstrapped(rows or DEFAULT_ROWS), start_us=hour_us)
        # Once unmeasured: what is compiled on first use is neither's cost.
        _plain(folder, hour_us=hour_us, number=-1)
        _through_dagster(folder, hour_us=hour_us, number=-1)
        measured = [
            (
                _through_dagster(folder, hour_us=hour_us, number=number),
                _plain(folder, hour_us=hour_us, number=number),
            )
            for number in range(PAIRS)
        ]
    over = [through - plain for (through, found), (plain, expected) in measured if _same(found, expected)]
    seconds = statistics.median(over)
    plain_s = statistics.median(plain for _, (plain, _) in measured)
    figures = [
        figure_from_limit(
            name="dagster_overhead", figure="seconds", value=seconds, unit="s", target=f"<= {MOST_S:g}",
            met=seconds <= MOST_S,
        ),
        figure_from_limit(
            name="dagster_overhead", figure="plain_seconds", value=plain_s, unit="s", target="shown", met=True
        ),
    ]  # fmt: skip
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


def _settings(folder: Path, *, kind: str, number: int) -> Settings:
    place = folder / f"{kind}-{number}"
    return Settings(db=folder / "fingerprints.db", discovery_dir=place / "out", assets_dir=place / "assets")


def _through_dagster(folder: Path, *, hour_us: int, number: int) -> tuple[float, pa.Table]:
    """Seconds of the job `discover_hour` for the hour, with an instance on disk; and the clusters published."""
    settings = _settings(folder, kind="dagster", number=number)
    storage = settings.discovery_dir.parent / "dagster"
    storage.mkdir(parents=True)
    job = build_definitions(settings).resolve_job_def("discover_hour")
    with dg.DagsterInstance.local_temp(str(storage)) as instance:
        began_s = time.perf_counter()
        job.execute_in_process(partition_key=key_from_us(hour_us), instance=instance, run_config=_QUIET)
        seconds = time.perf_counter() - began_s
    return seconds, open_bundle(settings.discovery_dir / LATEST).table("clusters")


def _plain(folder: Path, *, hour_us: int, number: int) -> tuple[float, pa.Table]:
    """Seconds of the same stages and publication without Dagster; and the clusters published."""
    settings = _settings(folder, kind="plain", number=number)
    resources = build_resources(settings)
    plan, store = resources["plan"], resources["store"]
    assert isinstance(plan, Plan)
    began_s = time.perf_counter()
    window_us = plan.window_us(hour_us + HOUR_US)
    rows = store.span(start_us=window_us[0], end_us=window_us[1]).rows  # type: ignore[attr-defined]
    located = locate(
        rows, window_us=window_us, sample_size=plan.umap_sample_size, batch_size=plan.batch_size, seed=plan.seed,
        keeper=NoKeeper(), report=lambda done, total: None,
    )  # fmt: skip
    clusters = find_clusters(located, min_cluster_size=plan.min_cluster_size, seed=plan.seed, previous_bundle=None)
    assets = Assets(located=located, clusters=clusters, zones=label_zones(located, clusters))
    publish_checked(
        assets,
        Run(run_id=None, parameters=plan.parameters(), started_at_us=time.time_ns() // 1000),
        discovery_dir=plan.output,
        db=settings.db,
        agrees=lambda figures: checks.classifier_agrees(figures, min_agreement=0.0),
        verifies=lambda run_id: checks.bundle_is_sound(run_id, discovery_dir=plan.output),
        publishing=nullcontext,
    )
    seconds = time.perf_counter() - began_s
    return seconds, open_bundle(settings.discovery_dir / LATEST).table("clusters")


def _same(found: pa.Table, expected: pa.Table) -> bool:
    columns = ["cluster_id", "size", "zone"]
    if not found.select(columns).equals(expected.select(columns)):
        raise SystemExit("dagster_overhead: the two found different clusters")
    return True
