"""Fingerprints that come as an Arrow IPC stream: checked message by message before Arrow unpacks anything."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attn_core.fingerprint import DIM, MAX_CONTEXT_LEN
from attn_core.wire import is_compressed_batch
from attn_sidecar.admission import LATEST_INSTANT_US, MAX_ID_CHARS
from attn_sidecar.api.problems import Problem
from attn_sidecar.classification import Rows

COMPANIONS = ("context_len", "sink_mass", "periodicity")
_INT32_MAX = 2**31 - 1
_LIMITS = {
    "context_len": (1, MAX_CONTEXT_LEN),
    "sink_mass": (0, 1),
    "periodicity": (0, 1),
    "step": (0, _INT32_MAX),
    "captured_at_us": (0, LATEST_INSTANT_US),
}
_NOT_ARROW = (pa.ArrowException, OSError, StopIteration, UnicodeDecodeError, ValueError, struct.error)


def table_from_body(body: bytes, *, needed: Sequence[str], also: Sequence[str], most_rows: int) -> pa.Table:
    """The stream's rows, no larger than the body; raises `Problem` 400 or 422."""
    try:
        _check_messages(body)
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
            table.validate(full=True)
    except _NOT_ARROW as error:
        raise Problem(
            400,
            "not-arrow",
            title="The body is not an Arrow IPC stream",
            detail=str(error)[:300],
            mend="send a stream of plain record batches: no dictionaries, no compression",
        ) from error
    names = table.column_names
    if len(set(names)) != len(names) or not set(needed) <= set(names) <= {*needed, *also}:
        raise _invalid(f"columns are {names[:20]}", f"columns: {', '.join(needed)}; optional: {', '.join(also)}")
    if not 1 <= table.num_rows <= most_rows:
        raise _invalid(f"{table.num_rows} rows", f"a batch has 1 to {most_rows} rows")
    return table


def rows_from_table(table: pa.Table) -> Rows:
    """The vectors and their companions; raises `Problem` 422."""
    column = table.column("vector")
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not pa.types.is_floating(kind.value_type):
        raise _invalid(f"vector is {kind}", f"vector is fixed_size_list<float>[{DIM}]")
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
    bad = np.flatnonzero(lengths != DIM)
    if bad.size:
        raise _invalid(
            f"row {bad[0]} has {max(int(lengths[bad[0]]), 0)} numbers", f"a fingerprint has {DIM}, none null"
        )
    flat = pc.list_flatten(column)
    with np.errstate(over="ignore"):
        vectors = flat.to_numpy().astype(np.float32).reshape(-1, DIM)
    values = {name: _numbers(table, name) for name in COMPANIONS}
    return Rows(
        vectors=vectors,
        context_len=np.nan_to_num(values["context_len"], nan=0).astype(np.int64),
        sink_mass=values["sink_mass"].astype(np.float32),
        periodicity=values["periodicity"].astype(np.float32),
    )


def places_from_table(table: pa.Table, *, now_us: int) -> list[tuple[str, int, int]]:
    """(request_id, step, captured_at_us) of each row; raises `Problem` 422."""
    ids = table.column("request_id")
    if not pa.types.is_string(ids.type) or ids.null_count:
        raise _invalid(f"request_id is {ids.type} with {ids.null_count} nulls", "request_id is utf8 without nulls")
    limits = pc.min_max(pc.utf8_length(ids)).as_py()
    if limits["min"] < 1 or limits["max"] > MAX_ID_CHARS:
        raise _invalid("a request_id is empty or too long", f"a request_id has 1 to {MAX_ID_CHARS} characters")
    steps, at_us = _numbers(table, "step"), _numbers(table, "captured_at_us")
    if np.isnan(steps).any():
        raise _invalid("a step is null", "step counts output tokens from 0")
    at_us = np.where(np.isnan(at_us), now_us, at_us)
    return list(zip(ids.to_pylist(), steps.astype(int).tolist(), at_us.astype(int).tolist(), strict=True))


def _numbers(table: pa.Table, name: str) -> Any:
    """The column as float64 [m] (exact to 2^53, as its limits are), NaN where it is null or missing."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column = table.column(name)
    whole = name in ("context_len", "step", "captured_at_us")
    fits = pa.types.is_integer(column.type) if whole else pa.types.is_floating(column.type)
    if not fits and not pa.types.is_null(column.type):
        raise _invalid(f"{name} is {column.type}", f"{name} is {'an integer' if whole else 'a float'} column")
    least, most = _LIMITS[name]
    values = column.cast(pa.float64(), safe=False).to_numpy()
    known = column.is_valid().to_numpy()
    bad = np.flatnonzero(known & ~((values >= least) & (values <= most)))
    if bad.size:
        raise _invalid(f"row {bad[0]} has {name} {values[bad[0]]:.15g}", f"{name} lies between {least} and {most}")
    return values


def _check_messages(body: bytes) -> None:
    """Raise `ValueError` where it is anything but a schema followed by plain record batches."""
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(body))
    if messages.read_next_message().type != "schema":
        raise ValueError("it does not begin with a schema")
    for message in messages:
        if message.type != "record batch":
            raise ValueError(f"it holds a {message.type}; encode columns plainly")
        if is_compressed_batch(message):
            raise ValueError("compressed batches are not taken: send them plain")


def _invalid(detail: str, mend: str) -> Problem:
    return Problem(422, "body-invalid", title="The body is not what this endpoint takes", detail=detail, mend=mend)
