"""The SQLite store: opening it, writing batches and reading windows. Schema and meanings are in ``schema.sql``.

One writer, any number of readers (WAL). Functions that write do not commit: the caller decides what one transaction is.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from attn_core.errors import SchemaMismatch, StoreError
from attn_core.fingerprint import DIM
from attn_core.head_projection import NUM_EVIDENCE, NUM_SKETCH
from attn_core.insertion import SKETCH_BYTES, insert_fingerprints, insert_head_figures
from attn_core.migration import bring_up_to_date, version_of

__all__ = [
    "BUSY_TIMEOUT_MS", "HOUR_US", "STORED", "STORED_HEAD_FIGURES", "STORE_VERSION", "check_sqlite", "explain",
    "hours_with_rows_after", "insert_fingerprints", "insert_head_figures", "max_id", "open_reader", "open_writer",
    "read_fingerprints", "read_head_figures", "record_clusters", "record_request_zone", "record_run", "record_source",
    "sampled_models", "schema_sql", "sqlite_version", "upsert_requests", "with_all_columns",
]  # fmt: skip

STORE_VERSION = 5
HOUR_US = 3_600_000_000
BUSY_TIMEOUT_MS = 5_000
WAL_KEPT_BYTES = 64 << 20
"""What the write-ahead log keeps of its size once its content is in the database."""
OLDEST_SQLITE = (3, 37, 0)
"""The first with STRICT tables."""
WRITER_CACHE_KIB = 65_536
"""Room for the pages that the indexes of a busy hour touch again and again."""

STORED = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("captured_at_us", pa.int64(), nullable=False),
        pa.field("model_id", pa.string()),
        pa.field("token_id", pa.int32()),
        pa.field("token_text", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), DIM), nullable=False),
        pa.field("context_len", pa.int32()),
        pa.field("sink_mass", pa.float32()),
        pa.field("prompt_mass", pa.float32()),
        pa.field("periodicity", pa.float32()),
        pa.field("zone", pa.string()),
        pa.field("cluster_id", pa.int32()),
        pa.field("head_sketch", pa.list_(pa.float16(), NUM_SKETCH)),
        pa.field("zone_evidence", pa.list_(pa.float16(), NUM_EVIDENCE)),
        pa.field("head_projection", pa.string()),
    ]
)
"""What `read_fingerprints` gives, and what the hour's Parquet file holds."""

STORED_HEAD_FIGURES = pa.schema(
    [
        pa.field("request_id", pa.string()),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("captured_at_us", pa.int64(), nullable=False),
        pa.field("context_len", pa.int32(), nullable=False),
        pa.field("layers", pa.list_(pa.int32()), nullable=False),
        pa.field("num_heads", pa.int32(), nullable=False),
        pa.field("figures", pa.list_(pa.float16()), nullable=False),
    ]
)
"""What `read_head_figures` gives: `layers` ascending without repeats, `figures` [layers * heads * NUM_HEAD_FIGURES]."""

_NUMBERED = {
    "request_id": "request_no", "model_id": "model_no", "zone": "zone_no", "head_projection": "projection_no",
    "zone_evidence": f"substr(head_sketch, {SKETCH_BYTES + 1})",
    "head_sketch": f"substr(head_sketch, 1, {SKETCH_BYTES})",
}  # fmt: skip
"""Columns of `STORED` that `tokens` holds in another form."""


def with_all_columns(rows: pa.Table) -> pa.Table:
    """Rows of `STORED` as an older version wrote them, with nulls in the columns that it did not know, in order."""
    for field in STORED:
        if field.name not in rows.column_names and field.nullable:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    others = [name for name in rows.column_names if name not in STORED.names]
    return rows.select([name for name in STORED.names if name in rows.column_names] + others)


def schema_sql() -> str:
    """The text of ``schema.sql``."""
    return resources.files("attn_core").joinpath("schema.sql").read_text(encoding="utf-8")


def sqlite_version() -> str:
    """The version of this Python's SQLite."""
    return sqlite3.sqlite_version


def check_sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> None:
    """Raises `StoreError` where this Python's SQLite is too old for the schema."""
    if version < OLDEST_SQLITE:
        has, needs = (".".join(map(str, one)) for one in (version, OLDEST_SQLITE))
        raise StoreError(
            f"SQLite {has} is too old: {needs} or newer is needed (STRICT tables). Use a Python built with a newer "
            "SQLite, such as that of uv, conda or Debian 12"
        )


