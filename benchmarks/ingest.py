"""`ingest`: fingerprints/s from ZMQ to committed and acknowledged, four sources, against SQLite alone."""

from __future__ import annotations

import secrets
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import zmq

from attn_core.store import insert_fingerprints, open_writer
from attn_core.wire import SourceInfo, decode_answer, encode_batch
from benchmarks.captured import bootstrapped, wire_batches
from benchmarks.measure import figure_from_limit, figure_from_pairs, pairs, report
from benchmarks.sidecar_process import RunningSidecar, running_sidecar

SOURCES = 4
ROWS_PER_BATCH = 1024
IN_FLIGHT = 16
INFO = SourceInfo(model_id="bench", captured_layers=(0, 4, 8, 12, 17, 21, 25, 29), num_heads=9)
TARGET_PER_S = 200_000


def _send_all(sidecar: RunningSidecar, batches: list[pa.RecordBatch], round_name: str) -> float:
    """Rows/s until every batch of every source is acknowledged."""
    context = zmq.Context()
    poller = zmq.Poller()
    queues = {}
    for number in range(SOURCES):
        socket = context.socket(zmq.DEALER)
        socket.connect(sidecar.zmq)
        poller.register(socket, zmq.POLLIN)
        source = secrets.token_bytes(16)
        queues[socket] = [
            encode_batch(kind="fingerprints", rows=_renamed(rows, f"{round_name}{number}-{seq}"), source_id=source,
                         seq=seq, info=INFO)
            for seq, rows in enumerate(batches)
        ]  # fmt: skip
    waiting = dict.fromkeys(queues, 0)
    sent = dict.fromkeys(queues, 0)
    total = sum(map(len, queues.values()))
    acknowledged = 0
    start = time.perf_counter()
    while acknowledged < total:
        for socket, queue in queues.items():
            while sent[socket] < len(queue) and waiting[socket] < IN_FLIGHT:
                socket.send_multipart(queue[sent[socket]], copy=False)
                sent[socket] += 1
                waiting[socket] += 1
        for socket, _ in poller.poll(10_000):
            _, seq, reason = decode_answer(socket.recv_multipart())
            if reason is not None:
                raise SystemExit(f"ingest: batch {seq} was refused: {reason}")
            waiting[socket] -= 1
            acknowledged += 1
    seconds = time.perf_counter() - start
    context.destroy(linger=0)
    return float(SOURCES * sum(rows.num_rows for rows in batches) / seconds)


def _renamed(rows: pa.RecordBatch, prefix: str) -> pa.RecordBatch:
    names = pa.array([f"{prefix}-{i // 256}" for i in range(rows.num_rows)])
    return rows.set_column(0, rows.schema.field(0), names)


def _sqlite_alone(batches: list[pa.RecordBatch]) -> float:
    """Rows/s of the same rows inserted by the same statement in one process, a commit a batch."""
    with TemporaryDirectory(prefix="attn-bench-") as folder:
        start = time.perf_counter()
        with closing(open_writer(Path(folder) / "alone.db")) as connection:
            for number, rows in enumerate(batches):
                connection.execute("BEGIN IMMEDIATE")
                insert_fingerprints(connection, _renamed(rows, f"a{number}"), model_id="bench", stored_at_us=0)
                connection.execute("COMMIT")
        return float(sum(rows.num_rows for rows in batches) / (time.perf_counter() - start))


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where every target is met. `rows` is the number sent by each source a round."""
    batches = wire_batches(bootstrapped(rows or 25_000), rows_per_batch=ROWS_PER_BATCH, source="b")
    per_round = SOURCES * sum(batch.num_rows for batch in batches)
    rounds = 0
    with running_sidecar() as sidecar:

        def ours() -> float:
            nonlocal rounds
            rounds += 1
            return _send_all(sidecar, batches, f"r{rounds}-")

        measured = pairs(ours, lambda: _sqlite_alone(batches))
        with closing(sqlite3.connect(sidecar.database)) as connection:
            held, distinct = connection.execute(
                "SELECT count(*), count(DISTINCT request_id || '/' || step) FROM fingerprints"
            ).fetchone()
    lost, duplicated = rounds * per_round - distinct, held - distinct
    rate = figure_from_pairs(
        measured,
        name="ingest",
        figure="fingerprints_per_s",
        unit="1/s",
        peer="SQLite alone",
        target=f">= {TARGET_PER_S:,}/s",
        floor=0.0,
    )
    figures = [
        figure_from_limit(name="ingest", figure=name, value=value, unit="rows", target="0", met=value == 0)
        for name, value in (("lost", lost), ("duplicated", duplicated))
    ]
    # The target is a rate, not a share of the peer's.
    figures = [replace(rate, met=rate.value >= TARGET_PER_S), *figures]
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)
