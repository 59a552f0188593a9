"""One function a stage of the graph: tables in, tables out, facts and metrics in the tables' metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attn_assets.calibration.kept import Calibrations
from attn_assets.discovery import quality
from attn_assets.discovery.changes import counts_by_event, lineage_table
from attn_assets.discovery.distinct import distinct_rows
from attn_assets.discovery.drift import drift_of
from attn_assets.discovery.embedding import Embedding, Keeper, Report, embed_all
from attn_assets.discovery.frame import AVERAGES, movement
from attn_assets.discovery.grouping import find_landmark_clusters, group
from attn_assets.discovery.labelling import label_clusters
from attn_assets.discovery.learned_space import Coordinates, coordinates, learn_space
from attn_assets.discovery.lineage import trace
from attn_assets.discovery.models import Models
from attn_assets.discovery.previous import last_map_of, last_request_map_of, previous_of, rested_on
from attn_assets.discovery.requests_map import map_requests, request_features
from attn_assets.discovery.serving import LandmarkRows, label_rows
from attn_assets.discovery.tables import (
    cluster_tables,
    embedding_of,
    facts_of,
    labels_of,
    located_rows,
    request_zone_table,
    space_of,
    with_facts,
    zone_tables,
)
from attn_assets.discovery.window import Window, numbered, window_from_table
from attn_assets.discovery.zone_quality import zone_quality
from attn_assets.discovery.zoning import learn_formulas, zone_rows, zones_of_groups
from attn_core.bundle import Bundle
from attn_core.space import Space
from attn_core.zones import ZONES, ZoneFormula, shipped_formula

JUDGED_ROWS = 50_000
"""Rows, spread over the window, that the zones' own characteristics are judged on."""
Tables = dict[str, pa.Table]
Figures = dict[str, float | int]


def locate(
    rows: pa.Table,
    *,
    window_us: tuple[int, int],
    sample_size: int,
    batch_size: int,
    seed: int,
    keeper: Keeper,
    report: Report,
    previous_bundle: Bundle | None = None,
) -> pa.Table:
    """The window's rows with their place on the map, in the frame of the last run's map.

    Facts: window_start_us, window_end_us, metrics, frame (event, since_us, trustworthiness_at_birth), rests_on
    (`attn_assets.discovery.frame.Anchors`), space (`attn_core.space`).
    """
    window, models = window_from_table(rows), Models.from_column(rows.column("model_id"))
    # As it will be read back: rows placed here and there get the same bytes.
    space = Space.from_json(learn_space(window, models, seed=seed).as_json())
    rests_on = space.projection or AVERAGES
    at = coordinates(window, models, space)
    last = last_map_of(rows, previous_bundle, rests_on=rests_on)
    embedding = embed_all(
        at,
        sample_size=sample_size,
        batch_size=batch_size,
        seed=seed,
        keeper=keeper,
        report=report,
        row_ids=rows.column("id").to_numpy(),
        last=last,
        now_us=_newest_us(rows, else_us=window_us[1]),
    )
    there = at.in_main
    trust = quality.trustworthiness(at.main[there], embedding.positions[there], seed=seed)
    metrics: Figures = {
        "num_sampled": int(embedding.in_sample.sum()),
        "num_with_sketch": 0 if at.sketch is None else int(there.sum()),
        "num_companions_assumed": int((~window.complete).sum()),
        **({} if trust is None else {"trustworthiness": trust}),
        **({} if last is None else movement(embedding.positions, last.positions).figures()),
    }
    facts = {
        "window_start_us": window_us[0],
        "window_end_us": window_us[1],
        "metrics": metrics,
        "frame": _frame_facts(embedding, is_new_space=_is_new_space(previous_bundle, rests_on)),
        "rests_on": rests_on,
        "space": space.as_json(),
    }
    is_first = np.zeros(len(there), dtype=np.bool_)
    is_first[distinct_rows(np.column_stack([at.averages, at.main])).first] = True
    return with_facts(located_rows(rows, embedding, is_first=is_first), facts)


