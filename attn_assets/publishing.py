"""From finished assets to a published bundle: fit the served classifier, judge it, publish, tell the database."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from attn_assets.discovery import serving
from attn_assets.discovery.labelling import zone_lift
from attn_assets.discovery.tables import bundle_tables, facts_of, labels_of
from attn_assets.discovery.window import Window, window_from_table
from attn_core.baseline import FILE_NAME as BASELINE
from attn_core.bundle import LATEST, open_bundle, publish, run_id_from_time
from attn_core.classify import Classifier, cluster_label
from attn_core.errors import BundleError
from attn_core.fingerprint import DIM
from attn_core.store import open_writer, record_clusters, record_run
from attn_core.zones import ZONES

MIN_JUDGED_ROWS = 100
"""With fewer held-out rows their agreement is chance: reported, but nothing is refused for it."""
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
    served: serving.Served
    confidence: npt.NDArray[np.float32]
    """[m], calibrated: how likely the served answer is right about the row's zone, or wrong where it differs."""


def fit_classifier(assets: Assets, *, seed: int) -> Fitted:
    """Fit and judge the served classifier on the sample's rows, and let it answer for all."""
    window = window_from_table(assets.located)
    labels = labels_of(assets.clusters)
    zone_index = np.asarray(assets.zones["points"].column("zone").combine_chunks().indices).astype(np.int8)
    sampled = np.flatnonzero(assets.located.column("in_sample").to_numpy())
    rows = serving.Labelled(
        vectors=window.vectors,
        context_len=window.context_len,
        sink_mass=window.sink_mass,
        periodicity=window.periodicity,
        features=window.features,
        labels=labels,
        zone_index=zone_index,
    )
    served = serving.fit(
        rows.rows(sampled),
        cluster_ids=assets.clusters["clusters"].column("cluster_id").to_numpy(),
        cluster_zone_lift=zone_lift(
            assets.zones["zone_labels"].column("score").to_numpy().reshape(-1, len(ZONES)),
            window.zone_probabilities().mean(axis=0),
        ),
        seed=seed,
    )
    answer = Classifier(served.arrays, run_id=None).classify(
        window.vectors, context_len=window.context_len, sink_mass=window.sink_mass, periodicity=window.periodicity
    )
    right = answer.zone_index == zone_index
    prototypes = replace(served.prototypes, nearest_row=sampled[served.prototypes.nearest_row].astype(np.int32))
    return Fitted(
        window=window,
        served=replace(served, prototypes=prototypes),
        confidence=np.where(right, answer.confidence, 1.0 - answer.confidence).astype(np.float32),
    )


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


def metrics_of(assets: Assets, served: serving.Served) -> dict[str, float | int]:
    """The run's quality figures that could be told, as plain numbers."""
    figures = {
        **facts_of(assets.located).get("metrics", {}),
        **facts_of(assets.clusters["points"]).get("metrics", {}),
        "cluster_agreement": served.figures.cluster_agreement,
        "noise_agreement": served.figures.noise_agreement,
        "zone_agreement": served.figures.zone_agreement,
        "ece": served.figures.ece,
        "num_judged": served.figures.num_judged,
        "num_prototypes": len(served.prototypes.points),
    }
    return {name: value for name, value in figures.items() if value is not None}


def check_agreement(served: serving.Served, *, floor: float) -> None:
    """Raise `BundleError` where the served classifier does not do what discovery found."""
    found = served.figures.cluster_agreement
    if found is not None and served.figures.num_judged >= MIN_JUDGED_ROWS and found < floor:
        raise BundleError(
            f"the served classifier gives {found:.2f} of held-out rows their cluster, below {floor:.2f}: not "
            "published, `latest` stays. Look at the map for clusters that overlap, or raise --min-cluster-size"
        )


