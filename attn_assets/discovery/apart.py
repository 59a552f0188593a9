"""What sets a cluster apart, for people: the figures in which it differs most, and the tokens that it has more of."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_core.zones import CHARACTERISTICS

NUM_FIGURES = 3
NUM_TOKENS = 6
LEAST_COUNT = 2
"""A text seen less often in a cluster says nothing of it."""
PRIOR_COUNT = 5.0
"""What the texts' shares overall weigh in a cluster, in tokens: else the rarest would come first."""
ALSO = ("sink_mass", "prompt_mass", "step")
"""Beside the zones' characteristics: numbers held against their mean over the window."""
FIGURE_TYPE = pa.list_(
    pa.struct([("name", pa.string()), ("mean", pa.float32()), ("usual", pa.float32()), ("lift", pa.float32())])
)


def figures_apart(
    located: pa.Table, labels: npt.NDArray[np.int32], cluster_ids: npt.NDArray[np.int32], zone_labels: pa.Table
) -> list[list[dict[str, object]]]:
    """For each of c clusters the `NUM_FIGURES` figures of the largest `lift`, the distance from `usual` in spreads."""
    evidence = dict(
        zip(zone_labels.column("cluster_id").to_pylist(), zone_labels.column("evidence").to_pylist(), strict=True)
    )
    also = {name: _lifts(located, name, labels, len(cluster_ids)) for name in ALSO}
    found = []
    for cluster, cluster_id in enumerate(cluster_ids.tolist()):
        told: Mapping[str, Mapping[str, float]] = json.loads(evidence[cluster_id])
        rows: list[dict[str, object]] = [{"name": name, **told[name]} for name in CHARACTERISTICS]
        rows += [
            {"name": name, "mean": float(mean[cluster]), "usual": usual, "lift": float(lift[cluster])}
            for name, (mean, usual, lift) in also.items()
        ]
        found.append(sorted(rows, key=lambda row: -abs(float(str(row["lift"]))))[:NUM_FIGURES])
    return found


def tokens_apart(located: pa.Table, labels: npt.NDArray[np.int32], num_clusters: int) -> list[list[str]]:
    """For each cluster the `NUM_TOKENS` texts of which it has most beyond the usual; none where texts are not kept."""
    encoded = located.column("token_text").combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    code = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64)
    if not texts:
        return [[] for _ in range(num_clusters)]
    known = code >= 0
    overall = np.bincount(code[known], minlength=len(texts)) / max(int(known.sum()), 1)
    found = []
    for cluster in range(num_clusters):
        mine = code[known & (labels == cluster)]
        counts = np.bincount(mine, minlength=len(texts))
        share = (counts + PRIOR_COUNT * overall) / (len(mine) + PRIOR_COUNT)
        # How much of the difference between the two distributions each text makes.
        weight = np.where(counts >= LEAST_COUNT, share * np.log(share / np.maximum(overall, 1e-12)), -np.inf)
        best = np.argsort(-weight, kind="stable")[:NUM_TOKENS]
        found.append([texts[k] for k in best if weight[k] > 0])
    return found


def _lifts(
    located: pa.Table, name: str, labels: npt.NDArray[np.int32], num_clusters: int
) -> tuple[npt.NDArray[np.float64], float, npt.NDArray[np.float64]]:
    """Each cluster's mean of a column, the mean over all rows, and their difference in standard deviations."""
    values = located.column(name).cast(pa.float64()).fill_null(float("nan")).to_numpy()
    there = ~np.isnan(values)
    usual = float(values[there].mean()) if there.any() else 0.0
    spread = float(values[there].std()) if there.any() else 0.0
    mine = there & (labels >= 0)
    count = np.bincount(labels[mine], minlength=num_clusters)
    sums = np.bincount(labels[mine], weights=values[mine], minlength=num_clusters)
    mean = np.where(count > 0, sums / np.maximum(count, 1), usual)
    return mean, usual, (mean - usual) / max(spread, 1e-9)
