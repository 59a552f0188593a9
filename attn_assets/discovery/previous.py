"""What the last published run says of this run's rows: where stable ids and the map's frame come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_assets.discovery.frame import FILE_NAME as FRAME
from attn_assets.discovery.frame import Anchors
from attn_assets.discovery.lineage import NOISE, UNSEEN
from attn_assets.discovery.renewal import LastMap
from attn_core.bundle import Bundle
from attn_core.errors import BundleError

FORMER = "former_cluster_id"
"""Column of `embeddings.parquet`: the cluster, gone since, that the row was last of; null for most rows."""
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Previous:
    """Each row's cluster in the last run, and the first id that no run has used."""

    run_id: str | None
    before: I32
    """[m], -1 noise, -2 not in that run's window."""
    former: I32
    """[m], the cluster that was gone by then and that the row had been of, -1 for none."""
    next_id: int
    sizes: Mapping[int, int]
    """Rows of each of that run's clusters, by id."""
    num_rows: int
    """Rows of that run's window."""


def previous_of(rows: pa.Table, bundle: Bundle | None) -> Previous:
    """`rows` has the columns request_id and step; without a bundle every row is unseen and ids start at 0."""
    if bundle is None:
        nothing = np.full(rows.num_rows, UNSEEN, dtype=np.int32)
        return Previous(
            run_id=None, before=nothing, former=np.full_like(nothing, NOISE), next_id=0, sizes={}, num_rows=0
        )
    old = bundle.table("embeddings")
    found, where = row_of_each(rows, old, keys=("request_id", "step"))
    before = np.full(rows.num_rows, UNSEEN, dtype=np.int32)
    before[found] = old.column("cluster_id").to_numpy()[where]
    former = np.full(rows.num_rows, NOISE, dtype=np.int32)
    if FORMER in old.column_names:
        former[found] = old.column(FORMER).fill_null(NOISE).to_numpy()[where]
    known = bundle.manifest.get("next_cluster_id")
    clusters = bundle.table("clusters").select(["cluster_id", "size"]).to_pydict()
    sizes = dict(zip(clusters["cluster_id"], clusters["size"], strict=True))
    next_id = int(known) if isinstance(known, int) else max(sizes, default=-1) + 1
    return Previous(
        run_id=bundle.run_id, before=before, former=former, next_id=next_id, sizes=sizes, num_rows=old.num_rows
    )


def rested_on(bundle: Bundle) -> str | None:
    """What the last run's map rests on (`attn_assets.discovery.frame.Anchors`); None: an older version's."""
    found = bundle.manifest.get("rests_on")
    return found if isinstance(found, str) else None


def last_map_of(rows: pa.Table, bundle: Bundle | None, *, rests_on: str) -> LastMap | None:
    """Where the last run's map had this window's rows, and its anchors; None without a bundle whose map rests on this.

    Places on a map of other sketches say nothing of this one.
    """
    if bundle is None or rested_on(bundle) != rests_on:
        return None
    old = bundle.table("embeddings")
    found, where = row_of_each(rows, old, keys=("request_id", "step"))
    return LastMap(positions=_positions(old, ("x", "y"), found, where), anchors=_anchors(bundle, FRAME))


def last_request_map_of(request_ids: pa.Array, bundle: Bundle | None, *, rests_on: str) -> LastMap | None:
    """The same for the map of requests, whose frame only the manifest tells of; an older version's bundle has none."""
    frame = None if bundle is None else bundle.manifest.get("request_frame")
    if bundle is None or not isinstance(frame, Mapping) or rested_on(bundle) != rests_on:
        return None
    old = bundle.table("requests")
    found, where = row_of_each(pa.table({"request_id": request_ids}), old, keys=("request_id",))
    birth = frame["trustworthiness_at_birth"]
    anchors = Anchors(
        features=np.zeros((0, 0), dtype=np.float32),
        rests_on=rests_on,
        positions=np.zeros((0, 2), dtype=np.float32),
        since_us=int(frame["since_us"]),
        trustworthiness=float("nan") if birth is None else float(birth),
    )
    return LastMap(positions=_positions(old, ("map_x", "map_y"), found, where), anchors=anchors)


def row_of_each(rows: pa.Table, old: pa.Table, *, keys: tuple[str, ...]) -> tuple[npt.NDArray[np.bool_], I64]:
    """Which rows the other table has too, bool [m], and for those in turn where in it.

    `keys` is a text column and perhaps a column of whole numbers below 2**32. Arrow's own join takes four times as
    long and loses the order.
    """
    ours, theirs = _numbered(rows, old, keys)
    if not len(theirs):
        return np.zeros(len(ours), dtype=np.bool_), np.zeros(0, dtype=np.int64)
    order = np.argsort(theirs, kind="stable")
    at = np.minimum(np.searchsorted(theirs[order], ours), len(theirs) - 1)
    found = theirs[order[at]] == ours
    return found, order[at][found].astype(np.int64)


def _numbered(rows: pa.Table, old: pa.Table, keys: tuple[str, ...]) -> tuple[I64, I64]:
    texts = pa.concat_arrays([*(part.cast(pa.string()) for t in (rows, old) for part in t.column(keys[0]).chunks)])
    number = np.asarray(texts.dictionary_encode().indices).astype(np.int64)
    for name in keys[1:]:
        whole = np.concatenate([table.column(name).to_numpy() for table in (rows, old)])
        number = number << 32 | whole
    return number[: rows.num_rows], number[rows.num_rows :]


def _positions(old: pa.Table, axes: tuple[str, str], found: npt.NDArray[np.bool_], where: I64) -> F32:
    positions = np.full((len(found), 2), np.nan, dtype=np.float32)
    positions[found] = np.column_stack([old.column(axis).to_numpy() for axis in axes])[where]
    return positions


def _anchors(bundle: Bundle, name: str) -> Anchors | None:
    if name not in bundle.manifest["files"]:
        return None
    try:
        return Anchors.load(bundle.path / name)
    except BundleError:
        # Of other features: its map is no frame for this one. That is said as the frame's event.
        return None
