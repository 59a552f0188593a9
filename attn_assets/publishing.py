"""From finished assets to a published bundle: fit the served classifier, judge it, publish, tell the database."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from attn_assets.discovery.learned_space import coordinates
from attn_assets.discovery.models import Models
from attn_assets.discovery.serving import LandmarkRows, Served, served
from attn_assets.discovery.tables import bundle_tables, embedding_of, facts_of, labels_of, space_of
from attn_assets.discovery.unclear import note_of, without_clusters
from attn_assets.discovery.window import Window, window_from_table
from attn_assets.recording import PATIENCE_S, RunRecord, record_remembered, remember
from attn_assets.remembered import write_remembered
from attn_core import run_failure
from attn_core.baseline import FILE_NAME as BASELINE
from attn_core.bundle import LATEST, latest_run_id, open_bundle, point_latest, publish, run_id_from_time, sole_publisher
from attn_core.errors import BundleError
from attn_core.space import FILE_NAME as SPACE
from attn_core.space import Space
from attn_core.store import open_writer, record_run
from attn_core.zones import FILE_NAME as FORMULAS
from attn_core.zones import ZoneFormulas

MIN_JUDGED_ROWS = 100
"""With fewer held-out rows their agreement is chance: reported, but nothing is refused for it."""
SCRATCH = ".working-"
"""What a run's temporary folders begin with; its id and a dot follow."""
LIBRARIES = ("umap-learn", "hdbscan", "numpy", "scipy", "pyarrow", "dagster")
Tables = Mapping[str, pa.Table]


@dataclass(frozen=True, kw_only=True)
class Assets:
    """What the graph made of one window."""

    located: pa.Table
    clusters: Tables
    zones: Tables


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The served classifier beside what the bundle's tables need."""

    window: Window
    models: Models
    space: Space
    landmarks: LandmarkRows
    served: Served


def fit_classifier(assets: Assets) -> Fitted:
    """The served classifier of these clusters, judged on its own landmarks."""
    located, clusters = assets.located, assets.clusters
    window, models = window_from_table(located), Models.from_column(located.column("model_id"))
    space = space_of(located)
    landmarks, labels = LandmarkRows.from_table(
        clusters["landmarks"], window, models, space, positions=embedding_of(located).positions
    )
    cluster_ids = clusters["clusters"].column("cluster_id").to_numpy().astype(np.int32)
    return Fitted(
        window=window,
        models=models,
        space=space,
        landmarks=landmarks,
        served=served(landmarks, labels, cluster_ids=cluster_ids),
    )


def _shown_sample(clusters: Tables, fitted: Fitted) -> npt.NDArray[np.int64]:
    """Rows of the window among which prototypes are found: the landmarks, and all of clusters that have none there."""
    labels = labels_of(clusters)
    lacking = np.setdiff1d(np.arange(clusters["clusters"].num_rows), labels[fitted.landmarks.row])
    return np.union1d(fitted.landmarks.row, np.flatnonzero(np.isin(labels, lacking)))


def formulas_of(zones: Tables) -> ZoneFormulas:
    """The zone formulas that these zones were scored with."""
    return ZoneFormulas.from_json(facts_of(zones["points"])["zone_formulas"])


def _formulas_in_manifest(formulas: ZoneFormulas) -> dict[str, Any]:
    """For each model what its zones rest on: `version`, `sha256`, `num_tokens` that its usual values were learned from,
    and `confidence_of`, the model that the confidence was fitted to. The default has the name "".
    """
    named = {"": formulas.default, **formulas.of_model}
    return {
        name: {
            "version": one.version,
            "sha256": one.sha256(),
            "num_tokens": one.usual.num_tokens,
            "confidence_of": one.provenance.get("confidence", {}).get("model"),
        }
        for name, one in named.items()
    }


def why_not(located: pa.Table, *, discovery_dir: Path) -> str | None:
    """Why this window is not to be published, or None where it is."""
    if located.num_rows == 0:
        return "no fingerprints in the window: nothing to publish, `latest` stays as it is"
    try:
        latest = open_bundle(discovery_dir / LATEST)
    except BundleError:
        return None
    newest_us = int(latest.manifest.get("window_end_us", 0))
    if newest_us > int(facts_of(located)["window_end_us"]):
        return f"`latest` ({latest.run_id}) covers a later window: this one is superseded"
    return None


def metrics_of(assets: Assets, served: Served) -> dict[str, float | int]:
    """The run's quality figures that could be told, as plain numbers."""
    figures = {
        **facts_of(assets.located).get("metrics", {}),
        **facts_of(assets.clusters["points"]).get("metrics", {}),
        **facts_of(assets.zones["points"]).get("metrics", {}),
        "cluster_agreement": served.figures.cluster_agreement,
        "noise_agreement": served.figures.noise_agreement,
        "cluster_ece": served.figures.cluster_ece,
        "num_judged": served.figures.num_judged,
    }
    return {name: value for name, value in figures.items() if value is not None}


