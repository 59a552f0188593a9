"""Writing tokens: many rows a statement, so that SQLite works through hundreds of them without Python in between.

An `executemany` would go back and forth between Python and SQLite once a row, and bind every value once a row. Here a
statement holds up to `ROWS_A_STATEMENT` rows, what is the same for all of them is bound once, and the vectors are bound
as one blob that SQLite cuts up itself (measured in docs/decisions/0008); the head sketches too, where there are any.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from attn_core.classify import Classified
from attn_core.fingerprint import DIM
from attn_core.head_projection import NUM_COLUMNS, NUM_EVIDENCE, NUM_SKETCH, to_float16
from attn_core.wire import vectors_from_rows
from attn_core.zones import ZONES

ROWS_A_STATEMENT = 256
_ROWS_A_PART = 2_048
"""Made into Python's values at a time. Each column's conversion holds the interpreter's lock: what answers HTTP beside
it waits for no more than a part of a column."""
_SIZES = (ROWS_A_STATEMENT, 16, 1)
_VECTOR_BYTES = DIM * 4
SKETCH_BYTES = NUM_SKETCH * 2
"""Of the stored sketch; the zone evidence follows it."""
_BOTH_BYTES = NUM_COLUMNS * 2
_NO_SKETCH = b"\xff" * _BOTH_BYTES
"""In the place of a row without a sketch: NaN throughout, which no sketch is."""
_MARK = f"x'{_NO_SKETCH.hex()}'"
MOST_HEAD_FIGURES = 20_000
"""Tokens a model whose raw head figures are kept, the newest."""

_REQUEST_NO, _ZONE_NO = 0, 1
"""Places in `LaidOut.names`."""
_SHARED = ("stored_at_us", "model_no", "classified_run_no")
"""Bound once a statement, as ?1 to ?3; the vectors are ?4. Where there are sketches they are ?5, their matrix ?6."""
_ALWAYS = (
    "step", "captured_at_us", "token_id", "token_text", "context_len", "sink_mass", "prompt_mass",
    "periodicity",
)  # fmt: skip
_TOPK = ("topk_positions", "topk_probs", "residual_mass")


def insert_fingerprints(
    connection: sqlite3.Connection,
    rows: pa.RecordBatch,
    *,
    model_id: str | None,
    stored_at_us: int,
    classified: Classified | None = None,
    run_id: str | None = None,
    head_projection: str | None = None,
    laid_out: Iterable[LaidOut] | None = None,
) -> int:
    """Insert rows of `attn_core.wire.FINGERPRINTS`; those whose (request_id, step) is held stay as they are.

    Returns how many were new. Columns other than the four that identify and measure (request_id, step, captured_at_us,
    vector) may hold nulls. `head_projection` is the hash of the matrix that made their sketches. `laid_out`, where
    given, is `lay_out` of these rows and answers, made beforehand by another thread. Does not commit; raises
    `sqlite3.Error`, and then some rows may be written: roll back.
    """
    request_no = _request_numbers(connection, rows.column("request_id"))
    zone_numbers = None if classified is None else _zone_numbers(connection)[classified.zone_index]
    shared = (stored_at_us, _label_number_or_none(connection, model_id), _label_number_or_none(connection, run_id))
    projection_no = _label_number_or_none(connection, head_projection)
    before = connection.total_changes
    start = 0
    for part in lay_out(rows, classified) if laid_out is None else laid_out:
        width, values, end = len(part.names), part.values, start + part.num_rows
        values[_REQUEST_NO::width] = request_no[start:end].tolist()
        if zone_numbers is not None:
            values[_ZONE_NO::width] = zone_numbers[start:end].tolist()
        for first, count in _statements(part.num_rows):
            blobs: tuple[Any, ...] = (part.vectors[first * _VECTOR_BYTES : (first + count) * _VECTOR_BYTES],)
            if part.sketches:
                blobs += (part.sketches[first * _BOTH_BYTES : (first + count) * _BOTH_BYTES], projection_no)
            of_rows = values[first * width : (first + count) * width]
            sql = _sql(part.names, count, with_sketches=bool(part.sketches), has_gaps=part.has_gaps)
            connection.execute(sql, (*shared, *blobs, *of_rows))
        start = end
    return connection.total_changes - before


@dataclass(frozen=True, kw_only=True)
class LaidOut:
    """Some rows as SQLite's statements take them, but for the numbers that only the database knows."""

    names: tuple[str, ...]
    """Columns in order: `request_no`, then `zone_no` where there are answers, then the others."""
    values: list[Any]
    """Row after row; None where a number will stand."""
    vectors: bytes
    sketches: bytes
    """`_BOTH_BYTES` a row, those of `_NO_SKETCH` where it has none; empty where no row has one."""
    has_gaps: bool
    """Whether some rows have a sketch and others none."""
    num_rows: int


