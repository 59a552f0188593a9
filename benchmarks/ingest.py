"""`ingest`: fingerprints/s from ZMQ to committed and acknowledged, four sources at once, against SQLite alone.

The sidecar serves the demo's run, so that each row is also classified against its clusters. Rounds of sending and
rounds of SQLite alone take turns, over one sidecar and one database: with the default of 12 s a round the five make a
minute. What was acknowledged is counted in the database afterwards; the sidecar's memory is read at the end of each
round.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from attn_core.store import insert_fingerprints, open_writer
from benchmarks.ingest_load import ROWS_PER_BATCH, renamed, row_templates, send
from benchmarks.measure import Figure, figure_from_limit, figure_from_pairs, pairs, report
from benchmarks.republished import serve_demo_run
from benchmarks.sidecar_process import resident_bytes, running_sidecar

ROUND_S = 12.0
PEER_ROWS = 100_000
TARGET_PER_S = 200_000
MAX_GROWTH_BYTES = 64 << 20
"""Memory counts as flat where it grows by no more than this from the end of the second round to that of the last."""


def _sqlite_alone(templates: list[pa.RecordBatch]) -> float:
    """Rows/s of such rows inserted by the same statements in one process, a commit every 16 batches."""
    batches = [renamed(templates[k % len(templates)], f"alone-{k}") for k in range(PEER_ROWS // ROWS_PER_BATCH)]
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
    templates = row_templates()
    round_s = ROUND_S if rows is None else rows / TARGET_PER_S / 5
    acknowledged: list[int] = []
    memory_bytes: list[int] = []
    with running_sidecar() as sidecar:
        serve_demo_run(sidecar, num_points=1000)

        def ours() -> float:
            sent = send(sidecar.zmq, templates, name=f"r{len(acknowledged)}", seconds=round_s)
            if sent.missed:
                raise SystemExit(f"ingest: {sent.missed} batches were not acknowledged")
            acknowledged.append(sent.rows)
            memory_bytes.append(resident_bytes(sidecar.pid))
            return sent.rows / sent.seconds

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