def open_writer(path: Path) -> sqlite3.Connection:
    """The read-write connection; the file and its tables are made where missing, an older one is brought up to date.

    Raises `StoreError` where the file is no database, damaged, read-only or locked for longer than 5 s, and
    `SchemaMismatch` where it is of a newer version or not ours.
    """
    check_sqlite()
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)
        try:
            version = _checked_version(connection, path, allow_empty=True)
            if version == 0:
                connection.executescript(schema_sql())
            elif version < STORE_VERSION:
                bring_up_to_date(connection, schema=schema_sql())
            connection.execute("PRAGMA journal_mode = WAL")
            # Where readers let it, the log begins anew and is cut to this size.
            connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
            # NORMAL can lose the last commits to a power cut, after they were acknowledged: FULL cannot.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise StoreError(explain(path, error)) from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection that may be used from any one thread at a time. Raises as `open_writer` does."""
    check_sqlite()
    if not path.exists():
        raise StoreError(f"no database at {path}: start the sidecar, or run sqlite3 {path} < schema.sql")
    try:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro",
            uri=True,
            timeout=BUSY_TIMEOUT_MS / 1000,
            check_same_thread=False,
            isolation_level=None,
        )
        try:
            version = _checked_version(connection, path, allow_empty=False)
            if version < STORE_VERSION:
                raise SchemaMismatch(
                    f"{path} has schema version {version}, older than {STORE_VERSION}: start the sidecar once on it, "
                    "which brings it up to date"
                )
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise StoreError(explain(path, error)) from error
    return connection


def _checked_version(connection: sqlite3.Connection, path: Path, *, allow_empty: bool) -> int:
    """The schema version, 0 of an empty file; raises `SchemaMismatch` where it is none that this version can use."""
    version = version_of(connection)
    if 1 <= version <= STORE_VERSION:
        return version
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if version == 0 and allow_empty and not tables:
        return 0
    if version == 0:
        raise SchemaMismatch(f"{path} is not a fingerprint database: run sqlite3 {path} < schema.sql, or name another")
    raise SchemaMismatch(
        f"{path} has schema version {version}; this version of Attention Explorer reads {STORE_VERSION}: "
        "use the version that wrote it, or start a new file"
    )


def explain(path: Path, error: sqlite3.Error) -> str:
    """Why SQLite cannot use the database, and what to do about it."""
    hints = {
        "SQLITE_CANTOPEN": "check that the folder exists and may be written",
        "SQLITE_NOTADB": "the file is no SQLite database: name another with --db",
        "SQLITE_READONLY": "the file or its folder is read-only: change its permissions",
        "SQLITE_BUSY": "another process holds the write lock: stop it, or try again",
        "SQLITE_CORRUPT": "the file is damaged: sqlite3 FILE .recover writes what can be saved",
        "SQLITE_FULL": "the disk is full: free some space",
        "SQLITE_IOERR": "the disk refuses: look at its space, its quota and the limits of this process",
    }
    # Extended codes such as SQLITE_IOERR_WRITE have two words; their first two are the kind.
    kind = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
    hint = hints.get(kind, "see the message")
    return f"database {path} cannot be used: {error} ({hint})"