def lay_out(rows: pa.RecordBatch, classified: Classified | None) -> Iterator[LaidOut]:
    """The rows in parts of `_ROWS_A_PART`. Needs no database, so that another thread can do it ahead."""
    for start in range(0, rows.num_rows, _ROWS_A_PART):
        some, part = rows.slice(start, _ROWS_A_PART), slice(start, start + _ROWS_A_PART)
        nothing = [None] * some.num_rows
        columns: dict[str, Sequence[Any]] = {"request_no": nothing}
        if classified is not None:
            columns["zone_no"] = nothing
            columns["zone_confidence"] = classified.confidence[part].tolist()
            columns["cluster_id"] = classified.cluster_id[part].tolist()
        for name in _ALWAYS:
            columns[name] = some.column(name).to_pylist()
        if any(some.column(name).null_count < some.num_rows for name in _TOPK):
            columns["topk_positions"] = _blobs(some.column("topk_positions"), "<i4")
            columns["topk_probs"] = _blobs(some.column("topk_probs"), "<f4")
            columns["residual_mass"] = some.column("residual_mass").to_pylist()
        flat: list[Any] = [None] * (some.num_rows * len(columns))
        for place, values in enumerate(columns.values()):
            flat[place :: len(columns)] = values
        vectors = np.ascontiguousarray(vectors_from_rows(some), dtype="<f4").tobytes()
        sketches, has_gaps = _sketches(some)
        yield LaidOut(
            names=tuple(columns),
            values=flat,
            vectors=vectors,
            sketches=sketches,
            has_gaps=has_gaps,
            num_rows=some.num_rows,
        )


def _sketches(rows: pa.RecordBatch) -> tuple[bytes, bool]:
    """The sketch and the zone evidence of each row, as `LaidOut.sketches` holds them, and `LaidOut.has_gaps`."""
    columns = rows.column("head_sketch"), rows.column("zone_evidence")
    if any(column.null_count == len(column) for column in columns):
        return b"", False
    has_both = pc.and_(*(column.is_valid() for column in columns))
    present = has_both.to_numpy(zero_copy_only=False)
    found = np.frombuffer(_NO_SKETCH * len(present), dtype="<f2").reshape(-1, NUM_COLUMNS).copy()
    found[present] = np.concatenate(
        [
            column.filter(has_both).flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            for column, width in zip(columns, (NUM_SKETCH, NUM_EVIDENCE), strict=True)
        ],
        axis=1,
    )
    return found.tobytes(), not bool(present.all())


def insert_head_figures(
    connection: sqlite3.Connection, rows: pa.RecordBatch, *, model_id: str, layers: Sequence[int], num_heads: int
) -> None:
    """Keep the raw head figures of those of these rows (`attn_core.wire.FINGERPRINTS`) that bring any.

    `layers` are the captured ones, repeats allowed. No more than `MOST_HEAD_FIGURES` of a model are kept, the newest.
    Does not commit; raises `sqlite3.Error`.
    """
    column = rows.column("head_figures")
    if column.null_count == len(column):
        return
    rows = rows.filter(column.is_valid())
    model_no = label_number(connection, model_id)
    layers_no = label_number(connection, json.dumps(sorted(set(layers))))
    own = zip(
        _request_numbers(connection, rows.column("request_id")).tolist(),
        *(rows.column(name).to_pylist() for name in ("step", "captured_at_us", "context_len")),
        (to_float16(one.values.to_numpy()).astype("<f2").tobytes() for one in rows.column("head_figures")),
        strict=True,
    )
    connection.executemany(
        "INSERT INTO head_figures (model_no, layers_no, num_heads, request_no, step, captured_at_us, context_len, "
        "figures) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request_no, step) DO NOTHING",
        ((model_no, layers_no, num_heads, *values) for values in own),
    )
    connection.execute(
        "DELETE FROM head_figures WHERE (request_no, step) IN (SELECT request_no, step FROM head_figures "
        "WHERE model_no = ? ORDER BY captured_at_us DESC, request_no DESC, step DESC LIMIT -1 OFFSET ?)",
        (model_no, MOST_HEAD_FIGURES),
    )


