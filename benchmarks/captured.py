"""The benchmarks' data: fingerprints captured from the demo model, bootstrapped to size and said so."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from attn_core.fingerprint import DIM, HISTOGRAM, MASSES
from attn_core.store import open_writer, read_fingerprints
from attn_core.wire import FINGERPRINTS, vectors_from_rows

DATABASE = Path(__file__).resolve().parent.parent / "data" / "fingerprints.db"
CORPUS = DATABASE.with_name("corpus.parquet")
"""What `python -m benchmarks.corpus` captured."""
CORPUS_REQUESTS = DATABASE.with_name("corpus_requests.parquet")
"""The kind of text of each of its requests."""


def captured_table() -> pa.Table:
    """What `make demo` captured; exits with what to do where there is nothing."""
    if not DATABASE.exists():
        raise SystemExit(f"no captured fingerprints in {DATABASE}: run make demo ONCE=1 first")
    with TemporaryDirectory(prefix="attn-bench-") as folder:
        # A copy: the demo's file may be of an older schema, and bringing it up to date is not for a benchmark to do.
        copy = Path(folder) / "fingerprints.db"
        with closing(sqlite3.connect(DATABASE)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        with closing(open_writer(copy)) as connection:
            table = read_fingerprints(connection, start_us=0, end_us=1 << 62)
    if table.num_rows < 500:
        raise SystemExit(f"only {table.num_rows} captured fingerprints in {DATABASE}: run make demo ONCE=1 first")
    return table


def bootstrapped(num_rows: int, *, seed: int = 0) -> pa.Table:
    """`num_rows` rows drawn from the captured ones with 0.5% noise, their shares summing to 1 again."""
    table = captured_table().combine_chunks()
    rng = np.random.default_rng(seed)
    picked = table.take(pa.array(rng.integers(0, table.num_rows, num_rows)))
    vectors = np.concatenate([vectors_from_rows(batch) for batch in picked.to_batches()]).copy()
    vectors *= 1 + rng.uniform(-0.005, 0.005, vectors.shape).astype(np.float32)
    entropies = np.r_[3, 12:20]
    limit = np.log(picked["context_len"].to_numpy())[:, None]
    vectors[:, entropies] = np.minimum(vectors[:, entropies], limit)
    for part in (MASSES, HISTOGRAM):
        vectors[:, part] /= vectors[:, part].sum(axis=1, keepdims=True)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    return picked.set_column(picked.schema.get_field_index("vector"), "vector", column)


def wire_batches(table: pa.Table, *, rows_per_batch: int, source: str) -> list[pa.RecordBatch]:
    """The table as batches of the wire's columns, every (request_id, step) its own."""
    count = table.num_rows
    columns = {name: table[name] for name in table.column_names if name in FINGERPRINTS.names}
    columns["request_id"] = pa.array([f"{source}-{i // 256}" for i in range(count)])
    columns["step"] = pa.array((np.arange(count) % 256).astype(np.int32))
    arrays = [
        columns[field.name].combine_chunks()
        if isinstance(columns.get(field.name), pa.ChunkedArray)
        else columns.get(field.name, pa.nulls(count, field.type))
        for field in FINGERPRINTS
    ]
    whole = pa.Table.from_arrays(arrays, schema=FINGERPRINTS)
    batches: list[pa.RecordBatch] = whole.to_batches(max_chunksize=rows_per_batch)
    return batches
