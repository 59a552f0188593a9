"""`ingest`: fingerprints/s from ZMQ to committed and acknowledged, four sources at once, against SQLite alone.

Rounds of sending and rounds of SQLite alone take turns, over one sidecar and one database: with the default of 12 s a
round the five make a minute. What was acknowledged is counted in the database afterwards; the sidecar's memory is
read at the end of each round.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import zmq

from attn_core.store import insert_fingerprints, open_writer
from attn_core.wire import SourceInfo, decode_answer, encode_batch
from benchmarks.captured import bootstrapped, wire_batches
from benchmarks.measure import Figure, figure_from_limit, figure_from_pairs, pairs, report
from benchmarks.sidecar_process import RunningSidecar, resident_bytes, running_sidecar

SOURCES = 4
ROWS_PER_BATCH = 1024
IN_FLIGHT = 16
"""Batches that a source sends ahead of their acknowledgements."""
ROUND_S = 12.0
PEER_ROWS = 100_000
INFO = SourceInfo(model_id="bench", captured_layers=(0, 4, 8, 12, 17, 21, 25, 29), num_heads=9)
TARGET_PER_S = 200_000
MAX_GROWTH_BYTES = 64 << 20
"""Memory counts as flat where it grows by no more than this from the end of the second round to that of the last."""


@dataclass
class _Source:
    """One sender: its socket, its place in its own sequence and what it waits for."""

    socket: zmq.Socket[bytes]
    batches: Iterator[list[bytes]]
    in_flight: int = 0
    rows_acknowledged: int = 0
    seqs_acknowledged: set[int] = field(default_factory=set)


def _endless(templates: list[pa.RecordBatch], *, name: str, source_id: bytes) -> Iterator[list[bytes]]:
    """The templates' rows again and again, each time as steps of requests that nobody has sent yet."""
    seq = 0
    while True:
        rows = templates[seq % len(templates)]
        yield encode_batch(
            kind="fingerprints", rows=_renamed(rows, f"{name}-{seq}"), source_id=source_id, seq=seq, info=INFO
        )
        seq += 1