def publish_run(
    assets: Assets,
    fitted: Fitted,
    *,
    discovery_dir: Path,
    db: Path,
    run_id: str | None,
    parameters: Mapping[str, Any],
    started_at_us: int,
) -> str:
    """Publish the bundle, make it `latest`, and record run, clusters and zone labels in the database.

    Returns the run id. A run that was published already, and only not recorded, is recorded.
    """
    run_id = run_id or free_run_id(discovery_dir, started_at_us)
    facts, grouping = facts_of(assets.located), facts_of(assets.clusters["points"])
    metrics = metrics_of(assets, fitted.served)
    run = {
        "run_id": run_id,
        "started_at_us": started_at_us,
        "window_start_us": facts["window_start_us"],
        "window_end_us": facts["window_end_us"],
        "num_fingerprints": assets.located.num_rows,
        "num_clusters": assets.clusters["clusters"].num_rows,
        "noise_share": grouping["metrics"]["noise_share"],
        "parameters": dict(parameters),
        "metrics": metrics,
    }
    manifest = {
        **{name: value for name, value in run.items() if name not in ("run_id", "started_at_us")},
        "models": sorted({m for m in assets.located.column("model_id").unique().to_pylist() if m is not None}),
        "versions": {name: version(name) for name in LIBRARIES},
        "reliability": fitted.served.figures.reliability,
        "previous_run_id": grouping["previous_run_id"],
        "next_cluster_id": grouping["next_id"],
        "gone_cluster_ids": grouping["gone"],
    }
    tables = bundle_tables(
        located=assets.located,
        window=fitted.window,
        clusters=assets.clusters,
        zones=assets.zones,
        prototypes=fitted.served.prototypes,
        confidence=fitted.confidence,
    )

    def write(directory: Path) -> None:
        for name, table in tables.items():
            pq.write_table(table, directory / f"{name}.parquet", compression="zstd")
        fitted.served.arrays.save(directory / "classifier.npz")
        fitted.served.baseline.save(directory / BASELINE)

    for abandoned in discovery_dir.glob(f".staging-{run_id}-*"):
        shutil.rmtree(abandoned)
    if not (discovery_dir / run_id).exists():
        publish(discovery_dir, run_id=run_id, manifest=manifest, write=write)
    _record(db, {**run, "status": "published", "ended_at_us": time.time_ns() // 1000}, tables, assets.zones)
    return run_id


def free_run_id(discovery_dir: Path, started_at_us: int) -> str:
    """A run id for this instant that no published run has."""
    plain = run_id_from_time(datetime.fromtimestamp(started_at_us / 1e6, UTC))
    taken, number = plain, 1
    while (discovery_dir / taken).exists():
        number += 1
        taken = f"{plain}-{number}"
    return taken


def record_outcome(db: Path, *, run: Mapping[str, Any]) -> None:
    """Write a row of `discovery_runs` for a run that has published nothing (yet): running, failed or interrupted."""
    with closing(open_writer(db)) as connection:
        record_run(connection, run)


def _record(db: Path, run: Mapping[str, Any], tables: Tables, zones: Tables) -> None:
    clusters = tables["clusters"]
    centroids = np.ascontiguousarray(
        clusters.column("centroid").combine_chunks().flatten().to_numpy(zero_copy_only=False), dtype="<f4"
    ).reshape(clusters.num_rows, DIM)
    ids, sizes, zone_names = (clusters.column(name).to_pylist() for name in ("cluster_id", "size", "zone"))
    with closing(open_writer(db)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        record_run(connection, run)
        record_clusters(
            connection,
            run["run_id"],
            clusters=[
                (i, cluster_label(i), size, zone, centroids[row].tobytes())
                for row, (i, size, zone) in enumerate(zip(ids, sizes, zone_names, strict=True))
            ],
            zone_labels=[
                (one["cluster_id"], one["zone"], one["score"], one["margin"], one["evidence"])
                for one in zones["zone_labels"].to_pylist()
            ],
        )
        connection.execute("COMMIT")
