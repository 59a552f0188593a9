"""A database of one hour of tokens, made from captured rows, and a discovery of it in another process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa

from attn_core.store import HOUR_US, insert_fingerprints, open_writer
from benchmarks.captured import mixed, projection_of, wire_batches

BATCH_ROWS = 65_536
TIME_LIMIT_S = 1_200


def write_hour(db: Path, *, num_rows: int, seed: int = 0) -> None:
    """Fill a new database with that many tokens of one hour."""
    table = mixed(num_rows, seed=seed)
    hour_us = time.time_ns() // 1000 // HOUR_US * HOUR_US
    at = hour_us + np.arange(num_rows, dtype=np.int64) * HOUR_US // num_rows
    table = table.set_column(table.schema.get_field_index("captured_at_us"), "captured_at_us", pa.array(at))
    with closing(open_writer(db)) as connection:
        for batch in wire_batches(table, rows_per_batch=BATCH_ROWS, source="bench"):
            connection.execute("BEGIN IMMEDIATE")
            insert_fingerprints(
                connection, batch, model_id="bench", stored_at_us=0, head_projection=projection_of(table)
            )
            connection.execute("COMMIT")


def run_discovery(db: Path, folder: Path, *arguments: str) -> dict[str, float]:
    """What `benchmarks.discovery_run` prints of this database."""
    command = [sys.executable, "-m", "benchmarks.discovery_run", str(db), str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    if done.returncode:
        raise SystemExit(f"discovery failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
