"""What the map of a window says, in figures: of the context length nothing, of the kind of work something."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from attn_assets.discovery.apart import figures_apart, tokens_apart
from attn_assets.discovery.embedding import NoKeeper
from attn_assets.discovery.grouping import find_landmark_clusters
from attn_assets.discovery.learned_space import coordinates
from attn_assets.discovery.models import Models
from attn_assets.discovery.requests_map import request_features
from attn_assets.discovery.tables import facts_of, labels_of, space_of
from attn_assets.discovery.window import numbered, window_from_table
from attn_assets.settings import Settings
from attn_assets.stages import Tables, find_clusters, label_zones, landmarks_of, locate
from attn_core.store import open_reader, read_fingerprints
from attn_core.zones import ZONES
from study.collect import LABELS

NUM_FIFTHS = 5
NUM_FOLDS = 5
PRIOR_TOKENS = 10.0
"""What the kinds' overall shares weigh in each cluster, in tokens."""
NUM_RESAMPLED = 6
NUM_GROUPS = 12
"""Groups of requests that are held against their families."""
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure over several seeds or draws."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Mean, smallest and largest."""
        return cls(value=float(np.mean(values)), low=float(np.min(values)), high=float(np.max(values)))

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A window's rows whose prompts are known."""

    rows: pa.Table
    zone: I64
    """[m], index into `ZONES`: what the prompt is an example of."""
    family: npt.NDArray[np.str_]
    """[m]"""
    is_held_out: npt.NDArray[np.bool_]


def labelled(folder: Path) -> Labelled:
    """The tokens with a sketch of the requests that `labels.json` knows."""
    told = {one["request_id"]: one for one in json.loads((folder / LABELS).read_text(encoding="utf-8"))}
    with closing(open_reader(folder / "fingerprints.db")) as connection:
        rows = read_fingerprints(connection, start_us=0, end_us=1 << 61)
    known = pc.is_in(rows.column("request_id"), pa.array(list(told)))
    rows = rows.filter(pc.and_(known, pc.is_valid(rows.column("head_sketch"))))
    ids = rows.column("request_id").to_pylist()
    return Labelled(
        rows=rows,
        zone=np.array([ZONES.index(told[one]["zone"]) for one in ids], dtype=np.int64),
        family=np.array([told[one]["family"] for one in ids]),
        is_held_out=np.array([told[one]["is_held_out"] for one in ids], dtype=np.bool_),
    )


def discover(
    rows: pa.Table, *, seed: int, min_cluster_size: int = Settings.min_cluster_size
) -> tuple[pa.Table, Tables]:
    """The window's map and its clusters."""
    located = locate(
        rows, window_us=(0, 1 << 61), sample_size=Settings.umap_sample_size, batch_size=Settings.batch_size, seed=seed,
        keeper=NoKeeper(), report=lambda done, total: None,
    )  # fmt: skip
    return located, find_clusters(located, min_cluster_size=min_cluster_size, previous_bundle=None, seed=seed)


def of_length(located: pa.Table, labels: I64) -> dict[str, float]:
    """How much map and clusters say of the context length."""
    from sklearn.metrics import normalized_mutual_info_score

    ln_n = np.log(located.column("context_len").to_numpy())
    fifth = np.searchsorted(np.quantile(ln_n, np.linspace(0, 1, NUM_FIFTHS + 1)[1:-1]), ln_n)
    inside = labels >= 0
    axes = {axis: float(abs(np.corrcoef(located.column(axis).to_numpy(), ln_n)[0, 1])) for axis in ("x", "y")}
    return {
        "nmi_length": float(normalized_mutual_info_score(fifth[inside], labels[inside])) if inside.any() else 0.0,
        "correlation_x": axes["x"],
        "correlation_y": axes["y"],
    }


def shape_of(labels: I64) -> dict[str, float]:
    """How many clusters, the largest one's share, and the share of rows in none."""
    inside = labels[labels >= 0]
    largest = np.bincount(inside).max() / len(labels) if len(inside) else 0.0
    return {
        "clusters": float(len(np.unique(inside))),
        "largest": float(largest),
        "noise": float((labels < 0).mean()),
    }


def skill(labels: I64, zone: I64, request_no: I64, *, seed: int) -> float:
    """Nats a token by which its cluster (or none) predicts the kind of prompt, for requests that took no part."""
    num_requests = int(request_no.max()) + 1
    fold = np.random.default_rng(seed).permutation(num_requests) % NUM_FOLDS
    gained = []
    for one in range(NUM_FOLDS):
        learns = fold[request_no] != one
        overall = (np.bincount(zone[learns], minlength=len(ZONES)) + 1.0) / (learns.sum() + len(ZONES))
        counts = np.zeros((int(labels.max()) + 2, len(ZONES)))
        np.add.at(counts, (labels[learns] + 1, zone[learns]), 1.0)
        chance = (counts + PRIOR_TOKENS * overall) / (counts.sum(axis=1, keepdims=True) + PRIOR_TOKENS)
        judged = ~learns
        gained.append(np.log(chance[labels[judged] + 1, zone[judged]] / overall[zone[judged]]))
    return float(np.concatenate(gained).mean())


