"""One function a stage of the graph: tables in, tables out, facts and metrics in the tables' metadata."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attn_assets.calibration.kept import Calibrations
from attn_assets.discovery import quality
from attn_assets.discovery.changes import counts_by_event, lineage_table
from attn_assets.discovery.distinct import distinct_rows
from attn_assets.discovery.drift import drift_of
from attn_assets.discovery.embedding import Keeper, Report, embed
from attn_assets.discovery.frame import movement
from attn_assets.discovery.grouping import group
from attn_assets.discovery.labelling import label_clusters
from attn_assets.discovery.previous import last_map_of, last_request_map_of, previous_of
from attn_assets.discovery.requests_map import map_requests, request_features
from attn_assets.discovery.tables import (
    cluster_tables,
    embedding_of,
    facts_of,
    labels_of,
    located_rows,
    request_zone_table,
    with_facts,
    zone_tables,
)
from attn_assets.discovery.window import numbered, window_from_table
from attn_assets.discovery.zone_quality import zone_quality
from attn_assets.discovery.zoning import Models, learn_formulas, zone_rows, zones_of_groups
from attn_core.bundle import Bundle
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

    Facts: window_start_us, window_end_us, metrics, frame (event, since_us, trustworthiness_at_birth).
    """
    window = window_from_table(rows)
    last = last_map_of(rows, previous_bundle)
    embedding = embed(
        window.features,
        sample_size=sample_size,
        batch_size=batch_size,
        seed=seed,
        keeper=keeper,
        report=report,
        row_ids=rows.column("id").to_numpy(),
        last=last,
        now_us=_newest_us(rows, else_us=window_us[1]),
    )
    trust = quality.trustworthiness(window.features, embedding.positions, seed=seed)
    metrics: Figures = {
        "num_sampled": int(embedding.in_sample.sum()),
        "num_companions_assumed": int((~window.complete).sum()),
        **({} if trust is None else {"trustworthiness": trust}),
        **({} if last is None else movement(embedding.positions, last.positions).figures()),
    }
    facts = {
        "window_start_us": window_us[0],
        "window_end_us": window_us[1],
        "metrics": metrics,
        "frame": None if embedding.drawn is None else embedding.drawn.facts(),
    }
    return with_facts(located_rows(rows, embedding), facts)


def _newest_us(rows: pa.Table, *, else_us: int) -> int:
    """What a frame that begins here is named after: not the clock, so that the same rows make the same files."""
    newest = pc.max(rows.column("captured_at_us")).as_py()
    return else_us if newest is None else int(newest)


def find_clusters(
    located: pa.Table, *, min_cluster_size: int, batch_size: int, previous_bundle: Bundle | None, seed: int = 0
) -> Tables:
    """`points`, `clusters`, `lineage`, and `requests` with the map of requests.

    Facts of `points`: metrics, previous_run_id, next_id, gone; of `requests`: metrics, frame.
    """
    previous = previous_of(located, previous_bundle)
    distinct = distinct_rows(window_from_table(located).features)
    grouping = group(
        embedding_of(located),
        min_cluster_size=min_cluster_size,
        batch_size=batch_size,
        before=previous.before,
        next_id=previous.next_id,
        former=previous.former,
        stands_for=distinct.first[distinct.kind],
    )
    lineage = grouping.lineage
    requests = locate_requests(located, previous_bundle=previous_bundle, seed=seed)
    changes = lineage_table(lineage, pa.array(grouping.cluster_ids), previous)
    metrics: Figures = {
        "num_clusters": len(grouping.persistence),
        "noise_share": float((grouping.labels < 0).mean()) if located.num_rows else 0.0,
        "num_distinct": len(distinct.first),
        "distinct_noise_share": float((grouping.labels[distinct.first] < 0).mean()) if located.num_rows else 0.0,
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
    tables = cluster_tables(grouping)
    return {**tables, "points": with_facts(tables["points"], facts), "lineage": changes, "requests": requests}


def locate_requests(located: pa.Table, *, previous_bundle: Bundle | None, seed: int) -> pa.Table:
    """A row a request: request_id, map_x, map_y on the map of requests. Facts: metrics, frame."""
    window = window_from_table(located)
    request_no = numbered(located.column("request_id"))
    features = request_features(window.features, request_no=request_no, step=located.column("step").to_numpy())
    request_ids = located.column("request_id").unique()
    last = last_request_map_of(request_ids, previous_bundle)
    now_us = _newest_us(located, else_us=int(facts_of(located)["window_end_us"]))
    embedding = map_requests(features, request_ids=request_ids, last=last, now_us=now_us, seed=seed)
    trust = quality.trustworthiness(features, embedding.positions, seed=seed)
    moved = {} if last is None else movement(embedding.positions, last.positions).figures()
    metrics: Figures = {"count": len(features), **({} if trust is None else {"trustworthiness": trust}), **moved}
    table = pa.table(
        {
            "request_id": request_ids,
            "map_x": pa.array(embedding.positions[:, 0]),
            "map_y": pa.array(embedding.positions[:, 1]),
        }
    )
    frame = None if embedding.drawn is None else embedding.drawn.facts()
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
        window.features,
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
