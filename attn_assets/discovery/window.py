"""The rows of a window as arrays: what the algorithms take, from the Arrow tables that the assets hand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from attn_core import row_loops
from attn_core.features import features_from_vectors
from attn_core.fingerprint import DIM
from attn_core.head_projection import NUM_EVIDENCE, NUM_SKETCH

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Window:
    """m rows: vectors, their companions as they came and with nothing missing, their averages and their sketches."""

    vectors: F32
    given_context_len: npt.NDArray[np.float64]
    """0 where it is not known."""
    given_sink_mass: npt.NDArray[np.float64]
    """NaN where it is not known."""
    given_periodicity: npt.NDArray[np.float64]
    context_len: npt.NDArray[np.int64]
    """The likeliest value where it is not known, as the served classifier takes it."""
    sink_mass: F32
    features: F32
    """[m, 21], the averages as they are (`attn_core.features`)."""
    sketch: F32
    """[m, 16], NaN in rows that have none or say not of which matrix."""
    zone_evidence: F32
    """[m, 5], NaN in the same rows."""
    projections: tuple[str, ...]
    """[p], hashes of the matrices that made the sketches."""
    projection_no: npt.NDArray[np.int64]
    """[m], index into `projections`, -1 for rows without a sketch."""

    @property
    def complete(self) -> npt.NDArray[np.bool_]:
        """[m], rows that came with all their companions."""
        known: npt.NDArray[np.bool_] = (self.given_context_len >= 1) & ~np.isnan(self.given_sink_mass)
        return known & ~np.isnan(self.given_periodicity)


def window_from_table(table: pa.Table) -> Window:
    """The arrays of a table with the columns vector, context_len, sink_mass and periodicity.

    The columns head_sketch, zone_evidence and head_projection may be there too.
    """
    vectors = vectors_from_table(table)
    given: dict[str, Any] = {name: _floats(table, name) for name in ("context_len", "sink_mass", "periodicity")}
    given["context_len"] = np.nan_to_num(given["context_len"], nan=0.0)
    context_len, sink_mass = given["context_len"].copy(), given["sink_mass"].copy()
    row_loops.likeliest_rows(vectors, context_len, sink_mass)
    return Window(
        vectors=vectors,
        **{f"given_{name}": values for name, values in given.items()},
        context_len=context_len.astype(np.int64),
        sink_mass=sink_mass.astype(np.float32),
        features=features_from_vectors(vectors, context_len=context_len, sink_mass=sink_mass),
        **_sketches(table),
    )


def _sketches(table: pa.Table) -> dict[str, Any]:
    count = table.num_rows
    found: dict[str, Any] = {
        "sketch": np.full((count, NUM_SKETCH), np.nan, dtype=np.float32),
        "zone_evidence": np.full((count, NUM_EVIDENCE), np.nan, dtype=np.float32),
        "projections": (),
        "projection_no": np.full(count, -1, dtype=np.int64),
    }
    if "head_sketch" not in table.column_names:
        return found
    columns = {name: table.column(name).combine_chunks() for name in ("head_sketch", "zone_evidence")}
    named = table.column("head_projection").combine_chunks().dictionary_encode()
    there = pc.and_(pc.is_valid(named), pc.is_valid(columns["head_sketch"]))
    there = np.asarray(pc.and_(there, pc.is_valid(columns["zone_evidence"])), dtype=np.bool_)
    if not there.any():
        return found
    rows = np.flatnonzero(there)
    found["projection_no"][rows] = np.asarray(named.indices.fill_null(-1), dtype=np.int64)[rows]
    for name, kept in (("head_sketch", "sketch"), ("zone_evidence", "zone_evidence")):
        flat = columns[name].filter(pa.array(there)).flatten().to_numpy(zero_copy_only=False)
        found[kept][rows] = flat.astype(np.float32).reshape(len(rows), -1)
    return {**found, "projections": tuple(named.dictionary.to_pylist())}


def vectors_from_table(table: pa.Table) -> F32:
    """float32 [m, 20] of the `vector` column."""
    flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(table.num_rows, DIM)


def numbered(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """[m], a number from 0 on for each of a column's values, in the order of their first appearance."""
    codes = column.combine_chunks().dictionary_encode()
    return np.asarray(codes.indices, dtype=np.int64)


def rows_between(table: pa.Table, *, start_us: int, end_us: int, max_id: int | None) -> pa.Table:
    """Rows captured in [start_us, end_us), with an id of at most `max_id` where given, by instant and id."""
    at = table.column("captured_at_us")
    keep = pc.and_(pc.greater_equal(at, start_us), pc.less(at, end_us))
    if max_id is not None:
        keep = pc.and_(keep, pc.less_equal(table.column("id"), max_id))
    return table.filter(keep).sort_by([("captured_at_us", "ascending"), ("id", "ascending")])


def _floats(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    column = pc.cast(table.column(name), pa.float64())
    return np.array(pc.fill_null(column, float("nan")).to_numpy(), dtype=np.float64)
