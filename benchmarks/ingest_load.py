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
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import zmq

from attn_core.wire import REQUESTS, SourceInfo, decode_answer, encode_batch
from benchmarks.captured import bootstrapped, wire_batches

SOURCES = 4
ROWS_PER_BATCH = 1024
IN_FLIGHT = 16
"""Batches that a source sends ahead of their acknowledgements."""
INFO = SourceInfo(
    model_id="bench",
    captured_layers=(0, 4, 8, 12, 17, 21, 25, 29),
    num_heads=9,
    # Named in case the captured rows have sketches; none of the figures depends on which it was.
    head_projection="ab" * 32,
)
STEPS_PER_REQUEST = 256
_PACE_MS = 2
_PATIENCE_MS = 30_000
_BATCHES_PER_TELLING = 16


def row_templates() -> list[pa.RecordBatch]:
    """Batches of captured rows, to be sent again and again under other names."""
    return wire_batches(bootstrapped(64 * ROWS_PER_BATCH), rows_per_batch=ROWS_PER_BATCH, source="b")


@dataclass
class Source:
    """One sender: its socket, its place in its own sequence and what it waits for."""

    socket: zmq.Socket[bytes]
    batches: Iterator[tuple[list[bytes], int]]
    waiting_since_s: dict[int, float] = field(default_factory=dict)
    """When each batch was sent that is not acknowledged yet, by its number."""
    rows_of: dict[int, int] = field(default_factory=dict)
    num_sent: int = 0
    rows_acknowledged: int = 0
    slowest_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a sender saw."""

    rows: int
    """Fingerprints acknowledged."""
    seconds: float
    batches: int
    missed: int
    """Batches that were sent and not acknowledged within `_PATIENCE_MS` of the last answer."""
    slowest_s: float
    """The longest that a batch waited for its acknowledgement."""


def endless(
    templates: list[pa.RecordBatch], *, name: str, source_id: bytes, with_requests: bool = False
) -> Iterator[tuple[list[bytes], int]]:
    """The templates' rows again and again, each time as steps of requests that nobody has sent yet.

    Frames and how many fingerprints they hold. With requests, every 17th batch tells that the requests of the 16 before
    it have started and ended.
    """
    seq, told = 0, 0
    names: list[str] = []
    while True:
        rows = templates[seq % len(templates)]
        prefix = f"{name}-{seq}"
        yield (
            encode_batch(kind="fingerprints", rows=renamed(rows, prefix), source_id=source_id, seq=seq, info=INFO),
            rows.num_rows,
        )
        seq += 1
        names += request_names(prefix, rows.num_rows)
        told += 1
        if with_requests and told % _BATCHES_PER_TELLING == 0:
            yield encode_batch(kind="requests", rows=_told(names), source_id=source_id, seq=seq, info=INFO), 0
            seq += 1
            names = []
        elif not with_requests:
            names = []


def _told(names: list[str]) -> pa.RecordBatch:
    """Each request started and ended, as a server with privacy off tells it: a prompt of 64 tokens in two messages."""
    both = [(name, event) for name in names for event in ("started", "ended")]
    count, prompt_len = len(both), 64
    spans = json.dumps([{"message": k, "role": "user", "start": 32 * k, "end": 32 * (k + 1)} for k in range(2)])
    columns = {
        "request_id": [name for name, _ in both],
        "event": [event for _, event in both],
        "at_us": [time.time_ns() // 1000] * count,
        "prompt_len": [prompt_len] * count,
        "prompt_token_ids": [list(range(prompt_len))] * count,
        "prompt_token_texts": [[" word"] * prompt_len] * count,
        "prompt_spans": [spans] * count,
        "sampling_params": ['{"temperature": 0.0}'] * count,
        "num_output_tokens": [256 if event == "ended" else None for _, event in both],
        "finish_reason": ["length" if event == "ended" else None for _, event in both],
    }
    return pa.RecordBatch.from_pydict(columns, schema=REQUESTS)


def request_names(prefix: str, num_rows: int) -> list[str]:
    """The ids of these rows' requests, as long as a server's."""
    return [f"chatcmpl-{prefix}-{k}".ljust(41, "0") for k in range(-(-num_rows // STEPS_PER_REQUEST))]


def renamed(rows: pa.RecordBatch, prefix: str) -> pa.RecordBatch:
    """The rows as 256 steps each of requests named after `prefix`, captured just now."""
    request = np.arange(rows.num_rows) // STEPS_PER_REQUEST
    names = pa.array(request_names(prefix, rows.num_rows))
    steps = pa.array((np.arange(rows.num_rows) % STEPS_PER_REQUEST).astype(np.int32))
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
    with_requests: bool = False,
    ended: Callable[[], bool] = lambda: False,
) -> Sent:
    """Send for `seconds` or until `ended`, then wait for every acknowledgement.

    As fast as acknowledgements come, or at `rows_per_s`. Exits where a batch is refused, or acknowledged twice.
    """
    context = zmq.Context()
    poller = zmq.Poller()
    sources = []
    for number in range(SOURCES):
        socket = context.socket(zmq.DEALER)
        socket.connect(address)
        poller.register(socket, zmq.POLLIN)
        batches = endless(
            templates, name=f"{name}-{number}", source_id=secrets.token_bytes(16), with_requests=with_requests
        )
        sources.append(Source(socket=socket, batches=batches))
    by_socket = {source.socket: source for source in sources}
    start = time.perf_counter()
    rows_sent = 0
    while True:
        now_s = time.perf_counter() - start
        sending = now_s < seconds and not ended()
        due = None if rows_per_s is None else rows_per_s * now_s
        for source in sources if sending else ():
            while len(source.waiting_since_s) < IN_FLIGHT and (due is None or rows_sent <= due):
                frames, rows = next(source.batches)
                source.socket.send_multipart(frames, copy=False)
                source.waiting_since_s[source.num_sent] = time.perf_counter()
                source.rows_of[source.num_sent] = rows
                source.num_sent += 1
                rows_sent += rows
        waiting = any(source.waiting_since_s for source in sources)
        if not waiting and not sending:
            break
        ready = poller.poll(_PACE_MS if rows_per_s is not None and sending else _PATIENCE_MS)
        if not ready and not sending:
            break
        for socket, _ in ready:
            _take_answers(by_socket[socket])
    taken_s = time.perf_counter() - start
    context.destroy(linger=0)
    return Sent(
        rows=sum(source.rows_acknowledged for source in sources),
        seconds=taken_s,
        batches=sum(source.num_sent for source in sources),
        missed=sum(len(source.waiting_since_s) for source in sources),
        slowest_s=max(source.slowest_s for source in sources),
    )


def _take_answers(source: Source) -> None:
    while int(source.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
        _, seq, reason = decode_answer(source.socket.recv_multipart())
        if reason is not None:
            raise SystemExit(f"ingest: batch {seq} was refused: {reason}")
        if seq not in source.waiting_since_s:
            raise SystemExit(f"ingest: batch {seq} was acknowledged twice")
        source.slowest_s = max(source.slowest_s, time.perf_counter() - source.waiting_since_s.pop(seq))
        source.rows_acknowledged += source.rows_of.pop(seq)


@dataclass
class Load:
    """A running sender process."""

    process: subprocess.Popen[bytes]
    answer: dict[str, Any] = field(default_factory=dict)

    def end(self) -> dict[str, Any]:
        """Stop sending, wait for every acknowledgement, and give the fields of `Sent`."""
        output, _ = self.process.communicate(timeout=120)
        if self.process.returncode:
            raise SystemExit("ingest_load failed")
        self.answer = json.loads(output)
        return self.answer


@contextmanager
def ingest_load(address: str, *, rows_per_s: float | None = None, with_requests: bool = False) -> Iterator[Load]:
    """Send from another process, from the moment that it is ready to."""
    command = [sys.executable, "-m", "benchmarks.ingest_load", address]
    if rows_per_s is not None:
        command += ["--rows-per-s", str(rows_per_s)]
    if with_requests:
        command.append("--with-requests")
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
    parser.add_argument("--with-requests", action="store_true")
    arguments = parser.parse_args()
    templates = row_templates()
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), ended.set()), daemon=True).start()
    print("ready", flush=True)
    sent = send(
        arguments.address,
        templates,
        name=secrets.token_hex(4),
        seconds=float("inf"),
        rows_per_s=arguments.rows_per_s,
        with_requests=arguments.with_requests,
        ended=ended.is_set,
    )
    print(json.dumps(asdict(sent)), flush=True)


if __name__ == "__main__":
    main()
