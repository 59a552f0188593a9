"""`classify_http`: requests/s of POST /classify against an empty handler on the same stack, 1 and 64 connections.

Then what the slowest hundredth waits while four sources send as fast as the sidecar acknowledges, against the same in
peace. The senders and this process share the machine with the sidecar.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import httpx

from attn_core.wire import vectors_from_rows
from benchmarks.captured import captured_table
from benchmarks.ingest_load import ingest_load
from benchmarks.measure import Figure, figure_from_pairs, pairs, report
from benchmarks.sidecar_process import RunningSidecar, empty_handler, running_sidecar

REQUESTS = {1: 1_500, 64: 4_000}
TARGET = 0.75
P99_REQUESTS = 2_000
P99_MOST = 5.0


async def one_connection(host: str, port: int, requests: Sequence[bytes]) -> list[float]:
    """The seconds that each of these requests took, one after the other on one connection."""
    reader, writer = await asyncio.open_connection(host, port)
    taken_s = []
    for request in requests:
        start = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 20"):
            raise SystemExit(f"classify_http: {head[:200]!r}")
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        taken_s.append(time.perf_counter() - start)
    writer.close()
    return taken_s


def _request(url: str, body: bytes) -> tuple[str, int, bytes]:
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /classify HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return host, int(port), head.encode() + b"\r\n\r\n" + body


def _p99_s(url: str, body: bytes) -> float:
    """What 99 of 100 requests of one connection stay below."""
    host, port, request = _request(url, body)
    return statistics.quantiles(asyncio.run(one_connection(host, port, [request] * P99_REQUESTS)), n=100)[98]


def _p99_figure(sidecar: RunningSidecar, body: bytes) -> Figure:
    def under_ingest() -> float:
        with ingest_load(sidecar.zmq):
            return _p99_s(sidecar.url, body)

    measured = pairs(under_ingest, lambda: _p99_s(sidecar.url, body))
    figure = figure_from_pairs(
        measured,
        name="classify_http",
        figure="p99_ratio_under_ingest",
        unit="s",
        peer="idle",
        target=f"ratio < {P99_MOST}",
        floor=0.0,
    )
    return replace(figure, met=figure.ratio is not None and figure.ratio < P99_MOST)


def _rate(url: str, body: bytes, *, connections: int) -> float:
    """Requests/s of keep-alive connections that each wait for their answer."""
    host, port, request = _request(url, body)
    each = REQUESTS[connections] // connections

    async def everyone() -> None:
        await asyncio.gather(*(one_connection(host, port, [request] * each) for _ in range(connections)))

    start = time.perf_counter()
    asyncio.run(everyone())
    return each * connections / (time.perf_counter() - start)


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where every target is met. `rows` has no meaning here."""
    del rows
    table = captured_table().slice(0, 1).combine_chunks()
    vector = vectors_from_rows(table.to_batches()[0])[0].tolist()
    companions = {name: table[name][0].as_py() for name in ("context_len", "sink_mass", "periodicity")}
    body = json.dumps({"vector": vector, **companions}).encode()
    figures: list[Figure] = []
    with running_sidecar() as sidecar, empty_handler() as peer:
        answer = httpx.post(f"{sidecar.url}/classify", content=body, headers={"Content-Type": "application/json"})
        if answer.status_code != 200 or "zone" not in answer.json()["manifold"]:
            raise SystemExit(f"classify_http: the answer is wrong: {answer.text}")
        for connections in REQUESTS:
            _rate(sidecar.url, body, connections=connections)
            measured = pairs(
                lambda c=connections: _rate(sidecar.url, body, connections=c),  # type: ignore[misc]
                lambda c=connections: _rate(peer, body, connections=c),  # type: ignore[misc]
            )
            figures.append(
                figure_from_pairs(
                    measured,
                    name="classify_http",
                    figure=f"requests_per_s_{connections}_connections",
                    unit="1/s",
                    peer="empty handler",
                    target=f"ratio >= {TARGET}",
                    floor=TARGET,
                )
            )
        figures.append(_p99_figure(sidecar, body))
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)
