"""The points of one run, held by columns in order of rank, and the part of them that a view asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from attn_core.zones import ZONES
from attn_sidecar.map.mapped import mapped
from attn_sidecar.map.ranking import keys_of, order_of

ROWS_A_BATCH = 65_536
_FEW_CLUSTERS = 2**15
I64 = npt.NDArray[np.int64]

DEFAULT_COLUMNS = ("x", "y", "zone", "cluster_id", "point")
"""What a map is drawn from: 15 bytes a point (17 with more than 32,768 clusters)."""
COLUMNS = (
    *DEFAULT_COLUMNS,
    *("confidence", "context_len", "captured_at_us", "request_id", "step", "token_text", "model_id"),
)
_TEXTS = ("request_id", "token_text", "model_id")


_VALID: tuple[tuple[str, float, float], ...] = (
    ("x", -1e9, 1e9), ("y", -1e9, 1e9), ("step", 0, 2**31 - 1), ("cluster_id", -1, 2**31 - 1), ("confidence", 0, 1),
    ("captured_at_us", 0, 2**53 - 1),
)  # fmt: skip
"""Columns that every point has, and the least and greatest value that its kind can take."""


def _check_values(table: pa.Table) -> None:
    """Raise `ValueError` where a point has a value that no map of ours holds."""
    for name, least, most in _VALID:
        column = table.column(name)
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise ValueError(f"embeddings.parquet: {name} is a column of {column.type}")
        values = column.to_numpy()
        # Null becomes NaN, which compares false with everything.
        bad = np.flatnonzero(~((values >= least) & (values <= most)))
        if bad.size:
            raise ValueError(f"embeddings.parquet: point {bad[0]} has {name} {values[bad[0]]}: {least:g} to {most:g}")


@dataclass(frozen=True, kw_only=True)
class View:
    """What of a map is looked at. None: no bound. A box holds its lower edges and not its upper ones."""

    x0: float | None = None
    x1: float | None = None
    y0: float | None = None
    y1: float | None = None
    start_us: int | None = None
    """First capture instant."""
    end_us: int | None = None
    """Exclusive."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return all(bound is None for bound in vars(self).values())


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Points chosen from a map, in order of rank."""

    num_points: int
    """In the view."""
    num_returned: int
    strata: list[dict[str, int | str]]
    """``{"cluster_id", "zone", "num_points", "num_returned"}`` for each kind of point in the view."""
    rows: I64 | None
    """Places in the ranked columns; None for the first `num_returned`."""


class PointMap:
    """One run's points. Immutable; `columns` is an Arrow table in order of rank."""

    def __init__(self, columns: pa.Table, *, run_id: str) -> None:
        self.run_id = run_id
        self.columns = columns
        self.num_points = columns.num_rows
        self._x, self._y = (self._numbers(name) for name in ("x", "y"))
        zone = columns.column("zone").chunk(0) if self.num_points else None
        cluster = columns.column("cluster_id").chunk(0) if self.num_points else None
        self.zone_codes = np.zeros(0, np.int8) if zone is None else zone.indices.to_numpy()
        self._cluster_codes = np.zeros(0, np.int16) if cluster is None else cluster.indices.to_numpy()
        self._cluster_ids: list[int] = [] if cluster is None else cluster.dictionary.to_pylist()

    @classmethod
    def load(cls, path: Path, *, run_id: str) -> PointMap:
        """The map in a bundle's directory; raises `KeyError`, `ValueError`, `OSError` or an Arrow error."""
        table = pq.read_table(path / "embeddings.parquet", read_dictionary=["request_id", "token_text"])
        _check_values(table)
        return cls(mapped(_ranked(table.combine_chunks(), model_by_request=_models(path))), run_id=run_id)

    def without_texts(self) -> PointMap:
        """The same map, with null for every token's text."""
        at = self.columns.schema.get_field_index("token_text")
        field = self.columns.schema.field(at)
        nulls = pa.nulls(self.num_points, pa.string()).dictionary_encode().cast(field.type)
        return PointMap(self.columns.set_column(at, field, nulls), run_id=self.run_id)

    def _numbers(self, name: str) -> npt.NDArray[np.floating]:
        values: npt.NDArray[np.floating] = self.columns.column(name).to_numpy()
        return values

    @cached_property
    def extent(self) -> tuple[float, float, float, float]:
        """x0, x1, y0, y1 of all points (x1 and y1 included); zeros without any."""
        if not self.num_points:
            return 0.0, 0.0, 0.0, 0.0
        return float(self._x.min()), float(self._x.max()), float(self._y.min()), float(self._y.max())

    def places_of(self, view: View) -> I64 | None:
        """Places of the points in the view, ascending; None for all of them."""
        if view.is_whole:
            return None
        inside = np.ones(self.num_points, dtype=np.bool_)
        at_us = self._numbers("captured_at_us") if view.start_us is not None or view.end_us is not None else self._x
        bounds: list[tuple[npt.NDArray[np.floating], float | None, float | None]] = [
            (self._x, view.x0, view.x1),
            (self._y, view.y0, view.y1),
            (at_us, view.start_us, view.end_us),
        ]
        # An edge past float32's range becomes infinite, which compares as it should.
        with np.errstate(over="ignore"):
            for values, low, high in bounds:
                if low is not None:
                    inside &= values >= low
                if high is not None:
                    inside &= values < high
        return np.flatnonzero(inside)

    def select(self, view: View, *, max_points: int | None) -> Selection:
        """At most `max_points` of the view's points: the first by rank, so that a larger answer holds a smaller one."""
        places = self.places_of(view)
        num_points = self.num_points if places is None else len(places)
        num_returned = num_points if max_points is None else min(num_points, max_points)
        rows = None if places is None else places[:num_returned]
        seen = slice(None) if places is None else places
        taken = slice(0, num_returned) if rows is None else rows
        return Selection(num_points=num_points, num_returned=num_returned, strata=self._strata(seen, taken), rows=rows)

    def _strata(self, seen: I64 | slice, taken: I64 | slice) -> list[dict[str, int | str]]:
        codes = self._cluster_codes.astype(np.int64) * len(ZONES) + self.zone_codes
        size = max(1, len(self._cluster_ids) * len(ZONES))
        in_view, returned = (np.bincount(codes[part], minlength=size) for part in (seen, taken))
        return [
            {
                "cluster_id": self._cluster_ids[int(code) // len(ZONES)],
                "zone": ZONES[int(code) % len(ZONES)],
                "num_points": int(in_view[code]),
                "num_returned": int(returned[code]),
            }
            for code in np.flatnonzero(in_view)
        ]

    @property
    def request_codes(self) -> npt.NDArray[np.int32]:
        """A number for the request of each point: [m]."""
        held = self.columns.column("request_id")
        codes: npt.NDArray[np.int32] = held.chunk(0).indices.to_numpy() if self.num_points else np.zeros(0, np.int32)
        return codes

    @property
    def cluster_ids(self) -> npt.NDArray[np.int32]:
        """The cluster of each point, -1 for none: [m]."""
        ids: npt.NDArray[np.int32] = np.array(self._cluster_ids, dtype=np.int32)[self._cluster_codes]
        return ids

    def place_of_point(self, point: int) -> int | None:
        """Where the point of this number stands by rank, None where there is none."""
        found = np.flatnonzero(self._numbers("point") == point)
        return int(found[0]) if len(found) else None

    def batches(self, selection: Selection, *, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The selection's rows with these columns, in batches of `ROWS_A_BATCH`; the schema carries the counts."""
        table = self.columns.select(list(names))
        if selection.rows is None:
            table = table.slice(0, selection.num_returned)
        metadata = {
            "run_id": self.run_id,
            "num_points": str(selection.num_points),
            "num_returned": str(selection.num_returned),
            "strata": json.dumps(selection.strata),
            "extent": json.dumps(self.extent),
        }
        schema = table.schema.with_metadata(metadata)
        small = {name for name in names if name in _TEXTS and self._is_small(name, selection.num_returned)}
        if small:
            # A few points of a large map need not carry every request's id.
            table = self._taken(table, selection.rows)
            columns = [
                column.cast(pa.string()).dictionary_encode() if name in small else column
                for name, column in zip(table.column_names, table.columns, strict=True)
            ]
            table = pa.table(columns, names=table.column_names)
            yield from _batches(table.unify_dictionaries().combine_chunks().cast(schema), schema)
            return
        if selection.rows is None:
            yield from _batches(table, schema)
            return
        for start in range(0, max(1, len(selection.rows)), ROWS_A_BATCH):
            part = table.take(pa.array(selection.rows[start : start + ROWS_A_BATCH]))
            yield from _batches(part, schema)

    def _is_small(self, name: str, num_returned: int) -> bool:
        if not self.num_points:
            return False
        return num_returned < len(self.columns.column(name).chunk(0).dictionary)

    @staticmethod
    def _taken(table: pa.Table, rows: I64 | None) -> pa.Table:
        return table if rows is None else table.take(pa.array(rows))


def _batches(table: pa.Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in table.to_batches(max_chunksize=ROWS_A_BATCH) or [pa.RecordBatch.from_pylist([], schema=schema)]:
        yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def stream_of(batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    """The Arrow IPC stream of these batches (at least one), a piece a batch."""
    sink = _Pieces()
    first = next(batches)
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), first.schema) as writer:
        writer.write_batch(first)
        yield sink.drained()
        for batch in batches:
            writer.write_batch(batch)
            yield sink.drained()
    yield sink.drained()


class _Pieces:
    """A file that is written to and emptied."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def drained(self) -> bytes:
        """What was written since the last time."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _models(path: Path) -> dict[str, str | None]:
    """The model of each request, as far as the bundle says."""
    file = path / "requests.parquet"
    if not {"request_id", "model_id"} <= set(pq.read_schema(file).names):
        return {}
    table = pq.read_table(file, columns=["request_id", "model_id"])
    return dict(zip(table.column("request_id").to_pylist(), table.column("model_id").to_pylist(), strict=True))


def _ranked(table: pa.Table, *, model_by_request: dict[str, str | None]) -> pa.Table:
    """The columns of `COLUMNS` in order of rank."""
    # One dictionary for the whole answer, in the order of ZONES, so that a zone's code is the same in every run.
    code_by_zone = {zone: code for code, zone in enumerate(ZONES)}
    zones = _dictionary(table.column("zone"))
    to_code = np.array([code_by_zone[name] for name in zones.dictionary.to_pylist()], dtype=np.int8)
    zone_codes = to_code[zones.indices.to_numpy(zero_copy_only=False)] if len(zones) else np.zeros(0, np.int8)
    cluster_ids, cluster_codes = np.unique(table.column("cluster_id").to_numpy(), return_inverse=True)
    requests = _dictionary(table.column("request_id"))
    steps = table.column("step").to_numpy()
    order = order_of(cluster_codes * len(ZONES) + zone_codes, keys_of(requests, steps))
    narrow = np.int16 if len(cluster_ids) <= _FEW_CLUSTERS else np.int32
    models = [model_by_request.get(text) for text in requests.dictionary.to_pylist()]
    model_names = sorted({name for name in models if name is not None})
    number = {name: i for i, name in enumerate(model_names)}
    model_of_request = pa.array([None if name is None else number[name] for name in models], pa.int32())
    rows = pa.array(order)

    def plain(name: str, kind: pa.DataType) -> pa.Array:
        return table.column(name).cast(kind).combine_chunks().take(rows)

    def coded(codes: npt.NDArray[np.integer], values: pa.Array) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(codes[order]), values)

    made = {
        "x": plain("x", pa.float32()),
        "y": plain("y", pa.float32()),
        "zone": coded(zone_codes, pa.array(ZONES)),
        "cluster_id": coded(cluster_codes.astype(narrow), pa.array(cluster_ids, pa.int32())),
        "point": pa.array(order.astype(np.uint32)),
        "confidence": plain("confidence", pa.float32()),
        "context_len": plain("context_len", pa.int32()),
        "captured_at_us": plain("captured_at_us", pa.int64()),
        "request_id": requests.take(rows),
        "step": plain("step", pa.int32()),
        "token_text": _dictionary(table.column("token_text")).take(rows),
        "model_id": pa.DictionaryArray.from_arrays(
            model_of_request.take(requests.indices.take(rows)), pa.array(model_names, pa.string())
        ),
    }
    return pa.table({name: _one_chunk(made[name]) for name in COLUMNS})


def _dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """The column as one dictionary-encoded array of texts, its indices int32."""
    encoded = column if pa.types.is_dictionary(column.type) else column.cast(pa.string()).dictionary_encode()
    whole = encoded.unify_dictionaries().combine_chunks()
    array = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) and whole.num_chunks else whole
    if isinstance(array, pa.ChunkedArray):
        array = pa.array([], pa.dictionary(pa.int32(), pa.string()))
    return array.cast(pa.dictionary(pa.int32(), pa.string()))


def _one_chunk(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(array, pa.ChunkedArray):
        return array
    whole = array.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
