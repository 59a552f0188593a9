"""The Arrow tables that a run hands on and publishes, and the facts (JSON) that travel in a table's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_assets.discovery.apart import FIGURE_TYPE, figures_apart, tokens_apart
from attn_assets.discovery.embedding import Embedding
from attn_assets.discovery.grouping import Grouping
from attn_assets.discovery.labelling import ClusterZones
from attn_assets.discovery.lineage import NOISE, Lineage
from attn_assets.discovery.prototypes import exemplar_rows, spread_over
from attn_assets.discovery.window import Window
from attn_core.classify import cluster_label
from attn_core.fingerprint import DIM
from attn_core.space import Space
from attn_core.zones import CHARACTERISTICS, ZONES, ScoredZones

F32 = npt.NDArray[np.float32]
_FACTS = b"attn_facts"


def with_facts(table: pa.Table, facts: Mapping[str, Any]) -> pa.Table:
    """The table carrying these JSON values."""
    return table.replace_schema_metadata({_FACTS: json.dumps(dict(facts), allow_nan=False)})


def facts_of(table: pa.Table) -> dict[str, Any]:
    """What `with_facts` put in; empty where nothing was."""
    found: dict[str, Any] = json.loads((table.schema.metadata or {}).get(_FACTS, b"{}"))
    return found


def vector_array(vectors: F32) -> pa.FixedSizeListArray:
    """float32 [m, 20] as an Arrow column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors, np.float32).ravel()), DIM)


def zone_array(zone_index: npt.NDArray[np.int8]) -> pa.DictionaryArray:
    """Zone names, dictionary-encoded."""
    return pa.DictionaryArray.from_arrays(pa.array(zone_index, pa.int8()), pa.array(ZONES, pa.string()))


def located_rows(rows: pa.Table, embedding: Embedding, *, is_first: npt.NDArray[np.bool_]) -> pa.Table:
    """The window's rows with their place on the map, whether it was fitted on them, and whether none before equals."""
    x, y = embedding.positions.T
    for name, column in (("x", x), ("y", y), ("in_sample", embedding.in_sample), ("is_first", is_first)):
        rows = rows.append_column(name, pa.array(column))
    return rows


def space_of(located: pa.Table) -> Space:
    """The space that the rows were put in."""
    return Space.from_json(facts_of(located)["space"])


def embedding_of(located: pa.Table) -> Embedding:
    """The inverse of `located_rows`."""
    positions = np.column_stack([located.column("x").to_numpy(), located.column("y").to_numpy()])
    in_sample = np.asarray(located.column("in_sample").to_numpy(), dtype=np.bool_)
    return Embedding(positions=positions.astype(np.float32), in_sample=in_sample)


def cluster_tables(grouping: Grouping, lineage: Lineage) -> dict[str, pa.Table]:
    """`points`: one row a fingerprint, in the window's order. `clusters`: one row a cluster, in the order of labels."""
    ancestry, ids = lineage.clusters, np.append(lineage.ids, np.int32(NOISE)).astype(np.int32)
    sizes = np.bincount(grouping.labels[grouping.labels >= 0], minlength=len(ancestry))
    clusters = pa.table(
        {
            "cluster_id": pa.array(lineage.ids, pa.int32()),
            "size": pa.array(sizes, pa.int64()),
            "stability": pa.array(grouping.persistence, pa.float32()),
            "event": pa.array([one.event for one in ancestry], pa.string()),
            "parents": pa.array([list(one.parents) for one in ancestry], pa.list_(pa.int32())),
            "overlap": pa.array([one.overlap for one in ancestry], pa.float32()),
        }
    )
    points = pa.table(
        {
            "cluster_id": pa.array(ids[grouping.labels], pa.int32()),
            "former_cluster_id": pa.array(lineage.former, mask=lineage.former == NOISE),
        }
    )
    return {"points": points, "clusters": clusters}


def labels_of(tables: Mapping[str, pa.Table]) -> npt.NDArray[np.int32]:
    """Run labels (0..c-1, -1 noise) of the points, from the stable ids of `cluster_tables`."""
    ids = tables["clusters"].column("cluster_id").to_numpy()
    of_points = tables["points"].column("cluster_id").to_numpy()
    order = np.argsort(ids)
    labels = np.full(len(of_points), -1, dtype=np.int32)
    inside = of_points >= 0
    labels[inside] = order[np.searchsorted(ids, of_points[inside], sorter=order)]
    return labels


