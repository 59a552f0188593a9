"""The database's rows of a published run: written with patience, and later where the database is locked for long.

Before a run becomes `latest`, what is to be written lies in ``.unrecorded-RUN_ID.json`` beside the bundles; the file
goes when the database has it. So neither a lock nor a `kill -9` loses the rows: the next run, or `retention`, writes
them.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attn_core.bundle import MANIFEST, latest_run_id
from attn_core.classify import cluster_label
from attn_core.errors import StoreError
from attn_core.fingerprint import DIM
from attn_core.store import open_writer, record_clusters, record_run

PATIENCE_S = 60.0
"""For so long a locked database is tried again."""
PAUSE_S = 0.2
"""Beside the seconds that SQLite itself waits for most locks."""
_PREFIX = ".unrecorded-"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A published run as the database keeps it; its clusters are those of its bundle."""

    run: Mapping[str, Any]
    zone_labels: Sequence[Sequence[Any]]
    """(cluster id, zone, score, margin, evidence)."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self.run["run_id"])


def remember(discovery_dir: Path, record: RunRecord) -> None:
    """Keep what is to be written, durably."""
    path = _file_of(discovery_dir, record.run_id)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump({"run": dict(record.run), "zone_labels": [list(one) for one in record.zone_labels]}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def record_remembered(discovery_dir: Path, db: Path, *, patience_s: float) -> str:
    """Write what is remembered, oldest run first; returns why some of it is still to be written, else nothing."""
    deadline_s = time.monotonic() + patience_s
    for path in sorted(discovery_dir.glob(f"{_PREFIX}*.json")):
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            record = RunRecord(run=raw["run"], zone_labels=raw["zone_labels"])
            clusters = pq.read_table(discovery_dir / record.run_id / "clusters.parquet")
        except FileNotFoundError:
            # Written by another process meanwhile, or the bundle has gone since.
            path.unlink(missing_ok=True)
            continue
        if _was_published(discovery_dir, record.run_id):
            refusal = _write_patiently(db, record, clusters, deadline_s=deadline_s)
            if refusal:
                return refusal
        path.unlink(missing_ok=True)
    return ""


def _write_patiently(db: Path, record: RunRecord, clusters: pa.Table, *, deadline_s: float) -> str:
    while True:
        try:
            _write(db, record, clusters)
        except (StoreError, sqlite3.Error) as error:
            if not _is_locked(error) or time.monotonic() >= deadline_s:
                return str(error)
            time.sleep(PAUSE_S)
        else:
            return ""


def _is_locked(error: BaseException) -> bool:
    cause = error if isinstance(error, sqlite3.Error) else error.__cause__
    return getattr(cause, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def _write(db: Path, record: RunRecord, clusters: pa.Table) -> None:
    centroids = np.ascontiguousarray(
        clusters.column("centroid").combine_chunks().flatten().to_numpy(zero_copy_only=False), dtype="<f4"
    ).reshape(clusters.num_rows, DIM)
    ids, sizes, zone_names = (clusters.column(name).to_pylist() for name in ("cluster_id", "size", "zone"))
    with closing(open_writer(db)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        record_run(connection, record.run)
        record_clusters(
            connection,
            record.run_id,
            clusters=[
                (i, cluster_label(i), size, zone, centroids[row].tobytes())
                for row, (i, size, zone) in enumerate(zip(ids, sizes, zone_names, strict=True))
            ],
            zone_labels=[(i, zone, score, margin, why) for i, zone, score, margin, why in record.zone_labels],
        )
        connection.execute("COMMIT")


def _was_published(discovery_dir: Path, run_id: str) -> bool:
    """Whether the run is `latest` or one of those that led to it: one killed before that never served."""
    one, seen = latest_run_id(discovery_dir), set[str]()
    while one is not None and one != run_id and one not in seen:
        seen.add(one)
        try:
            manifest = json.loads((discovery_dir / one / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        previous = manifest.get("previous_run_id")
        one = previous if isinstance(previous, str) else None
    return one == run_id


def _file_of(discovery_dir: Path, run_id: str) -> Path:
    return discovery_dir / f"{_PREFIX}{run_id}.json"
