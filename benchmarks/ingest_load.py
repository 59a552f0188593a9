"""Load for the sidecar: four sources that send batches of captured rows as fast as they are acknowledged, or paced.

`python -m benchmarks.ingest_load` is the same as a process of its own, so that the measuring one has its thread to
itself; it ends when its standard input is closed and prints what was acknowledged as one JSON line.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import zmq

from attn_core.wire import SourceInfo, decode_answer, encode_batch
from benchmarks.captured import bootstrapped, wire_batches

SOURCES = 4
ROWS_PER_BATCH = 1024
IN_FLIGHT = 16
"""Batches that a source sends ahead of their acknowledgements."""
INFO = SourceInfo(model_id="bench", captured_layers=(0, 4, 8, 12, 17, 21, 25, 29), num_heads=9)
_PACE_MS = 2


def row_templates() -> list[pa.RecordBatch]:
    """Batches of captured rows, to be sent again and again under other names."""
    return wire_batches(bootstrapped(64 * ROWS_PER_BATCH), rows_per_batch=ROWS_PER_BATCH, source="b")


@dataclass
class Source:
    """One sender: its socket, its place in its own sequence and what it waits for."""

    socket: zmq.Socket[bytes]
    batches: Iterator[list[bytes]]
    in_flight: int = 0
    rows_acknowledged: int = 0
    seqs_acknowledged: set[int] = field(default_factory=set)


def endless(templates: list[pa.RecordBatch], *, name: str, source_id: bytes) -> Iterator[list[bytes]]:
    """The templates' rows again and again, each time as steps of requests that nobody has sent yet."""
    seq = 0
    while True:
        rows = templates[seq % len(templates)]
        yield encode_batch(
            kind="fingerprints", rows=renamed(rows, f"{name}-{seq}"), source_id=source_id, seq=seq, info=INFO
        )
        seq += 1


def renamed(rows: pa.RecordBatch, prefix: str) -> pa.RecordBatch:
    """The rows as 256 steps each of requests named after `prefix`, captured just now; ids as long as a server's."""
    request = np.arange(rows.num_rows) // 256
    names = pa.array([f"chatcmpl-{prefix}-{k}".ljust(41, "0") for k in range(int(request[-1]) + 1)])
    steps = pa.array((np.arange(rows.num_rows) % 256).astype(np.int32))
    at_us = pa.array(time.time_ns() // 1000 - rows.num_rows + np.arange(rows.num_rows))
    for place, column in enumerate((names.take(pa.array(request)), steps, at_us)):
        rows = rows.set_column(place, rows.schema.field(place), column)
    return rows


def send(
    address: str,
    templates: list[pa.RecordBatch],
    *,
    name: str,
    seconds: float,
    rows_per_s: float | None = None,
    ended: Callable[[], bool] = lambda: False,
) -> tuple[int, float]:
    """Rows acknowledged and seconds taken: send for `seconds` or until `ended`, then wait for every acknowledgement.

    As fast as acknowledgements come, or at `rows_per_s`. Exits where a batch is refused, or acknowledged twice.
    """
    context = zmq.Context()
    poller = zmq.Poller()
    sources = []
    for number in range(SOURCES):
        socket = context.socket(zmq.DEALER)
        socket.connect(address)
        poller.register(socket, zmq.POLLIN)
        batches = endless(templates, name=f"{name}-{number}", source_id=secrets.token_bytes(16))
        sources.append(Source(socket=socket, batches=batches))
    by_socket = {source.socket: source for source in sources}
    start = time.perf_counter()
    num_sent = 0
    while True:
        now_s = time.perf_counter() - start
        sending = now_s < seconds and not ended()
        due = None if rows_per_s is None else int(rows_per_s * now_s / ROWS_PER_BATCH) + 1
        for source in sources if sending else ():
            while source.in_flight < IN_FLIGHT and (due is None or num_sent < due):
                source.socket.send_multipart(next(source.batches), copy=False)
                source.in_flight += 1
                num_sent += 1
        waiting = any(source.in_flight for source in sources)
        if not waiting and not sending:
            break
        ready = poller.poll(_PACE_MS if rows_per_s is not None and sending else 30_000)
        if not ready and not sending:
            raise SystemExit("ingest: no acknowledgement within 30 s")
        for socket, _ in ready:
            _take_answers(by_socket[socket])
    taken_s = time.perf_counter() - start
    context.destroy(linger=0)
    return sum(source.rows_acknowledged for source in sources), taken_s


def _take_answers(source: Source) -> None:
    while int(source.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
        _, seq, reason = decode_answer(source.socket.recv_multipart())
        if reason is not None:
            raise SystemExit(f"ingest: batch {seq} was refused: {reason}")
        if seq in source.seqs_acknowledged:
            raise SystemExit(f"ingest: batch {seq} was acknowledged twice")
        source.seqs_acknowledged.add(seq)
        source.in_flight -= 1
        source.rows_acknowledged += ROWS_PER_BATCH


@dataclass
class Load:
    """A running sender process."""

    process: subprocess.Popen[bytes]
    answer: dict[str, Any] = field(default_factory=dict)

    def end(self) -> dict[str, Any]:
        """Stop sending, wait for every acknowledgement: `rows` acknowledged and `seconds` taken."""
        output, _ = self.process.communicate(timeout=120)
        if self.process.returncode:
            raise SystemExit("ingest_load failed")
        self.answer = json.loads(output)
        return self.answer


@contextmanager
def ingest_load(address: str, *, rows_per_s: float | None = None) -> Iterator[Load]:
    """Send from another process, from the moment that it is ready to."""
    command = [sys.executable, "-m", "benchmarks.ingest_load", address]
    if rows_per_s is not None:
        command += ["--rows-per-s", str(rows_per_s)]
    load = Load(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    try:
        assert load.process.stdout is not None
        load.process.stdout.readline()
        yield load
        if not load.answer:
            load.end()
    finally:
        if load.process.poll() is None:
            load.process.kill()
            load.process.communicate()


def main() -> None:
    """Send until standard input is closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--rows-per-s", type=float, default=None)
    arguments = parser.parse_args()
    templates = row_templates()
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), ended.set()), daemon=True).start()
    print("ready", flush=True)
    rows, seconds = send(
        arguments.address,
        templates,
        name=secrets.token_hex(4),
        seconds=float("inf"),
        rows_per_s=arguments.rows_per_s,
        ended=ended.is_set,
    )
    print(json.dumps({"rows": rows, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