def zone_tables(
    *, cluster_ids: npt.NDArray[np.int32], zones: ClusterZones, zone_index: npt.NDArray[np.int8], confidence: F32
) -> dict[str, pa.Table]:
    """`points` (zone, confidence), `clusters` (zone, zone_score: the share of its members, zone_margin), `zone_labels`
    (a row a cluster and zone)."""
    chosen, every = zones.zone_index, np.arange(len(cluster_ids))
    clusters = pa.table(
        {
            "cluster_id": pa.array(cluster_ids, pa.int32()),
            "zone": zone_array(chosen),
            "zone_score": pa.array(zones.shares[every, chosen], pa.float32()),
            "zone_margin": pa.array(zones.margins[every, chosen], pa.float32()),
        }
    )
    count = len(ZONES)
    labels = pa.table(
        {
            "cluster_id": pa.array(np.repeat(cluster_ids, count), pa.int32()),
            "zone": pa.array(ZONES * len(cluster_ids), pa.string()),
            "score": pa.array(zones.shares.ravel(), pa.float32()),
            "margin": pa.array(zones.margins.ravel(), pa.float32()),
            "evidence": pa.array([json.dumps(reason) for reason in zones.evidence for _ in range(count)], pa.string()),
        }
    )
    points = pa.table({"zone": zone_array(zone_index), "confidence": pa.array(confidence, pa.float32())})
    return {"points": points, "clusters": clusters, "zone_labels": labels}


def bundle_tables(
    *,
    located: pa.Table,
    window: Window,
    clusters: Mapping[str, pa.Table],
    zones: Mapping[str, pa.Table],
    sample: npt.NDArray[np.int64],
    points: F32,
) -> dict[str, pa.Table]:
    """The four tables of a bundle by name.

    Prototypes and exemplars are among `sample`, int64 [s], rows of the window that lie at `points` [s, d] in its space
    and hold a member of every cluster.
    """
    labels = labels_of(clusters)
    positions = embedding_of(located).positions
    embeddings = pa.table(
        {
            **{name: located.column(name) for name in ("request_id", "step", "captured_at_us", "token_text", "x", "y")},
            "cluster_id": clusters["points"].column("cluster_id"),
            "zone": zones["points"].column("zone"),
            "confidence": zones["points"].column("confidence"),
            "context_len": located.column("context_len"),
            "former_cluster_id": clusters["points"].column("former_cluster_id"),
        }
    )
    ids = clusters["clusters"].column("cluster_id").to_numpy()
    prototypes = spread_over(points, labels[sample], num_clusters=len(ids), seed=0)
    nearest = sample[prototypes.row]
    prototype_table = pa.table(
        {
            "cluster_id": pa.array(ids[prototypes.cluster], pa.int32()),
            "vector": vector_array(window.vectors[nearest]),
            "x": pa.array(positions[nearest, 0]),
            "y": pa.array(positions[nearest, 1]),
        }
    )
    return {
        "embeddings": embeddings,
        "clusters": _published_clusters(
            located,
            window,
            clusters,
            zones,
            labels,
            exemplars=exemplar_rows(prototypes, points, labels[sample], num_clusters=len(ids)),
            sample=sample,
            positions=positions,
        ),
        "prototypes": prototype_table,
        "requests": request_table(located, zones["points"].column("zone"), clusters["requests"], zones["requests"]),
    }


