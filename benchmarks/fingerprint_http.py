"""`fingerprint_http`: POST /fingerprint, each answered after its own row is flushed to the disk, 1 and 64 connections.

The peers are the disk and the stack: at one connection every request waits for a flush, so it is held against appends
of a page with `fsync`, one after the other; at 64 one flush serves whoever posted meanwhile, and the peer is an empty
handler on the same stack. All is counted in the database afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from attn_core.wire import vectors_from_rows
from benchmarks.captured import captured_table
from benchmarks.classify_http import one_connection
from benchmarks.measure import Figure, figure_from_limit, figure_from_pairs, pairs, report
from benchmarks.sidecar_process import empty_handler, running_sidecar

REQUESTS = {1: 400, 64: 6_400}
TARGETS = {1: 0.4, 64: 0.25}
_PAGE = bytes(8192)


class _Poster:
    """Bodies of places that nobody has posted before."""

    def __init__(self, vector: list[float]) -> None:
        self._vector = vector
        self.num_posted = 0

    def requests(self, host: str, count: int) -> list[bytes]:
        made = []
        for number in range(self.num_posted, self.num_posted + count):
            place = {"request_id": f"posted-{number // 256}", "step": number % 256, "vector": self._vector}
            body = json.dumps(place).encode()
            head = f"POST /fingerprint HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            made.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.num_posted += count
        return made


def _rate(url: str, requests: list[bytes], *, connections: int, path: bytes = b"/fingerprint") -> float:
    host, port = url.removeprefix("http://").split(":")
    requests = [request.replace(b"/fingerprint", path, 1) for request in requests]

    async def everyone() -> None:
        parts = (requests[k::connections] for k in range(connections))
        await asyncio.gather(*(one_connection(host, int(port), part) for part in parts))

    start = time.perf_counter()
    asyncio.run(everyone())
    return len(requests) / (time.perf_counter() - start)


def _flushes(folder: Path, count: int) -> float:
    """Pages appended and flushed a second, one after the other."""
    with (folder / "flushed").open("wb", buffering=0) as file:
        start = time.perf_counter()
        for _ in range(count):
            file.write(_PAGE)
            os.fdatasync(file.fileno())
        return count / (time.perf_counter() - start)


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where every target is met. `rows` has no meaning here."""
    del rows
    vector = vectors_from_rows(captured_table().slice(0, 1).combine_chunks().to_batches()[0])[0].tolist()
    poster = _Poster(vector)
    figures: list[Figure] = []
    with running_sidecar() as sidecar, empty_handler() as peer:
        host = sidecar.url.removeprefix("http://").split(":")[0]

        def ours(connections: int) -> float:
            return _rate(sidecar.url, poster.requests(host, REQUESTS[connections]), connections=connections)

        def theirs(connections: int) -> float:
            if connections == 1:
                return _flushes(sidecar.database.parent, REQUESTS[1])
            made = _Poster(vector).requests(host, REQUESTS[connections])
            return _rate(peer, made, connections=connections, path=b"/classify")

        for connections in REQUESTS:
            ours(connections)
            measured = pairs(lambda c=connections: ours(c), lambda c=connections: theirs(c))  # type: ignore[misc]
            figures.append(
                figure_from_pairs(
                    measured,
                    name="fingerprint_http",
                    figure=f"requests_per_s_{connections}_connections",
                    unit="1/s",
                    peer="flushes of one page" if connections == 1 else "empty handler",
                    target=f"ratio >= {TARGETS[connections]}",
                    floor=TARGETS[connections],
                )
            )
        with closing(sqlite3.connect(sidecar.database)) as connection:
            held = connection.execute("SELECT count(*) FROM tokens").fetchone()[0]
    lost = poster.num_posted - held
    figures.append(
        figure_from_limit(name="fingerprint_http", figure="lost", value=lost, unit="rows", target="0", met=lost == 0)
    )
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)
