"""`classify_http`: requests/s of POST /classify against an empty handler on the same stack, 1 and 64 connections."""

from __future__ import annotations

import asyncio
import json
import time

import httpx

from attn_core.wire import vectors_from_rows
from benchmarks.captured import captured_table
from benchmarks.measure import Figure, figure_from_pairs, pairs, report
from benchmarks.sidecar_process import empty_handler, running_sidecar

REQUESTS = {1: 1_500, 64: 4_000}
TARGET = 0.75


async def _one_connection(host: str, port: int, request: bytes, count: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    for _ in range(count):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"classify_http: {head[:200]!r}")
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
    writer.close()


def _rate(url: str, body: bytes, *, connections: int) -> float:
    """Requests/s of keep-alive connections that each wait for their answer."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /classify HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    request = head.encode() + b"\r\n\r\n" + body
    each = REQUESTS[connections] // connections

    async def everyone() -> None:
        await asyncio.gather(*(_one_connection(host, int(port), request, each) for _ in range(connections)))

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
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)