def _zone_numbers(connection: sqlite3.Connection) -> npt.NDArray[np.int64]:
    return np.array([label_number(connection, zone) for zone in ZONES], dtype=np.int64)


def label_number(connection: sqlite3.Connection, label: str) -> int:
    """The number of a model, zone, run, matrix or list of layers in this file; a new one is written down."""
    return _number(connection, "labels", "label_no", "label", label)


def _label_number_or_none(connection: sqlite3.Connection, label: str | None) -> int | None:
    return None if label is None else label_number(connection, label)


def _number(connection: sqlite3.Connection, table: str, number: str, name: str, text: str) -> int:
    sql = f"SELECT {number} FROM {table} WHERE {name} = ?"  # noqa: S608 - our own names
    found = connection.execute(sql, (text,)).fetchone()
    if found is None:
        found = (connection.execute(f"INSERT INTO {table} ({name}) VALUES (?)", (text,)).lastrowid,)  # noqa: S608
    return int(found[0])


def _request_numbers(connection: sqlite3.Connection, request_ids: pa.StringArray) -> npt.NDArray[np.int64]:
    """The number of each row's request; each request is looked up once."""
    encoded = request_ids.dictionary_encode()
    numbers = np.array(
        [
            _number(connection, "request_numbers", "request_no", "request_id", request_id)
            for request_id in encoded.dictionary.to_pylist()
        ],
        dtype=np.int64,
    )
    found: npt.NDArray[np.int64] = numbers[encoded.indices.to_numpy()]
    return found


def _statements(num_rows: int) -> Iterable[tuple[int, int]]:
    """(first row, rows) of each statement: few sizes, so that few are ever compiled."""
    start = 0
    for size in _SIZES:
        while num_rows - start >= size:
            yield start, size
            start += size


@cache
def _sql(names: tuple[str, ...], count: int, *, with_sketches: bool, has_gaps: bool) -> str:
    """The statement that inserts `count` rows of these columns, and their sketches where there are any.

    With gaps it looks at each for the mark of a row without one, which costs a tenth of the whole.
    """
    shared = [f"?{k + 1}" for k in range(len(_SHARED))]
    vector, sketch, projection_no = (f"?{len(_SHARED) + k}" for k in (1, 2, 3))
    # Parameters count from 1, and what all rows share comes before the rows.
    first = len(_SHARED) + (4 if with_sketches else 2)
    rows = []
    for row in range(count):
        own = [f"?{first + row * len(names) + k}" for k in range(len(names))]
        cut = [f"substr({vector}, {row * _VECTOR_BYTES + 1}, {_VECTOR_BYTES})"]
        if with_sketches:
            both = f"substr({sketch}, {row * _BOTH_BYTES + 1}, {_BOTH_BYTES})"
            with_gaps = [f"nullif({both}, {_MARK})", f"iif({both} = {_MARK}, NULL, {projection_no})"]
            cut += with_gaps if has_gaps else [both, projection_no]
        rows.append(f"({', '.join([*shared, *cut, *own])})")
    columns = ", ".join([*_SHARED, "vector", *(("head_sketch", "projection_no") if with_sketches else ()), *names])
    return (
        f"INSERT INTO tokens ({columns}) VALUES {', '.join(rows)} "  # noqa: S608 - our own names and parameters
        "ON CONFLICT (request_no, step) DO NOTHING"
    )


def _blobs(column: pa.ListArray, dtype: str) -> list[bytearray | None]:
    """One little-endian blob a row of a list column, None for a null row. A bytearray is what sqlite3 binds fastest."""
    width = np.dtype(dtype).itemsize
    offsets = column.offsets.to_numpy().astype(np.int64)
    first = int(offsets[0])
    values = column.values.slice(first, int(offsets[-1]) - first).to_numpy(zero_copy_only=False)
    data = bytearray(np.ascontiguousarray(values, dtype=dtype).tobytes())
    offsets = (offsets - first) * width
    present = column.is_valid().to_numpy(zero_copy_only=False)
    return [
        data[a:b] if ok else None
        for a, b, ok in zip(offsets[:-1].tolist(), offsets[1:].tolist(), present.tolist(), strict=True)
    ]
