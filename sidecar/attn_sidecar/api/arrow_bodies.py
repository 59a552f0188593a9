"""Fingerprints that come as an Arrow IPC stream: checked message by message before Arrow unpacks anything."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attn_core.fingerprint import DIM, MAX_CONTEXT_LEN
from attn_core.head_projection import NUM_EVIDENCE, NUM_SKETCH, SKETCH_LARGEST
from attn_core.wire import is_compressed_batch
from attn_sidecar.admission import LATEST_INSTANT_US, MAX_ID_CHARS, why_no_instant
from attn_sidecar.api.bodies import HALF_A_SKETCH, PROJECTION_PATTERN
from attn_sidecar.api.problems import Problem
from attn_sidecar.classification import PostedSketch, Rows

COMPANIONS = ("context_len", "sink_mass", "periodicity")
SKETCH_PARTS = ("head_sketch", "zone_evidence", "head_projection")
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


def rows_from_table(table: pa.Table) -> tuple[Rows, dict[int, str]]:
    """The vectors and their companions, and by row why one is no fingerprint; its vector is all NaN.

    Raises `Problem` 422 where a column is of another type, or no row is readable.
    """
    column = table.column("vector").combine_chunks()
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not pa.types.is_floating(kind.value_type):
        raise _invalid(f"vector is {kind}", f"vector is fixed_size_list<float>[{DIM}]")
    refused: dict[int, str] = {}
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    whole = lengths == DIM
    for i in np.flatnonzero(~whole).tolist():
        refused[i] = f"vector has {max(int(lengths[i]), 0)} numbers; a fingerprint has {DIM}, none null"
    flat = pc.list_flatten(column.filter(pa.array(whole)))
    vectors = np.full((table.num_rows, DIM), np.nan, dtype=np.float32)
    with np.errstate(over="ignore"):
        vectors[whole] = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, DIM)
    values = {name: _numbers(table, name, refused) for name in COMPANIONS}
    if len(refused) == table.num_rows:
        raise _invalid(f"row 0: {refused[0]}", "no row is a fingerprint; see GET /openapi.json")
    return Rows(
        vectors=vectors,
        context_len=np.nan_to_num(values["context_len"], nan=0).astype(np.int64),
        sink_mass=values["sink_mass"].astype(np.float32),
        periodicity=values["periodicity"].astype(np.float32),
    ), refused


def sketches_from_table(table: pa.Table) -> tuple[list[PostedSketch | None], dict[int, str]]:
    """The head sketch of each row, None where it has none whole, and by row what is wrong with it.

    Raises `Problem` 422 where a column is of another type.
    """
    refused: dict[int, str] = {}
    sketch = _sketch_numbers(table, "head_sketch", NUM_SKETCH, refused)
    evidence = _sketch_numbers(table, "zone_evidence", NUM_EVIDENCE, refused)
    names: list[str | None] = [None] * table.num_rows
    if "head_projection" in table.column_names:
        column = table.column("head_projection")
        if not pa.types.is_string(column.type) and not pa.types.is_null(column.type):
            raise _invalid(f"head_projection is {column.type}", "head_projection is utf8")
        names = column.to_pylist()
    found: list[PostedSketch | None] = []
    for i, (numbers, proof, name) in enumerate(zip(sketch, evidence, names, strict=True)):
        if name is not None and not re.fullmatch(PROJECTION_PATTERN, name):
            refused.setdefault(i, "head_projection is no SHA-256 in hexadecimal digits")
        if i not in refused and numbers is not None and proof is not None and name is not None:
            found.append(PostedSketch(head_sketch=numbers, zone_evidence=proof, head_projection=name))
        else:
            found.append(None)
            if (numbers, proof, name) != (None, None, None):
                refused.setdefault(i, HALF_A_SKETCH)
    return found, refused


def _sketch_numbers(table: pa.Table, name: str, width: int, refused: dict[int, str]) -> list[Any]:
    """The lists of this column, None where null or missing; rows with other numbers than a sketch's go to `refused`."""
    if name not in table.column_names:
        return [None] * table.num_rows
    kind = table.schema.field(name).type
    lists = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    if not pa.types.is_null(kind) and not (lists and pa.types.is_floating(kind.value_type)):
        raise _invalid(f"{name} is {kind}", f"{name} is fixed_size_list<halffloat>[{width}]")
    rows: list[Any] = table.column(name).to_pylist()
    for i, row in enumerate(rows):
        if row is not None and not (
            len(row) == width and all(one is not None and abs(one) <= SKETCH_LARGEST for one in row)
        ):
            refused.setdefault(i, f"{name} has {width} numbers within +-{SKETCH_LARGEST:.0f}, none null")
    return rows


def places_from_table(table: pa.Table, *, now_us: int) -> tuple[list[tuple[str, int, int]], dict[int, str]]:
    """(request_id, step, captured_at_us) of each row, and by row why it has no place.

    Raises `Problem` 422 where a column is of another type, or no row has a place.
    """
    ids = table.column("request_id").combine_chunks()
    if not pa.types.is_string(ids.type):
        raise _invalid(f"request_id is {ids.type}", "request_id is utf8")
    refused: dict[int, str] = {}
    lengths = pc.fill_null(pc.utf8_length(ids), 0).to_numpy(zero_copy_only=False)
    for i in np.flatnonzero((lengths < 1) | (lengths > MAX_ID_CHARS)).tolist():
        refused[i] = f"a request_id has 1 to {MAX_ID_CHARS} characters"
    steps, at_us = _numbers(table, "step", refused), _numbers(table, "captured_at_us", refused)
    for i in np.flatnonzero(np.isnan(steps)).tolist():
        refused.setdefault(i, "step is null; it counts output tokens from 0")
    at_us = np.where(np.isnan(at_us), now_us, at_us)
    for i, at in enumerate(at_us.astype(int).tolist()):
        if i not in refused and (reason := why_no_instant(at, now_us=now_us)) is not None:
            refused[i] = reason
    if len(refused) == table.num_rows:
        raise _invalid(f"row 0: {refused[0]}", "no row has a place; see GET /openapi.json")
    steps = np.nan_to_num(steps, nan=0)
    return list(
        zip(pc.fill_null(ids, "").to_pylist(), steps.astype(int).tolist(), at_us.astype(int).tolist(), strict=True)
    ), refused


def _numbers(table: pa.Table, name: str, refused: dict[int, str]) -> Any:
    """The column as float64 [m] (exact to 2^53, as its limits are), NaN where it is null, missing or out of bounds.

    The rows that are out of bounds are added to `refused`. Raises `Problem` 422 where the column is of another type.
    """
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column = table.column(name)
    whole = name in ("context_len", "step", "captured_at_us")
    fits = pa.types.is_integer(column.type) if whole else pa.types.is_floating(column.type)
    if not fits and not pa.types.is_null(column.type):
        raise _invalid(f"{name} is {column.type}", f"{name} is {'an integer' if whole else 'a float'} column")
    least, most = _LIMITS[name]
    values = np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    known = column.is_valid().to_numpy()
    for i in np.flatnonzero(known & ~((values >= least) & (values <= most))).tolist():
        refused.setdefault(i, f"{name} is {values[i]:.15g}; it lies between {least} and {most}")
        values[i] = np.nan
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
