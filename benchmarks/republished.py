"""The run that `make demo` published, served again by a benchmark's own sidecar."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from attn_core.bundle import LATEST, Bundle, open_bundle, publish, run_id_from_time
from attn_core.errors import BundleError
from benchmarks.sidecar_process import RunningSidecar

PUBLISHED = Path(__file__).resolve().parent.parent / "data" / "discovery_outputs"


def demo_run() -> Bundle:
    """The newest run of `make demo`; exits with what to do where there is none."""
    try:
        return open_bundle(PUBLISHED / LATEST)
    except BundleError as error:
        raise SystemExit(f"{error}: run make demo ONCE=1 first") from error


def republish(source: Bundle, folder: Path, *, run_id: str, num_rows: int) -> None:
    """The same run under another id, its points repeated up to this many."""

    def write(directory: Path) -> None:
        for name in source.manifest["files"]:
            shutil.copyfile(source.path / name, directory / name)
        points = source.table("embeddings")
        copies = -(-num_rows // points.num_rows)
        pq.write_table(pa.concat_tables([points] * copies).slice(0, num_rows), directory / "embeddings.parquet")

    publish(folder, run_id=run_id, manifest=dict(source.manifest), write=write)


def serve_demo_run(sidecar: RunningSidecar, *, num_points: int) -> None:
    """Publish the demo's run for this sidecar and wait until it serves it."""
    run_id = run_id_from_time(datetime.now(UTC))
    republish(demo_run(), sidecar.database.parent / "discovery_outputs", run_id=run_id, num_rows=num_points)
    served = httpx.post(f"{sidecar.url}/discovery/reload", timeout=60).json()["run_id"]
    if served != run_id:
        raise SystemExit(f"the sidecar serves {served}, not {run_id}")