def _is_new_space(previous_bundle: Bundle | None, rests_on: str) -> bool:
    return previous_bundle is not None and rested_on(previous_bundle) != rests_on


def _frame_facts(embedding: Embedding, *, is_new_space: bool) -> dict[str, Any] | None:
    if embedding.drawn is None:
        return None
    return {**embedding.drawn.facts(), **({"event": "new_space"} if is_new_space else {})}


def _newest_us(rows: pa.Table, *, else_us: int) -> int:
    """What a frame that begins here is named after: not the clock, so that the same rows make the same files."""
    newest = pc.max(rows.column("captured_at_us")).as_py()
    return else_us if newest is None else int(newest)


def find_clusters(located: pa.Table, *, min_cluster_size: int, previous_bundle: Bundle | None, seed: int = 0) -> Tables:
    """`points`, `clusters`, `lineage`, `landmarks` (`serving.LandmarkRows`), and `requests` with the map of requests.

    Facts of `points`: metrics, previous_run_id, next_id, gone; of `requests`: metrics, frame.
    """
    from attn_assets.discovery.compiled import num_threads

    window, models, space = (
        window_from_table(located),
        Models.from_column(located.column("model_id")),
        space_of(located),
    )
    landmarks = landmarks_of(located, window, models, space)
    found, min_samples = find_landmark_clusters(landmarks.at.main, min_cluster_size=min_cluster_size, seed=seed)
    numbers = np.arange(found.num_clusters, dtype=np.int32)
    grouping = group(
        found,
        min_samples=min_samples,
        min_cluster_size=min_cluster_size,
        num_rows=located.num_rows,
        answer=lambda labels, rows: label_rows(
            window, models, space, landmarks.arrays(labels, cluster_ids=numbers), rows, threads=num_threads()
        ),
    )
    previous = previous_of(located, previous_bundle)
    lineage = trace(
        grouping.labels,
        previous.before,
        num_clusters=len(grouping.persistence),
        next_id=previous.next_id,
        former=previous.former,
    )
    tables = cluster_tables(grouping, lineage)
    requests = locate_requests(located, coordinates(window, models, space), previous_bundle=previous_bundle, seed=seed)
    changes = lineage_table(lineage, tables["points"].column("cluster_id").combine_chunks(), previous)
    is_noise, is_first = grouping.labels < 0, located.column("is_first").to_numpy()
    metrics: Figures = {
        "num_clusters": len(grouping.persistence),
        "noise_share": float(is_noise.mean()) if located.num_rows else 0.0,
        "num_distinct": int(is_first.sum()),
        "distinct_noise_share": float(is_noise[is_first].mean()) if located.num_rows else 0.0,
        "num_landmarks": len(landmarks.row),
        "validity": grouping.validity,
        "min_samples": grouping.min_samples,
        **{f"num_{event}": count for event, count in counts_by_event(changes).items()},
        **facts_of(requests)["metrics"],
    }
    facts = {
        "metrics": metrics,
        "previous_run_id": previous.run_id,
        "next_id": lineage.next_id,
        "gone": list(lineage.gone),
    }
    return {
        **tables,
        "points": with_facts(tables["points"], facts),
        "lineage": changes,
        "landmarks": landmarks.table(grouping.landmarks),
        "requests": requests,
    }


def landmarks_of(located: pa.Table, window: Window, models: Models, space: Space) -> LandmarkRows:
    """The landmarks of a window."""
    embedding = embedding_of(located)
    return LandmarkRows.chosen(
        window,
        models,
        space,
        in_sample=embedding.in_sample,
        row_ids=located.column("id").to_numpy(),
        positions=embedding.positions,
    )