def _published_clusters(
    located: pa.Table,
    window: Window,
    clusters: Mapping[str, pa.Table],
    zones: Mapping[str, pa.Table],
    labels: npt.NDArray[np.int32],
    *,
    exemplars: list[list[int]],
    sample: npt.NDArray[np.int64],
    positions: F32,
) -> pa.Table:
    found, zone = clusters["clusters"], zones["clusters"]
    count = found.num_rows
    sizes = np.maximum(np.bincount(labels[labels >= 0], minlength=count), 1)[:, None]
    columns = np.column_stack([window.vectors, positions]).astype(np.float64)
    sums = np.zeros((count, columns.shape[1]))
    np.add.at(sums, labels[labels >= 0], columns[labels >= 0])
    centre = (sums / sizes).astype(np.float32)
    request_ids, steps = located.column("request_id"), located.column("step")
    shown = [
        [{"request_id": request_ids[row].as_py(), "step": steps[row].as_py()} for row in sample[rows].tolist()]
        for rows in exemplars
    ]
    lineage = [
        {"event": event, "parents": parents, "overlap": overlap}
        for event, parents, overlap in zip(
            *(found.column(name).to_pylist() for name in ("event", "parents", "overlap")), strict=True
        )
    ]
    parents_type = pa.struct([("event", pa.string()), ("parents", pa.list_(pa.int32())), ("overlap", pa.float32())])
    exemplar_type = pa.list_(pa.struct([("request_id", pa.string()), ("step", pa.int32())]))
    return pa.table(
        {
            "cluster_id": found.column("cluster_id"),
            "cluster_label": pa.array([cluster_label(i) for i in found.column("cluster_id").to_pylist()], pa.string()),
            "size": found.column("size"),
            "zone": zone.column("zone").cast(pa.string()),
            "zone_score": zone.column("zone_score"),
            "zone_margin": zone.column("zone_margin"),
            "centroid": vector_array(centre[:, :DIM]),
            "centroid_x": pa.array(centre[:, DIM]),
            "centroid_y": pa.array(centre[:, DIM + 1]),
            "stability": found.column("stability"),
            "exemplars": pa.array(shown, exemplar_type),
            "apart": pa.array(
                figures_apart(located, labels, found.column("cluster_id").to_numpy(), zones["zone_labels"]), FIGURE_TYPE
            ),
            "tokens": pa.array(tokens_apart(located, labels, count), pa.list_(pa.string())),
            "lineage": pa.array(lineage, parents_type),
        }
    )


def request_table(located: pa.Table, zone: pa.ChunkedArray, mapped: pa.Table, zoned: pa.Table) -> pa.Table:
    """One row a request: how many tokens, their mean map position, the share of each zone among them, the request's
    place on the map of requests, `mapped` (request_id, map_x, map_y), and its own zone, `zoned` (request_id, zone,
    zone_confidence).
    """
    index = zone.combine_chunks()
    codes = np.asarray(index.indices) if isinstance(index, pa.DictionaryArray) else np.zeros(0, np.int8)
    shares = {f"share_{name}": pa.array((codes == i).astype(np.float32)) for i, name in enumerate(ZONES)}
    flat = pa.table({name: located.column(name) for name in ("request_id", "model_id", "x", "y")} | shares)
    means = ["x", "y", *shares]
    grouped = flat.group_by("request_id", use_threads=False).aggregate(
        [("model_id", "first"), ("request_id", "count"), *((name, "mean") for name in means)]
    )
    named = {
        "request_id": grouped.column("request_id"),
        "model_id": grouped.column("model_id_first"),
        "num_tokens": grouped.column("request_id_count"),
        **{name: grouped.column(f"{name}_mean").cast(pa.float32()) for name in means},
        # All in the order in which the requests first appear.
        **{name: mapped.column(name) for name in ("map_x", "map_y")},
        **{name: zoned.column(name) for name in ("zone", "zone_confidence")},
    }
    return pa.table(named)


def request_zone_table(request_ids: pa.Array, zones: ScoredZones) -> pa.Table:
    """A row a request: request_id, zone, zone_confidence."""
    return pa.table(
        {
            "request_id": request_ids,
            "zone": zone_array(zones.zone_index).cast(pa.string()),
            "zone_confidence": pa.array(zones.confidence, pa.float32()),
        }
    )


def reading(zones: Mapping[str, pa.Table], cluster_id: int) -> str:
    """A cluster's evidence in words: the characteristic that sets it apart most, for people."""
    table = zones["zone_labels"]
    rows = table.filter(np.asarray(table.column("cluster_id")) == cluster_id)
    if rows.num_rows == 0:
        return ""
    reason = json.loads(rows.column("evidence")[0].as_py())
    name = max(CHARACTERISTICS, key=lambda key: abs(reason[key]["lift"]))
    return f"{name} {reason[name]['mean']:.2f} (usual {reason[name]['usual']:.2f}, {reason[name]['lift']:+.1f} spreads)"