def upsert_requests(connection: sqlite3.Connection, rows: pa.RecordBatch, *, model_id: str) -> None:
    """Merge rows of `attn_core.wire.REQUESTS` into `requests`: a start and an end, in either order, make one row."""
    for row in rows.to_pylist():
        started = row["event"] == "started"
        ids = row["prompt_token_ids"]
        texts = row["prompt_token_texts"]
        connection.execute(
            """
            INSERT INTO requests (request_id, model_id, started_at_us, ended_at_us, prompt_len, prompt_token_ids,
                prompt_token_texts, prompt_spans, sampling_params, num_output_tokens, finish_reason)
            VALUES (?,?,?,?,?,?,?,?,?,?,?)
            ON CONFLICT (request_id) DO UPDATE SET
                started_at_us = coalesce(excluded.started_at_us, started_at_us),
                ended_at_us = coalesce(excluded.ended_at_us, ended_at_us),
                prompt_len = coalesce(excluded.prompt_len, prompt_len),
                prompt_token_ids = coalesce(excluded.prompt_token_ids, prompt_token_ids),
                prompt_token_texts = coalesce(excluded.prompt_token_texts, prompt_token_texts),
                prompt_spans = coalesce(excluded.prompt_spans, prompt_spans),
                sampling_params = coalesce(excluded.sampling_params, sampling_params),
                num_output_tokens = coalesce(excluded.num_output_tokens, num_output_tokens),
                finish_reason = coalesce(excluded.finish_reason, finish_reason)
            """,
            (
                row["request_id"],
                model_id,
                row["at_us"] if started else None,
                None if started else row["at_us"],
                row["prompt_len"],
                None if ids is None else np.asarray(ids, dtype="<i4").tobytes(),
                None if texts is None else json.dumps(texts, ensure_ascii=False),
                row["prompt_spans"],
                row["sampling_params"],
                row["num_output_tokens"],
                row["finish_reason"],
            ),
        )


def record_request_zone(connection: sqlite3.Connection, *, request_id: str, zone: str, confidence: float) -> None:
    """Write the zone of a whole answer, and its confidence 0..1, into the request's row."""
    sql = "UPDATE requests SET zone = ?, zone_confidence = ? WHERE request_id = ?"
    connection.execute(sql, (zone, confidence, request_id))


def record_source(
    connection: sqlite3.Connection, *, source_id: bytes, model_id: str, seq: int, dropped: int, at_us: int
) -> None:
    """Remember how far a source has come and what it had to drop."""
    connection.execute(
        """
        INSERT INTO ingest_sources (source_id, model_id, last_seq, dropped, first_seen_us, last_seen_us)
        VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (source_id) DO UPDATE SET
            last_seq = max(last_seq, excluded.last_seq),
            dropped = max(dropped, excluded.dropped),
            last_seen_us = max(last_seen_us, excluded.last_seen_us)
        """,
        (source_id, model_id, seq, dropped, at_us, at_us),
    )


def read_fingerprints(
    connection: sqlite3.Connection, *, start_us: int, end_us: int, limit: int | None = None
) -> pa.Table:
    """The fingerprints captured in [start_us, end_us), by capture instant: a table of `STORED`."""
    names = [_NUMBERED.get(name, name) for name in STORED.names]
    cursor = connection.execute(
        f"SELECT {', '.join(names)} FROM tokens "  # noqa: S608 - our own column names
        "WHERE captured_at_us >= ? AND captured_at_us < ? ORDER BY captured_at_us, id LIMIT ?",
        (start_us, end_us, -1 if limit is None else limit),
    )
    labels = dict(connection.execute("SELECT label_no, label FROM labels"))
    batches = []
    while chunk := cursor.fetchmany(65_536):
        columns: dict[str, Any] = dict(zip(STORED.names, zip(*chunk, strict=True), strict=True))
        requests = _request_ids(connection, set(columns["request_id"]))
        columns["request_id"] = [requests[number] for number in columns["request_id"]]
        for name in ("model_id", "zone", "head_projection"):
            columns[name] = [labels.get(number) for number in columns[name]]
        arrays = [
            _lists_from_blobs(columns[field.name], field.type)
            if pa.types.is_fixed_size_list(field.type)
            else pa.array(columns[field.name], type=field.type)
            for field in STORED
        ]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=STORED))
    return pa.Table.from_batches(batches, schema=STORED)


def _lists_from_blobs(blobs: Sequence[bytes | None], kind: pa.FixedSizeListType) -> pa.FixedSizeListArray:
    """A list a blob of little-endian numbers, null where there is no blob."""
    if all(blob is None for blob in blobs):
        return pa.nulls(len(blobs), kind)
    dtype = np.dtype(kind.value_type.to_pandas_dtype()).newbyteorder("<")
    nothing = bytes(kind.list_size * dtype.itemsize)
    flat = np.frombuffer(b"".join(nothing if blob is None else blob for blob in blobs), dtype=dtype)
    missing = pa.array([blob is None for blob in blobs]) if None in blobs else None
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind, mask=missing)


