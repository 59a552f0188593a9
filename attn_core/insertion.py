"""Writing tokens: many rows a statement, so that SQLite works through hundreds of them without Python in between.

An `executemany` would go back and forth between Python and SQLite once a row, and bind every value once a row. Here a
statement holds up to `ROWS_A_STATEMENT` rows, what is the same for all of them is bound once, and the vectors are bound
as one blob that SQLite cuts up itself (measured in docs/decisions/0008).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_core.classify import Classified
from attn_core.fingerprint import DIM
from attn_core.wire import vectors_from_rows
from attn_core.zones import ZONES

ROWS_A_STATEMENT = 256
_ROWS_A_PART = 2_048
"""Made into Python's values at a time. Each column's conversion holds the interpreter's lock: what answers HTTP beside
it waits for no more than a part of a column."""
_SIZES = (ROWS_A_STATEMENT, 16, 1)
_VECTOR_BYTES = DIM * 4

_SHARED = ("stored_at_us", "model_no", "classified_run_no")
"""Bound once a statement, as ?1 to ?3; the vectors are ?4."""
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
) -> int:
    """Insert rows of `attn_core.wire.FINGERPRINTS`; those whose (request_id, step) is held stay as they are.

    Returns how many were new. Columns other than the four that identify and measure (request_id, step, captured_at_us,
    vector) may hold nulls. Does not commit; raises `sqlite3.Error`, and then some rows may be written: roll back.
    """
    request_no = _request_numbers(connection, rows.column("request_id"))
    answers: dict[str, npt.NDArray[Any]] = {}
    if classified is not None:
        number_of_zone = np.array([label_number(connection, zone) for zone in ZONES])
        answers["zone_no"] = number_of_zone[classified.zone_index]
        answers["zone_confidence"], answers["cluster_id"] = classified.confidence, classified.cluster_id
    shared = (stored_at_us, _label_number_or_none(connection, model_id), _label_number_or_none(connection, run_id))
    before = connection.total_changes
    for start in range(0, rows.num_rows, _ROWS_A_PART):
        part = slice(start, start + _ROWS_A_PART)
        of_part = {name: values[part] for name, values in answers.items()}
        _insert_part(connection, rows.slice(start, _ROWS_A_PART), {"request_no": request_no[part], **of_part}, shared)
    return connection.total_changes - before


def _insert_part(
    connection: sqlite3.Connection,
    rows: pa.RecordBatch,
    numbers: Mapping[str, npt.NDArray[Any]],
    shared: tuple[int, int | None, int | None],
) -> None:
    columns: dict[str, Sequence[Any]] = {name: values.tolist() for name, values in numbers.items()}
    for name in _ALWAYS:
        columns[name] = rows.column(name).to_pylist()
    if any(rows.column(name).null_count < rows.num_rows for name in _TOPK):
        columns["topk_positions"] = _blobs(rows.column("topk_positions"), "<i4")
        columns["topk_probs"] = _blobs(rows.column("topk_probs"), "<f4")
        columns["residual_mass"] = rows.column("residual_mass").to_pylist()
    vectors = np.ascontiguousarray(vectors_from_rows(rows), dtype="<f4").tobytes()
    width = len(columns)
    flat: list[Any] = [None] * (rows.num_rows * width)
    for place, values in enumerate(columns.values()):
        flat[place::width] = values
    names = tuple(columns)
    for start, count in _statements(rows.num_rows):
        blob = vectors[start * _VECTOR_BYTES : (start + count) * _VECTOR_BYTES]
        connection.execute(_sql(names, count), (*shared, blob, *flat[start * width : (start + count) * width]))


def label_number(connection: sqlite3.Connection, label: str) -> int:
    """The number of a model, zone or run in this file; a new one is written down."""
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
def _sql(names: tuple[str, ...], count: int) -> str:
    """The statement that inserts `count` rows of these columns."""
    first = len(_SHARED) + 2  # parameters count from 1, and the vectors come before the rows
    shared = [f"?{k + 1}" for k in range(len(_SHARED))]
    vector = f"?{len(_SHARED) + 1}"
    rows = []
    for row in range(count):
        own = [f"?{first + row * len(names) + k}" for k in range(len(names))]
        cut = f"substr({vector}, {row * _VECTOR_BYTES + 1}, {_VECTOR_BYTES})"
        rows.append(f"({', '.join([*shared, cut, *own])})")
    columns = ", ".join([*_SHARED, "vector", *names])
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
