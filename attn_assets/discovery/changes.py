"""What became of each cluster from one run to the next, as a table: `lineage.parquet` of the bundle.

| column            | meaning                                                                                      |
|-------------------|----------------------------------------------------------------------------------------------|
| cluster_id        | the stable id; of a cluster that is gone, the one it had                                     |
| event             | born, split, merged, returned (see `lineage`), grown, shrunk, kept, or gone                  |
| parents           | ids of the last run that it comes from, the one carried over first                           |
| successor         | of a gone cluster: the cluster that holds most of its rows now; null where they are scattered |
| overlap           | Jaccard overlap with the first parent over the rows of both windows                          |
| size, size_before | rows in this run's window and in the last run's                                              |
| share, share_before | the same as shares of all rows of the window                                               |
"""

from __future__ import annotations

import pyarrow as pa

from attn_assets.discovery.lineage import MOST, NOISE, Lineage
from attn_assets.discovery.previous import Previous

GROWN = 1.2
"""A kept cluster whose share of the window is this many times the last one, or its inverse, has grown or shrunk."""
EVENTS = ("born", "split", "merged", "returned", "grown", "shrunk", "kept", "gone")
SCHEMA = pa.schema(
    [
        pa.field("cluster_id", pa.int32()),
        pa.field("event", pa.string()),
        pa.field("parents", pa.list_(pa.int32())),
        pa.field("successor", pa.int32()),
        pa.field("overlap", pa.float32()),
        pa.field("size", pa.int64()),
        pa.field("size_before", pa.int64()),
        pa.field("share", pa.float32()),
        pa.field("share_before", pa.float32()),
    ]
)


def lineage_table(lineage: Lineage, cluster_ids: pa.Array, previous: Previous) -> pa.Table:
    """A row for each cluster of this run, then one for each that is gone. `cluster_ids` [m]: -1 for noise."""
    now = _counts(cluster_ids)
    num_rows, num_before = max(len(cluster_ids), 1), max(previous.num_rows, 1)
    rows = []
    for one in lineage.clusters:
        size, before = now.get(one.cluster_id, 0), previous.sizes.get(one.cluster_id, 0)
        share, share_before = size / num_rows, before / num_before
        event = one.event
        if event == "kept" and share >= GROWN * share_before:
            event = "grown"
        elif event == "kept" and share * GROWN <= share_before:
            event = "shrunk"
        rows.append(
            {
                "cluster_id": one.cluster_id,
                "event": event,
                "parents": list(one.parents),
                "overlap": one.overlap,
                "size": size,
                "size_before": before,
                "share": share,
                "share_before": share_before,
            }
        )
    for old in lineage.gone:
        before = previous.sizes.get(old, 0)
        rows.append(
            {
                "cluster_id": old,
                "event": "gone",
                "parents": [old],
                "successor": _successor(cluster_ids, previous, old),
                "overlap": 0.0,
                "size": 0,
                "size_before": before,
                "share": 0.0,
                "share_before": before / num_before,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def counts_by_event(table: pa.Table) -> dict[str, int]:
    """How many clusters each of `EVENTS` befell."""
    found = table.column("event").to_pylist()
    return {event: found.count(event) for event in EVENTS}


def _successor(cluster_ids: pa.Array, previous: Previous, old: int) -> int | None:
    members = cluster_ids.filter(pa.array(previous.before == old))
    counted = _counts(members)
    if not counted:
        return None
    largest = max(counted, key=lambda one: counted[one])
    return largest if largest != NOISE and counted[largest] > MOST * len(members) else None


def _counts(cluster_ids: pa.Array) -> dict[int, int]:
    found = cluster_ids.value_counts().to_pylist()
    return {int(one["values"]): int(one["counts"]) for one in found}
