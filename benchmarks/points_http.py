"""`points`: seconds to the first byte and to the last of `GET /points` at 1M points, beside a plain file of that size.

The points are drawn at random (40 clusters and noise, 10,000 requests): what is measured does not depend on them. The
peer is Starlette's `FileResponse` of the very same bytes on the same uvicorn.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attn_core.bundle import publish
from attn_core.classify import no_clusters
from attn_core.fingerprint import DIM
from attn_core.space import FILE_NAME as SPACE
from attn_core.space import Space
from attn_core.zones import FILE_NAME as FORMULAS
from attn_core.zones import ZONES, ZoneFormulas
from benchmarks.measure import Figure, figure_from_limit, figure_from_pairs, pairs, report
from benchmarks.sidecar_process import free_port
from demo.processes import Stack
from demo.stack import Places, Ports, sidecar_url, start_sidecar, wait_for

ROWS = 1_000_000
MAX_FIRST_BYTE_S, MAX_SECONDS, MAX_BYTES_PER_POINT = 0.2, 2.0, 16.0
_NUM_CLUSTERS, _NUM_REQUESTS = 40, 10_000
_PLAIN_FILE = """
import sys
import uvicorn
from fastapi import FastAPI
from starlette.responses import FileResponse
from starlette.routing import Route

async def points(request):
    return FileResponse(sys.argv[1])

app = FastAPI()
app.router.routes.append(Route("/points", points))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
"""


def _publish(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    cluster = rng.integers(-1, _NUM_CLUSTERS, rows).astype(np.int32)
    centre = rng.normal(size=(_NUM_CLUSTERS + 1, 2)) * 10
    place = (centre[cluster] + rng.normal(size=(rows, 2))).astype(np.float32)
    request = np.arange(rows) // max(1, rows // _NUM_REQUESTS)
    embeddings = pa.table(
        {
            "request_id": [f"chatcmpl-{number:032x}" for number in request],
            "step": (np.arange(rows) % max(1, rows // _NUM_REQUESTS)).astype(np.int32),
            "captured_at_us": 1_768_017_600_000_000 + np.arange(rows) * 3_000,
            "token_text": [f" t{number}" for number in rng.integers(0, 30_000, rows)],
            "x": place[:, 0],
            "y": place[:, 1],
            "cluster_id": cluster,
            "zone": pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 5, rows).astype(np.int8)), pa.array(ZONES)),
            "confidence": rng.uniform(0, 1, rows).astype(np.float32),
            "context_len": rng.integers(20, 8000, rows).astype(np.int32),
        }
    )
    clusters = pa.Table.from_pylist(
        [
            {"cluster_id": k, "cluster_label": f"Cluster {k}", "size": 1, "zone": ZONES[0], "centroid": [0.0] * DIM}
            for k in range(_NUM_CLUSTERS)
        ]
    )

    def write(directory: Path) -> None:
        pq.write_table(embeddings, directory / "embeddings.parquet", compression="zstd")
        pq.write_table(clusters, directory / "clusters.parquet")
        for name in ("prototypes", "requests"):
            pq.write_table(pa.table({"x": [0.0]}), directory / f"{name}.parquet")
        no_clusters().save(directory / "classifier.npz")
        ZoneFormulas.shipped().save(directory / FORMULAS)
        Space.plain().save(directory / SPACE)

    publish(folder, run_id="2026-01-10T04-02-11", manifest={}, write=write)


@contextmanager
def _sidecar(folder: Path) -> Iterator[str]:
    ports = Ports(server=0, sidecar=free_port(), zmq=free_port(), dagster=0)
    places = Places(data=folder)
    stack = Stack(logs=places.logs)
    try:
        program = start_sidecar(stack, ports=ports, places=places)
        wait_for(program, url=f"{sidecar_url(ports)}/health", timeout_s=120)
        yield sidecar_url(ports)
    finally:
        stack.stop()


@contextmanager
def _plain_file(path: Path) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", _PLAIN_FILE, str(path), str(port)])
    try:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _read(url: str) -> tuple[float, float, int]:
    """Seconds to the first byte of the body and to the last, and bytes."""
    start, first_s, size = time.perf_counter(), 0.0, 0
    with httpx.stream("GET", f"{url}/points", timeout=60) as answer:
        answer.raise_for_status()
        for piece in answer.iter_raw():
            first_s = first_s or time.perf_counter() - start
            size += len(piece)
    return first_s, time.perf_counter() - start, size


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where every target is met."""
    count = rows or ROWS
    with TemporaryDirectory(prefix="attn-bench-") as name:
        folder = Path(name)
        _publish(Places(data=folder).discovery, count)
        with _sidecar(folder) as url:
            body = httpx.get(f"{url}/points", timeout=60).content
            table = pa.ipc.open_stream(body).read_all()
            if sorted(table.column("point").to_pylist()) != list(range(count)):
                raise SystemExit("points: the answer does not hold every point once")
            plain = folder / "points.arrow"
            plain.write_bytes(body)
            with _plain_file(plain) as peer:
                _read(peer)
                whole = pairs(lambda: _read(url)[1], lambda: _read(peer)[1])
                first = pairs(lambda: _read(url)[0], lambda: _read(peer)[0])
    size = len(body) / count
    figures: list[Figure] = [
        _figure(first, "first_byte_s", MAX_FIRST_BYTE_S),
        _figure(whole, "seconds", MAX_SECONDS),
        figure_from_limit(
            name="points",
            figure="bytes_per_point",
            value=size,
            unit="bytes",
            target=f"<= {MAX_BYTES_PER_POINT:g}",
            met=size <= MAX_BYTES_PER_POINT,
        ),
    ]
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


def _figure(measured: list[tuple[float, float]], name: str, limit_s: float) -> Figure:
    figure = figure_from_pairs(
        measured, name="points", figure=name, unit="s", peer="plain file, same stack", target=f"< {limit_s:g}", floor=0
    )
    return replace(figure, met=figure.value < limit_s)