def read_head_figures(connection: sqlite3.Connection, *, model_id: str, limit: int) -> pa.Table:
    """The raw head figures of a model's newest `limit` tokens that have any, oldest first: `STORED_HEAD_FIGURES`."""
    rows = connection.execute(
        """
        SELECT (SELECT request_id FROM request_numbers AS r WHERE r.request_no = f.request_no), f.step,
            f.captured_at_us, f.context_len, (SELECT label FROM labels WHERE label_no = f.layers_no), f.num_heads,
            f.figures
        FROM head_figures AS f WHERE f.model_no = (SELECT label_no FROM labels WHERE label = ?)
        ORDER BY f.captured_at_us DESC, f.request_no DESC, f.step DESC LIMIT ?
        """,
        (model_id, limit),
    ).fetchall()
    columns: dict[str, list[Any]] = {
        name: [row[place] for row in reversed(rows)] for place, name in enumerate(STORED_HEAD_FIGURES.names)
    }
    columns["layers"] = [json.loads(layers) for layers in columns["layers"]]
    columns["figures"] = [np.frombuffer(blob, dtype="<f2") for blob in columns["figures"]]
    return pa.table(columns, schema=STORED_HEAD_FIGURES)


def sampled_models(connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
    """(model id, tokens with raw head figures, their requests) of each model that has any, the most tokens first."""
    return connection.execute(
        "SELECT label, count(*), count(DISTINCT request_no) FROM head_figures JOIN labels ON label_no = model_no "
        "GROUP BY model_no ORDER BY count(*) DESC, label"
    ).fetchall()


def _request_ids(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, str]:
    sql = "SELECT request_no, request_id FROM request_numbers WHERE request_no IN (SELECT value FROM json_each(?))"
    return dict(connection.execute(sql, (json.dumps(sorted(numbers)),)))


def hours_with_rows_after(connection: sqlite3.Connection, *, after_id: int) -> list[tuple[int, int, int]]:
    """The capture hours of rows newer than `after_id`: (hour start in UTC us, new rows, highest id), by hour."""
    return connection.execute(
        "SELECT captured_at_us / ? * ? AS hour_us, count(*), max(id) FROM tokens WHERE id > ? "
        "GROUP BY hour_us ORDER BY hour_us",
        (HOUR_US, HOUR_US, after_id),
    ).fetchall()


def max_id(connection: sqlite3.Connection) -> int:
    """The id of the newest row, 0 in an empty store."""
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM tokens").fetchone()[0])


_RUN_COLUMNS = (
    "run_id", "status", "started_at_us", "ended_at_us", "window_start_us", "window_end_us", "num_fingerprints",
    "num_clusters", "noise_share", "parameters", "metrics", "error",
)  # fmt: skip


def record_run(connection: sqlite3.Connection, run: Mapping[str, Any]) -> None:
    """Insert or update a row of `discovery_runs`; `parameters` and `metrics` are mappings."""
    unknown = set(run) - set(_RUN_COLUMNS)
    if unknown:
        raise StoreError(f"unknown run fields {sorted(unknown)}: valid are {list(_RUN_COLUMNS)}")
    values = [
        json.dumps(run[name], sort_keys=True) if name in ("parameters", "metrics") and run.get(name) is not None
        else run.get(name)
        for name in _RUN_COLUMNS
    ]  # fmt: skip
    updates = ", ".join(f"{name} = coalesce(excluded.{name}, {name})" for name in _RUN_COLUMNS[1:])
    connection.execute(
        f"INSERT INTO discovery_runs ({', '.join(_RUN_COLUMNS)}) VALUES ({', '.join('?' * len(_RUN_COLUMNS))}) "  # noqa: S608
        f"ON CONFLICT (run_id) DO UPDATE SET {updates}",
        values,
    )


def record_clusters(
    connection: sqlite3.Connection,
    run_id: str,
    *,
    clusters: Iterable[tuple[int, str, int, str, bytes]],
    zone_labels: Iterable[tuple[int, str, float, float, str]],
) -> None:
    """Write a run's clusters (id, label, size, zone, centroid) and zone labels (id, zone, score, margin, evidence)."""
    connection.executemany("INSERT OR REPLACE INTO clusters VALUES (?,?,?,?,?,?)", [(run_id, *row) for row in clusters])
    connection.executemany(
        "INSERT OR REPLACE INTO zone_labels VALUES (?,?,?,?,?,?)", [(run_id, *row) for row in zone_labels]
    )