def stability(located: pa.Table, labels: I64, *, min_cluster_size: int, seed: int) -> list[float]:
    """Adjusted Rand indices of the landmarks' clusters with those found among a resample of the requests.

    Rows in a cluster both times; as many requests as there are, drawn with replacement, each once.
    """
    from sklearn.metrics import adjusted_rand_score

    window, models = window_from_table(located), Models.from_column(located.column("model_id"))
    landmarks = landmarks_of(located, window, models, space_of(located))
    request_no = numbered(located.column("request_id"))[landmarks.row]
    rng, found = np.random.default_rng(seed), []
    num_requests = int(request_no.max()) + 1
    for draw in range(NUM_RESAMPLED):
        kept = np.isin(request_no, rng.integers(0, num_requests, num_requests))
        again, _ = find_landmark_clusters(
            landmarks.at.main[kept], min_cluster_size=min_cluster_size, seed=seed + draw + 1
        )
        both = (again.labels >= 0) & (labels[kept] >= 0)
        found.append(float(adjusted_rand_score(labels[kept][both], again.labels[both])))
    return found


def of_requests(located: pa.Table, family: npt.NDArray[np.str_], *, seeds: int) -> list[float]:
    """Adjusted mutual information of groups of requests (k-means of what their map rests on) with their families."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score

    window, models = window_from_table(located), Models.from_column(located.column("model_id"))
    request_no = numbered(located.column("request_id"))
    at = coordinates(window, models, space_of(located))
    lie = request_features(at, request_no=request_no, step=located.column("step").to_numpy()).main
    of_request = family[np.unique(request_no, return_index=True)[1]]
    return [
        float(
            adjusted_mutual_info_score(
                of_request, KMeans(n_clusters=NUM_GROUPS, n_init=10, random_state=seed).fit_predict(lie)
            )
        )
        for seed in range(seeds)
    ]


def of_zones(located: pa.Table, clusters: Tables, data: Labelled) -> dict[str, float]:
    """Macro-F1 of whole answers of unseen wording; for how many families the expected zone is over-represented most."""
    from sklearn.metrics import f1_score

    zones = label_zones(located, clusters)
    given = np.asarray(zones["points"].column("zone").combine_chunks().indices)
    request_no = numbered(located.column("request_id"))
    first = np.unique(request_no, return_index=True)[1]
    whole = np.array([ZONES.index(one) for one in zones["requests"].column("zone").to_pylist()])
    unseen = data.is_held_out[first]
    overall = np.bincount(given, minlength=len(ZONES)) / len(given)
    right = []
    for family in np.unique(data.family[data.is_held_out]):
        mine = (data.family == family) & data.is_held_out
        over = np.bincount(given[mine], minlength=len(ZONES)) / mine.sum() / np.maximum(overall, 1e-9)
        right.append(int(over.argmax()) == int(data.zone[mine][0]))
    return {
        "macro_f1_unseen": float(f1_score(data.zone[first][unseen], whole[unseen], average="macro")),
        "families_right": float(np.mean(right)),
    }


def measure(folder: Path, *, seeds: int = 3) -> dict[str, Interval]:
    """All figures, over so many seeds of the map."""
    data = labelled(folder)
    request_no = numbered(data.rows.column("request_id"))
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        located, clusters = discover(data.rows, seed=seed)
        labels = labels_of(clusters).astype(np.int64)
        figures = {**of_length(located, labels), **shape_of(labels)}
        figures["skill"] = skill(labels, data.zone, request_no, seed=seed)
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
        raw = clusters["landmarks"].column("label").to_numpy().astype(np.int64)
        found.setdefault("bootstrap_ari", []).extend(
            stability(located, raw, min_cluster_size=Settings.min_cluster_size, seed=seed)
        )
        if seed == 0:
            found["requests_ami"] = of_requests(located, data.family, seeds=5)
            for name, value in of_zones(located, clusters, data).items():
                found[name] = [value]
        found.setdefault("num_tokens", []).append(float(located.num_rows))
        found.setdefault("num_requests", []).append(float(request_no.max() + 1))
        assert facts_of(located)["rests_on"] != "averages"
    return {name: Interval.of(values) for name, values in found.items()}


def clusters_in_words(folder: Path, *, num_clusters: int = 10) -> list[str]:
    """A line for each of the largest clusters of the first map: its figures and its tokens."""
    data = labelled(folder)
    located, clusters = discover(data.rows, seed=0)
    labels, ids = labels_of(clusters), clusters["clusters"].column("cluster_id").to_numpy()
    zones = label_zones(located, clusters)
    figures = figures_apart(located, labels, ids, zones["zone_labels"])
    tokens = tokens_apart(located, labels, len(ids))
    sizes = np.bincount(labels[labels >= 0], minlength=len(ids))
    lines = []
    for cluster in np.argsort(-sizes, kind="stable")[:num_clusters].tolist():
        told = ", ".join(f"{one['name']} {one['mean']:.2f} ({one['lift']:+.1f})" for one in figures[cluster])
        texts = " ".join(f"`{json.dumps(text, ensure_ascii=False)}`" for text in tokens[cluster])
        lines.append(f"Cluster {ids[cluster]}, {sizes[cluster]} tokens: {told}; {texts}")
    return lines
