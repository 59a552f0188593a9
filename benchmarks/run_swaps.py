"""`run_swaps`: the slowest answers of POST /classify while runs are swapped, against the same load without a swap."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from attn_core.bundle import LATEST, run_id_from_time
from attn_core.wire import vectors_from_rows
from benchmarks.captured import captured_table
from benchmarks.measure import PAIRS, Figure, commit, machine, report
from benchmarks.republished import demo_run, republish
from benchmarks.sidecar_process import RunningSidecar, running_sidecar

CONNECTIONS = 8
SWAPS_A_ROUND = 10
ROUND_S = 4.0
DEFAULT_ROWS = 200_000


async def _latencies(url: str, body: bytes, *, over: threading.Event) -> list[float]:
    """Seconds of every answer, over keep-alive connections that each wait for theirs."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /classify HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    request = head.encode() + b"\r\n\r\n" + body
    found: list[float] = []

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while not over.is_set():
            began_s = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"run_swaps: {answer[:200]!r}")
            await reader.readexactly(int(answer.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]))
            found.append(time.perf_counter() - began_s)
        writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return found


def _round(sidecar: RunningSidecar, body: bytes, *, prepared: list[str], folder: Path) -> list[float]:
    """Latencies of one round, with these runs swapped in turn (none: a quiet round)."""
    over = threading.Event()

    def swap() -> None:
        began_s = time.monotonic()
        for run_id in prepared:
            link = folder / ".next"
            link.symlink_to(run_id)
            link.replace(folder / LATEST)
            served = httpx.post(f"{sidecar.url}/discovery/reload", timeout=60).json()["run_id"]
            if served != run_id:
                raise SystemExit(f"run_swaps: {served} is served, not {run_id}")
        # A quiet round is as long as a round at least is.
        over.wait(max(0.0, ROUND_S - (time.monotonic() - began_s)))
        over.set()

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        return asyncio.run(_latencies(sidecar.url, body, over=over))
    finally:
        over.set()
        swapping.join()


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; a pause would show as a slowest answer that is many times the quiet one."""
    num_rows = rows or DEFAULT_ROWS
    source = demo_run()
    token = captured_table().slice(0, 1).combine_chunks().to_batches()[0]
    known = {name: token.column(name)[0].as_py() for name in ("context_len", "sink_mass", "periodicity")}
    body = json.dumps({"vector": vectors_from_rows(token)[0].tolist(), **known}).encode()
    quiet: list[list[float]] = []
    busy: list[list[float]] = []
    with running_sidecar() as sidecar:
        folder, start = sidecar.database.parent / "discovery_outputs", datetime.now(UTC)
        ids = [run_id_from_time(start + timedelta(seconds=k)) for k in range(2)]
        for run_id in ids:
            republish(source, folder, run_id=run_id, num_rows=num_rows)
        for _ in range(PAIRS):
            quiet.append(_round(sidecar, body, prepared=[], folder=folder))
            busy.append(_round(sidecar, body, prepared=ids * (SWAPS_A_ROUND // 2), folder=folder))
    figures = [
        _figure(name, [pick(each) for each in busy], [pick(each) for each in quiet], num_rows=num_rows)
        for name, pick in (("p99_s", _p99), ("slowest_s", max))
    ]
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


def _p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[98]


def _figure(name: str, ours: list[float], theirs: list[float], *, num_rows: int) -> Figure:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    target = "ratio <= 5" if name == "p99_s" else "shown"
    return Figure(
        name="run_swaps", figure=f"{name}_{num_rows}_points", value=statistics.median(ours), unit="s",
        peer="same load, no swap", peer_value=statistics.median(theirs), ratio=statistics.median(ratios),
        ratio_min=min(ratios), ratio_max=max(ratios), target=target, machine=machine(), commit=commit(),
        met=name != "p99_s" or statistics.median(ratios) <= 5.0,
    )  # fmt: skip
