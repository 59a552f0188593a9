"""`sidecar_soak`: the sidecar for an hour at half of its top ingest, with questions of every kind and retention on.

The top is measured first, for twenty seconds. Then four sources send at half of it (fingerprints, and the starts and
ends of their requests), `/classify` is asked up to a hundred times a second, and the store, single requests, the map
and `/events` as a few explorers would. The database may hold 2 GiB, so that retention deletes as much as arrives for
most of the hour. Once a second the sidecar's own memory (without the file pages that it shares with the system's
cache) and the database's size are noted; the slope of memory over the second half comes with its 95% interval, from
blocks of time, since neighbouring samples say nearly the same. `--rows` gives the minutes.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from attn_core.wire import vectors_from_rows
from benchmarks.captured import captured_table
from benchmarks.ingest_load import ingest_load
from benchmarks.measure import Figure, figure_from_limit, report
from benchmarks.republished import serve_demo_run
from benchmarks.sidecar_process import RunningSidecar, running_sidecar

MINUTES = 60
TOP_S = 20.0
MAX_DB_BYTES = 2 << 30
"""What retention is told; the disk must stay below `DISK_BOUND_BYTES`, the write-ahead log included."""
DISK_BOUND_BYTES = 3 << 30
MAP_POINTS = 100_000
_CLASSIFY_PAUSE_S = 0.01
_LOOK_PAUSE_S = 1.0
_NUM_BLOCKS = 10
_PATHS = ("/health", "/stats", "/metrics", "/clusters", "/runs", "/points")
_MIB_AN_HOUR = 20.0
"""A slope is flat where its interval does not lie above zero as a whole, and ends below this."""


@dataclass
class Soaked:
    """What was seen."""

    at_s: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    disk_bytes: list[int] = field(default_factory=list)
    classify_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    events: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """One more of these."""
        with self.lock:
            self.answers[what] += 1


def memory_bytes(pid: int) -> int:
    """What a process holds for itself alone: pages of files that it maps are not counted."""
    return int(psutil.Process(pid).memory_full_info().uss)


def disk_bytes(database: Path) -> int:
    """The database with its log."""
    total = 0
    for path in database.parent.glob(database.name + "*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def slope_per_hour(at_s: list[float], values: list[int]) -> tuple[float, float]:
    """Bytes an hour over the second half of the samples, and half the width of its 95% interval.

    A line through the means of `_NUM_BLOCKS` blocks of time; the interval is Student's for that line.
    """
    half = len(at_s) // 2
    when = [float(np.mean(block)) / 3600 for block in np.array_split(np.array(at_s[half:]), _NUM_BLOCKS)]
    held = [float(np.mean(block)) for block in np.array_split(np.array(values[half:], dtype=float), _NUM_BLOCKS)]
    line = statistics.linear_regression(when, held)
    residuals = [y - line.intercept - line.slope * x for x, y in zip(when, held, strict=True)]
    spread = sum((x - statistics.mean(when)) ** 2 for x in when)
    error = (sum(r * r for r in residuals) / (_NUM_BLOCKS - 2) / spread) ** 0.5
    return line.slope, 2.306 * error  # Student's t of 8 degrees of freedom


def _classify(url: str, body: bytes, seen: Soaked, ended: threading.Event) -> None:
    with httpx.Client(base_url=url, timeout=60, headers={"Content-Type": "application/json"}) as client:
        while not ended.wait(_CLASSIFY_PAUSE_S):
            start = time.perf_counter()
            status = client.post("/classify", content=body).status_code
            seen.classify_s.append(time.perf_counter() - start)
            seen.count(f"/classify {status}")


def _look(url: str, seen: Soaked, ended: threading.Event) -> None:
    with httpx.Client(base_url=url, timeout=120) as client:
        while not ended.wait(_LOOK_PAUSE_S):
            for path in _PATHS:
                seen.count(f"{path} {client.get(path).status_code}")
            listed = client.get("/requests?limit=20")
            seen.count(f"/requests {listed.status_code}")
            for one in listed.json()["requests"][:1]:
                answer = client.get(f"/requests/{one['request_id']}")
                seen.count(f"/requests/ID {answer.status_code}")


def _post(url: str, vector: list[float], seen: Soaked, ended: threading.Event) -> None:
    """Ten fingerprints a second over HTTP, each a request of its own."""
    name, number = secrets.token_hex(4), 0
    with httpx.Client(base_url=url, timeout=60) as client:
        while not ended.wait(0.1):
            body = {"request_id": f"posted-{name}-{number}", "step": 0, "vector": vector}
            seen.count(f"/fingerprint {client.post('/fingerprint', json=body).status_code}")
            number += 1


def _listen(url: str, seen: Soaked, ended: threading.Event) -> None:
    """A client of `/events` that reads as fast as it can, and comes back where it was dropped."""
    while not ended.is_set():
        with suppress(WebSocketException, OSError), connect(f"ws{url[4:]}/events", max_size=None) as socket:
            while not ended.is_set():
                with suppress(TimeoutError):
                    socket.recv(timeout=1)
                    seen.events += 1


@contextmanager
def _questions(sidecar: RunningSidecar, seen: Soaked, ended: threading.Event) -> Iterator[None]:
    table = captured_table().slice(0, 1).combine_chunks()
    vector = vectors_from_rows(table.to_batches()[0])[0].tolist()
    body = json.dumps({"vector": vector}).encode()
    threads = [
        threading.Thread(target=_classify, args=(sidecar.url, body, seen, ended)),
        threading.Thread(target=_look, args=(sidecar.url, seen, ended)),
        threading.Thread(target=_post, args=(sidecar.url, vector, seen, ended)),
        threading.Thread(target=_listen, args=(sidecar.url, seen, ended)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _watch(sidecar: RunningSidecar, seen: Soaked, *, seconds: float, start: float) -> None:
    never = threading.Event()
    while (now := time.monotonic() - start) < seconds:
        seen.at_s.append(now)
        seen.memory_bytes.append(memory_bytes(sidecar.pid))
        seen.disk_bytes.append(disk_bytes(sidecar.database))
        if len(seen.at_s) % 60 == 1:
            print(
                f"sidecar_soak: {now / 60:.0f} min, {seen.memory_bytes[-1] / 2**20:.0f} MiB, "
                f"{seen.disk_bytes[-1] / 2**30:.2f} GiB on disk, {sum(seen.answers.values())} answers",
                file=sys.stderr,
                flush=True,
            )
        never.wait(max(0.0, start + len(seen.at_s) - time.monotonic()))


def _top_rate(sidecar: RunningSidecar) -> float:
    with ingest_load(sidecar.zmq) as load:
        threading.Event().wait(TOP_S)
        told = load.end()
    return float(told["rows"] / told["seconds"])


def run(*, rows: int | None, as_json: bool) -> bool:
    """Soak and report; True where every target is met. `rows`: minutes (default 60)."""
    seconds = 60.0 * (MINUTES if rows is None else rows)
    seen, ended = Soaked(), threading.Event()
    with running_sidecar(arguments=("--max-db-bytes", str(MAX_DB_BYTES))) as sidecar:
        serve_demo_run(sidecar, num_points=MAP_POINTS)
        top = _top_rate(sidecar)
        rate = top / 2
        before = _stored(sidecar)
        with (
            ingest_load(sidecar.zmq, rows_per_s=rate, with_requests=True) as load,
            _questions(sidecar, seen, ended),
        ):
            _watch(sidecar, seen, seconds=seconds, start=time.monotonic())
            told = load.end()
        posted = seen.answers["/fingerprint 201"]
        gained = _stored(sidecar) - before
        with closing(sqlite3.connect(sidecar.database)) as connection:
            # One view of the store for both counts: retention goes on deleting.
            connection.execute("BEGIN")
            held = connection.execute("SELECT count(*) FROM tokens").fetchone()[0]
            pairs_held = connection.execute(
                "SELECT count(*) FROM (SELECT DISTINCT request_no, step FROM tokens)"
            ).fetchone()[0]
        reasons = httpx.get(f"{sidecar.url}/health", timeout=60).json()["reasons"]
        removed = _stats(sidecar)["removed_fingerprints"]
    print(f"sidecar_soak: answers {dict(seen.answers)}, {seen.events} events, health {reasons}", file=sys.stderr)
    counts = {
        "lost": int(told["rows"]) + posted - gained,
        "duplicated": held - pairs_held,
        "errors": sum(n for what, n in seen.answers.items() if what.split()[-1] not in ("200", "201", "404")),
        "health_reasons": len(reasons),
        "missed_acknowledgements": int(told["missed"]),
        "never_asked": sum(not seen.answers[f"{path} 200"] for path in (*_PATHS, "/requests", "/requests/ID")),
    }
    report(figures := _figures(seen, told, top=top, rate=rate, removed=removed, counts=counts), as_json=as_json)
    return all(figure.met for figure in figures)


def _stored(sidecar: RunningSidecar) -> int:
    """Rows committed so far, those that retention has deleted since included."""
    return _stats(sidecar)["new_rows"]


def _stats(sidecar: RunningSidecar) -> dict[str, int]:
    stats: dict[str, int] = httpx.get(f"{sidecar.url}/stats", timeout=120).json()["store"]
    return stats


def _figures(
    seen: Soaked, told: dict[str, float], *, top: float, rate: float, removed: int, counts: dict[str, int]
) -> list[Figure]:
    slope, error = slope_per_hour(seen.at_s, seen.memory_bytes)
    p99_ms = 1000 * statistics.quantiles(seen.classify_s, n=100)[98]
    reached = told["rows"] / told["seconds"]
    flat = slope - error <= 0 and slope + error < _MIB_AN_HOUR * 2**20
    limits: list[tuple[str, float, str, str, bool]] = [
        ("minutes", seen.at_s[-1] / 60, "min", "> 0", True),
        ("top_per_s", top, "1/s", "> 0", top > 0),
        ("fingerprints_per_s", reached, "1/s", ">= 0.95 of half the top", reached >= 0.95 * rate),
        ("memory_slope", slope, "bytes/h", f"interval from <= 0 to < {_MIB_AN_HOUR:.0f} MiB/h", flat),
        ("memory_slope_half_interval", error, "bytes/h", "95%", True),
        ("memory_end", seen.memory_bytes[-1], "bytes", "> 0", True),
        ("disk_most", max(seen.disk_bytes), "bytes", f"< {DISK_BOUND_BYTES}", max(seen.disk_bytes) < DISK_BOUND_BYTES),
        ("classify_p99", p99_ms, "ms", "> 0", True),
        ("slowest_acknowledgement", told["slowest_s"], "s", "> 0", True),
        ("removed_by_retention", removed, "rows", "> 0", removed > 0),
        *((name, value, "", "0", value == 0) for name, value in counts.items()),
    ]
    return [
        figure_from_limit(name="sidecar_soak", figure=name, value=value, unit=unit, target=target, met=met)
        for name, value, unit, target, met in limits
    ]