class Verdict(Protocol):
    """What a check says."""

    @property
    def passed(self) -> bool:
        """Whether it holds."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is being published."""

    run_id: str | None
    """None: the first that is free."""
    parameters: Mapping[str, Any]
    started_at_us: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Whether a window became `latest`, and what was looked at before."""

    note: str
    run_id: str | None = None
    metrics: Mapping[str, float | int] = field(default_factory=dict)
    checks: tuple[Any, ...] = ()
    """The verdicts of `agrees` and `verifies`, in this order; none where nothing was to be published."""
    is_recorded: bool = True
    """Whether the database knows of it; else it will, later."""
    is_overtaken: bool = False
    """Another run was published after this one had looked at `latest`: to be made again from its clusters on."""


def publish_checked(
    assets: Assets,
    run: Run,
    *,
    discovery_dir: Path,
    db: Path,
    agrees: Callable[[Mapping[str, float | int]], Verdict],
    verifies: Callable[[str | None], Verdict],
    publishing: Callable[[], AbstractContextManager[None]],
) -> Outcome:
    """Fit, write the bundle, look at it as a reader does, and only then make it `latest` and tell the database.

    One publisher at a time, and none that did not follow on `latest`: two must not give the same new cluster id.
    What `agrees` (of the figures) or `verifies` (of the run written) refuses is removed: `latest` stays as it was.
    """
    overtaken = why_overtaken(assets, discovery_dir=discovery_dir, run_id=run.run_id)
    if overtaken is not None:
        return Outcome(note=f"not published: {overtaken}", is_overtaken=True)
    fitted = fit_classifier(assets)
    metrics = metrics_of(assets, fitted.served)
    agreed = agrees(metrics)
    if not agreed.passed and not _has_clusters(discovery_dir):
        # Nobody relies on clusters yet: map and zones are shown without them, rather than nothing.
        clusters, zones = without_clusters(assets.clusters, assets.zones, agreement=float(metrics["cluster_agreement"]))
        assets = replace(assets, clusters=clusters, zones=zones)
        fitted = fit_classifier(assets)
        metrics = metrics_of(assets, fitted.served)
        agreed = agrees(metrics)
    if not agreed.passed:
        note = "not published: the served classifier does not agree with the clusters"
        return Outcome(note=note, metrics=metrics, checks=(agreed, verifies(None)))
    with sole_publisher(discovery_dir), publishing():
        run_id = run.run_id or free_run_id(discovery_dir, run.started_at_us)
        overtaken = why_overtaken(assets, discovery_dir=discovery_dir, run_id=run_id)
        if overtaken is not None:
            return Outcome(note=f"not published: {overtaken}", metrics=metrics, is_overtaken=True)
        target = discovery_dir / run_id
        if target.exists() and latest_run_id(discovery_dir) != run_id and not verifies(run_id).passed:
            shutil.rmtree(target)
        record = write_bundle(assets, fitted, replace(run, run_id=run_id), discovery_dir=discovery_dir)
        verified = verifies(run_id)
        if not verified.passed:
            if latest_run_id(discovery_dir) != run_id:
                shutil.rmtree(target)
            note = f"not published: {run_id} is not what was written"
            return Outcome(note=note, metrics=metrics, checks=(agreed, verified))
        remember(discovery_dir, record)
        point_latest(discovery_dir, run_id=run_id)
        run_failure.forget(discovery_dir)
    # Others may publish meanwhile: the run is served, whatever becomes of its row.
    refusal = record_remembered(discovery_dir, db, patience_s=PATIENCE_S)
    note = f"published as {run_id}"
    if unclear := note_of(metrics):
        note += f"; {unclear}"
    if refusal:
        note += f"; the database does not know of it yet, a later run or `retention` writes it: {refusal}"
    return Outcome(note=note, run_id=run_id, metrics=metrics, checks=(agreed, verified), is_recorded=not refusal)


def _has_clusters(discovery_dir: Path) -> bool:
    """Whether `latest` is a run with clusters."""
    try:
        return int(open_bundle(discovery_dir / LATEST).manifest.get("num_clusters") or 0) > 0
    except BundleError:
        return False


def why_overtaken(assets: Assets, *, discovery_dir: Path, run_id: str | None) -> str | None:
    """Why these clusters may not follow on `latest`, or None: new ids are given from the run that was looked at."""
    planned = facts_of(assets.clusters["points"])["previous_run_id"]
    try:
        latest = open_bundle(discovery_dir / LATEST).run_id
    except BundleError:
        # What cannot be read gives no ids; it could not be planned from either.
        latest = None
    if latest is None or latest in (planned, run_id):
        return None
    return (
        f"its clusters follow on {planned or 'no run'}, and {latest} was published since, which may have given the "
        "same ids: materialise hdbscan_clusters and what follows again"
    )


def write_bundle(assets: Assets, fitted: Fitted, run: Run, *, discovery_dir: Path) -> RunRecord:
    """Write the bundle of `run.run_id` where it is not there yet; `latest` is left alone.

    Returns what a database keeps of the run.
    """
    assert run.run_id is not None
    run_id, started_at_us = run.run_id, run.started_at_us
    facts, grouping = facts_of(assets.located), facts_of(assets.clusters["points"])
    metrics, formulas = metrics_of(assets, fitted.served), formulas_of(assets.zones)
    row = {
        "run_id": run_id,
        "started_at_us": started_at_us,
        "window_start_us": facts["window_start_us"],
        "window_end_us": facts["window_end_us"],
        "num_fingerprints": assets.located.num_rows,
        "num_clusters": assets.clusters["clusters"].num_rows,
        "noise_share": grouping["metrics"]["noise_share"],
        "parameters": dict(run.parameters),
        "metrics": metrics,
    }
    manifest = {
        **{name: value for name, value in row.items() if name not in ("run_id", "started_at_us")},
        "note": note_of(metrics),
        "missing_hours": facts.get("missing_hours", []),
        "max_fingerprint_id": pc.max(assets.located.column("id")).as_py() or 0,
        "models": sorted({m for m in assets.located.column("model_id").unique().to_pylist() if m is not None}),
        "versions": {name: version(name) for name in LIBRARIES},
        "reliability": formulas.default.provenance.get("confidence", {}).get("reliability", []),
        "cluster_reliability": fitted.served.figures.reliability,
        "previous_run_id": grouping["previous_run_id"],
        "next_cluster_id": grouping["next_id"],
        "gone_cluster_ids": grouping["gone"],
        "frame": facts.get("frame"),
        "rests_on": facts["rests_on"],
        "zone_formulas": _formulas_in_manifest(formulas),
        "request_frame": facts_of(assets.clusters["requests"]).get("frame"),
    }
    sample = _shown_sample(assets.clusters, fitted)
    tables = bundle_tables(
        located=assets.located,
        window=fitted.window,
        clusters=assets.clusters,
        zones=assets.zones,
        sample=sample,
        points=np.nan_to_num(coordinates(fitted.window, fitted.models, fitted.space, sample).main),
    )

    def write(directory: Path) -> None:
        for name, table in tables.items():
            pq.write_table(table, directory / f"{name}.parquet", compression="zstd")
        fitted.served.arrays.save(directory / "classifier.npz")
        fitted.served.baseline.save(directory / BASELINE)
        fitted.space.save(directory / SPACE)
        formulas.save(directory / FORMULAS)
        write_remembered(
            directory, located=assets.located, window=fitted.window, space=fitted.space, clusters=assets.clusters
        )

    for abandoned in discovery_dir.glob(f".staging-{run_id}-*"):
        shutil.rmtree(abandoned)
    if not (discovery_dir / run_id).exists():
        publish(discovery_dir, run_id=run_id, manifest=manifest, write=write, latest=False)

    labels = [
        (one["cluster_id"], one["zone"], one["score"], one["margin"], one["evidence"])
        for one in assets.zones["zone_labels"].to_pylist()
    ]
    return RunRecord(run={**row, "status": "published", "ended_at_us": time.time_ns() // 1000}, zone_labels=labels)


def free_run_id(discovery_dir: Path, started_at_us: int) -> str:
    """A run id for this instant that no run has, published or reserved."""
    plain = run_id_from_time(datetime.fromtimestamp(started_at_us / 1e6, UTC))
    taken, number = plain, 1
    while (discovery_dir / taken).exists() or any(discovery_dir.glob(f"{SCRATCH}{taken}.*")):
        number += 1
        taken = f"{plain}-{number}"
    return taken


def reserve_run_id(discovery_dir: Path, started_at_us: int) -> str:
    """A free run id that nobody else is given, as long as its temporary folder is there."""
    with sole_publisher(discovery_dir):
        run_id = free_run_id(discovery_dir, started_at_us)
        (discovery_dir / f"{SCRATCH}{run_id}.reserved").mkdir()
    return run_id


def record_outcome(db: Path, *, run: Mapping[str, Any]) -> None:
    """Write a row of `discovery_runs` for a run that has published nothing (yet): running, failed or interrupted."""
    with closing(open_writer(db)) as connection:
        record_run(connection, run)