def _renamed(rows: pa.RecordBatch, prefix: str) -> pa.RecordBatch:
    """The rows as 256 steps each of requests named after `prefix`, captured just now; ids as long as a server's."""
    request = np.arange(rows.num_rows) // 256
    names = pa.array([f"chatcmpl-{prefix}-{k}".ljust(41, "0") for k in range(int(request[-1]) + 1)])
    steps = pa.array((np.arange(rows.num_rows) % 256).astype(np.int32))
    at_us = pa.array(time.time_ns() // 1000 - rows.num_rows + np.arange(rows.num_rows))
    for place, column in enumerate((names.take(pa.array(request)), steps, at_us)):
        rows = rows.set_column(place, rows.schema.field(place), column)
    return rows


def _send(sidecar: RunningSidecar, templates: list[pa.RecordBatch], *, name: str, seconds: float) -> tuple[int, float]:
    """Rows acknowledged and seconds taken: send for `seconds`, then wait for every acknowledgement."""
    context = zmq.Context()
    poller = zmq.Poller()
    sources = []
    for number in range(SOURCES):
        socket = context.socket(zmq.DEALER)
        socket.connect(sidecar.zmq)
        poller.register(socket, zmq.POLLIN)
        batches = _endless(templates, name=f"{name}-{number}", source_id=secrets.token_bytes(16))
        sources.append(_Source(socket=socket, batches=batches))
    by_socket = {source.socket: source for source in sources}
    start = time.perf_counter()
    while True:
        sending = time.perf_counter() - start < seconds
        for source in sources if sending else ():
            while source.in_flight < IN_FLIGHT:
                source.socket.send_multipart(next(source.batches), copy=False)
                source.in_flight += 1
        if not any(source.in_flight for source in sources):
            break
        ready = poller.poll(30_000)
        if not ready:
            raise SystemExit("ingest: no acknowledgement within 30 s")
        for socket, _ in ready:
            _take_answers(by_socket[socket])
    taken_s = time.perf_counter() - start
    context.destroy(linger=0)
    return sum(source.rows_acknowledged for source in sources), taken_s


def _take_answers(source: _Source) -> None:
    while int(source.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
        _, seq, reason = decode_answer(source.socket.recv_multipart())
        if reason is not None:
            raise SystemExit(f"ingest: batch {seq} was refused: {reason}")
        if seq in source.seqs_acknowledged:
            raise SystemExit(f"ingest: batch {seq} was acknowledged twice")
        source.seqs_acknowledged.add(seq)
        source.in_flight -= 1
        source.rows_acknowledged += ROWS_PER_BATCH


def _sqlite_alone(templates: list[pa.RecordBatch]) -> float:
    """Rows/s of such rows inserted by the same statements in one process, a commit every 16 batches."""
    batches = [_renamed(templates[k % len(templates)], f"alone-{k}") for k in range(PEER_ROWS // ROWS_PER_BATCH)]
    groups = [pa.concat_batches(batches[k : k + 16]) for k in range(0, len(batches), 16)]
    with TemporaryDirectory(prefix="attn-bench-") as folder, closing(open_writer(Path(folder) / "a.db")) as connection:
        start = time.perf_counter()
        for rows in groups:
            connection.execute("BEGIN IMMEDIATE")
            insert_fingerprints(connection, rows, model_id="bench", stored_at_us=0)
            connection.execute("COMMIT")
        return float(sum(rows.num_rows for rows in groups) / (time.perf_counter() - start))


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where every target is met. `rows`: about how many to send in all (default: a minute)."""
    templates = wire_batches(bootstrapped(64 * ROWS_PER_BATCH), rows_per_batch=ROWS_PER_BATCH, source="b")
    round_s = ROUND_S if rows is None else rows / TARGET_PER_S / 5
    acknowledged: list[int] = []
    memory_bytes: list[int] = []
    with running_sidecar() as sidecar:

        def ours() -> float:
            num_rows, taken_s = _send(sidecar, templates, name=f"r{len(acknowledged)}", seconds=round_s)
            acknowledged.append(num_rows)
            memory_bytes.append(resident_bytes(sidecar.pid))
            return num_rows / taken_s

        measured = pairs(ours, lambda: _sqlite_alone(templates))
        with closing(sqlite3.connect(sidecar.database)) as connection:
            held = connection.execute("SELECT count(*) FROM tokens").fetchone()[0]
            distinct = connection.execute(
                "SELECT count(*) FROM (SELECT request_id, step FROM fingerprints GROUP BY request_id, step)"
            ).fetchone()[0]
    report(figures := _figures(measured, sum(acknowledged), held, distinct, memory_bytes), as_json=as_json)
    return all(figure.met for figure in figures)


def _figures(
    measured: list[tuple[float, float]], acknowledged: int, held: int, distinct: int, memory_bytes: list[int]
) -> list[Figure]:
    rate = figure_from_pairs(
        measured,
        name="ingest",
        figure="fingerprints_per_s",
        unit="1/s",
        peer="SQLite alone",
        target=f">= {TARGET_PER_S:,}/s",
        floor=0.0,
    )
    counts = (("lost", acknowledged - distinct), ("duplicated", held - distinct))
    growth = memory_bytes[-1] - memory_bytes[1]
    return [
        # The target is a rate, not a share of the peer's.
        replace(rate, met=rate.value >= TARGET_PER_S),
        *(
            figure_from_limit(name="ingest", figure=name, value=value, unit="rows", target="0", met=value == 0)
            for name, value in counts
        ),
        figure_from_limit(
            name="ingest", figure="acknowledged", value=acknowledged, unit="rows", target="> 0", met=acknowledged > 0
        ),
        figure_from_limit(
            name="ingest", figure="memory_growth", value=growth, unit="bytes",
            target=f"<= {MAX_GROWTH_BYTES}", met=growth <= MAX_GROWTH_BYTES,
        ),
    ]  # fmt: skip
