"""A map whose clusters are not clear: everything is shown but the clusters, and it is said why.

Clusters that the served classifier would not find again would name tokens at random. For first data that is no reason
to show nothing: the map and the zones rest on other grounds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from attn_assets.discovery.tables import facts_of, with_facts

Tables = Mapping[str, pa.Table]


def without_clusters(clusters: Tables, zones: Tables, *, agreement: float) -> tuple[Tables, Tables]:
    """The tables of `find_clusters` and `label_zones` with every row in no cluster.

    `agreement` is the share of held-out rows that the served classifier gave their cluster; it is kept among the
    metrics as `refused_cluster_agreement`.
    """
    points = clusters["points"]
    facts = facts_of(points)
    metrics = {**facts["metrics"], "num_clusters": 0, "noise_share": 1.0, "refused_cluster_agreement": agreement}
    for name in list(metrics):
        if name in ("num_born", "num_kept", "num_split", "num_merged", "num_returned", "validity"):
            del metrics[name]
    place = points.schema.get_field_index("cluster_id")
    none = pa.array(np.full(points.num_rows, -1), points.schema.field(place).type)
    points = points.set_column(place, points.schema.field(place), none)
    landmarks = clusters["landmarks"]
    landmarks = landmarks.set_column(1, "label", pa.array(np.full(landmarks.num_rows, -1), pa.int32()))
    emptied = {name: clusters[name].slice(0, 0) for name in ("clusters", "lineage")}
    return (
        {**clusters, **emptied, "landmarks": landmarks, "points": with_facts(points, {**facts, "metrics": metrics})},
        {**zones, **{name: zones[name].slice(0, 0) for name in ("clusters", "zone_labels")}},
    )


def note_of(metrics: Mapping[str, float | int]) -> str | None:
    """What a person is told of a run whose clusters were not clear, None of any other."""
    agreement = metrics.get("refused_cluster_agreement")
    if agreement is None:
        return None
    return (
        f"no clear clusters: of the clusters found, the served classifier would find only {agreement:.0%} of held-out "
        "tokens again, so none is shown. Map and zones are; more or more varied requests may bring clusters"
    )