def locate_requests(located: pa.Table, at: Coordinates, *, previous_bundle: Bundle | None, seed: int) -> pa.Table:
    """A row a request: request_id, map_x, map_y on the map of requests. Facts: metrics, frame."""
    request_no = numbered(located.column("request_id"))
    lie = request_features(at, request_no=request_no, step=located.column("step").to_numpy())
    request_ids, rests_on = located.column("request_id").unique(), facts_of(located)["rests_on"]
    last = last_request_map_of(request_ids, previous_bundle, rests_on=rests_on)
    now_us = _newest_us(located, else_us=int(facts_of(located)["window_end_us"]))
    embedding = map_requests(lie, request_ids=request_ids, last=last, now_us=now_us, seed=seed)
    there = lie.in_main
    trust = quality.trustworthiness(lie.main[there], embedding.positions[there], seed=seed)
    moved = {} if last is None else movement(embedding.positions, last.positions).figures()
    metrics: Figures = {"count": len(lie.averages), **({} if trust is None else {"trustworthiness": trust}), **moved}
    table = pa.table(
        {
            "request_id": request_ids,
            "map_x": pa.array(embedding.positions[:, 0]),
            "map_y": pa.array(embedding.positions[:, 1]),
        }
    )
    frame = _frame_facts(embedding, is_new_space=_is_new_space(previous_bundle, rests_on))
    return with_facts(table, {"metrics": {f"requests_{name}": one for name, one in metrics.items()}, "frame": frame})


def label_zones(
    located: pa.Table, clusters: Mapping[str, pa.Table], *, calibrations: Calibrations | None = None
) -> Tables:
    """`points`, `clusters`, `zone_labels`, and `requests` with the zone of each whole request.

    Facts of `points`: metrics (each zone's share and the AUC of its own characteristic, `ece` of the confidence,
    drift), and `zone_formulas`, with what is usual in this window.
    """
    # Imported here: compiled loops take a second to load.
    from attn_assets.discovery.compiled import num_threads

    window, labels = window_from_table(located), labels_of(clusters)
    models = Models.from_column(located.column("model_id"))
    formulas = learn_formulas(
        window,
        models,
        base=shipped_of if calibrations is None else calibrations.newest,
        default=shipped_formula(),
    )
    rows = zone_rows(window, models, formulas, threads=num_threads())
    zones = label_clusters(
        labels, num_clusters=clusters["clusters"].num_rows, zone_index=rows.zone_index, evidence=rows.evidence
    )
    counts = np.bincount(rows.zone_index, minlength=len(ZONES)) / max(len(rows.zone_index), 1)
    metrics: Figures = {f"share_{name}": float(counts[i]) for i, name in enumerate(ZONES)}
    ece = formulas.default.provenance.get("confidence", {}).get("ece")
    metrics |= {} if ece is None else {"ece": float(ece)}
    judged = np.unique(np.linspace(0, max(len(rows.zone_index) - 1, 0), JUDGED_ROWS).astype(np.int64))
    if len(rows.zone_index):
        metrics |= zone_quality(rows.zone_index[judged], rows.evidence[judged]).figures()
    request_no = numbered(located.column("request_id"))
    drift = drift_of(
        coordinates(window, models, space_of(located)).averages,
        zone_index=rows.zone_index,
        cluster_ids=clusters["points"].column("cluster_id").to_numpy(),
        request_no=request_no,
        captured_at_us=located.column("captured_at_us").to_numpy(),
        end_us=int(facts_of(located)["window_end_us"]),
        seed=0,
    )
    metrics |= {} if drift is None else drift.figures()
    ids = clusters["clusters"].column("cluster_id").to_numpy()
    tables = zone_tables(cluster_ids=ids, zones=zones, zone_index=rows.zone_index, confidence=rows.confidence)
    request_ids = located.column("request_id").unique()
    model_of_request = np.zeros(len(request_ids), dtype=np.int64)
    model_of_request[request_no] = models.of_row
    whole = zones_of_groups(
        rows.evidence,
        request_no,
        num_groups=len(request_ids),
        formula_of=lambda number: formulas.of(models.names[model_of_request[number]]),
    )
    facts = {"metrics": metrics, "zone_formulas": formulas.as_json()}
    requests = request_zone_table(request_ids, whole)
    return {**tables, "points": with_facts(tables["points"], facts), "requests": requests}


def shipped_of(model_id: str) -> ZoneFormula:
    """The formula that comes with the package, for any model."""
    return shipped_formula()
