"""The benchmarks' data: fingerprints captured from the demo model, bootstrapped to size and said so."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.window import vectors_from_table, window_from_table
from attn_core.fingerprint import DIM, HISTOGRAM, MASSES
from attn_core.store import open_writer, read_fingerprints
from attn_core.wire import FINGERPRINTS, vectors_from_rows

DATABASE = Path(__file__).resolve().parent.parent / "data" / "fingerprints.db"
CORPUS = DATABASE.with_name("corpus.parquet")
"""What `python -m benchmarks.corpus` captured."""
_PART_ROWS = 100_000
CORPUS_REQUESTS = DATABASE.with_name("corpus_requests.parquet")
"""The kind of text of each of its requests."""


def captured_table() -> pa.Table:
    """What was captured over the corpus, or else by `make demo`; exits with what to do where there is nothing."""
    if CORPUS.exists():
        return pq.read_table(CORPUS)
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


def mixed(num_rows: int, *, seed: int = 0) -> pa.Table:
    """`num_rows` rows, each a random mixture of a captured row and its three nearest, with 0.5% noise.

    For what depends on how rows lie to one another: copies with noise alone would be as many islands as there are
    captured rows, while real tokens are a continuum. Mixtures of distributions are distributions.
    """
    table = captured_table().combine_chunks()
    rng = np.random.default_rng(seed)
    window = window_from_table(table)
    lie = window.features if np.isnan(window.sketch).any() else window.sketch
    near = Frame(lie).nearest(lie, k=4).index
    parts = [_mixture(table, near, rng, min(_PART_ROWS, num_rows - start)) for start in range(0, num_rows, _PART_ROWS)]
    return pa.concat_tables(parts)


def _mixture(table: pa.Table, near: npt.NDArray[np.int32], rng: np.random.Generator, count: int) -> pa.Table:
    drawn = rng.integers(0, table.num_rows, count)
    weight = rng.dirichlet(np.ones(near.shape[1]), count)
    picked = table.take(pa.array(drawn))

    def mix(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        return np.einsum("mk,mk...->m...", weight, values[near[drawn]], optimize=False)

    vectors = mix(vectors_from_table(table)) * (1 + rng.uniform(-0.005, 0.005, (count, DIM)))
    context = np.ceil(mix(table["context_len"].to_numpy()))
    entropies = np.r_[3, 12:20]
    vectors[:, entropies] = np.minimum(vectors[:, entropies], np.log(context)[:, None])
    for part in (MASSES, HISTOGRAM):
        vectors[:, part] /= vectors[:, part].sum(axis=1, keepdims=True)
    columns = {"vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), DIM)}
    columns["context_len"] = pa.array(context.astype(np.int32))
    for name in ("sink_mass", "prompt_mass", "periodicity"):
        columns[name] = pa.array(mix(table[name].to_numpy()).astype(np.float32))
    window = window_from_table(table)
    for name, values in (("head_sketch", window.sketch), ("zone_evidence", window.zone_evidence)):
        if name in picked.column_names and not np.isnan(values).any():
            mixed_values = (mix(values) * (1 + rng.uniform(-0.005, 0.005, (count, values.shape[1])))).astype(np.float16)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(mixed_values.ravel()), values.shape[1])
    for name, column in columns.items():
        picked = picked.set_column(picked.schema.get_field_index(name), picked.schema.field(name), column)
    return picked


def projection_of(table: pa.Table) -> str | None:
    """The matrix that made the rows' sketches, None where they have none."""
    names = table.column("head_projection").unique().to_pylist() if "head_projection" in table.column_names else []
    return next((one for one in names if one is not None), None)


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
