"""The graph: fingerprints -> umap_embedding -> hdbscan_clusters -> zone_labels -> classifier_bundle, by the hour."""

# No postponed annotations in this module: Dagster reads them as types.

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg
import pyarrow as pa

from attn_assets.defs import checks
from attn_assets.defs.partitions import hourly, key_from_us, last_hours
from attn_assets.defs.previews import cluster_preview, reliability_preview, row_preview, zone_plots
from attn_assets.defs.resources import FingerprintStore, Keepers, Plan, Progress
from attn_assets.discovery.tables import facts_of, with_facts
from attn_assets.discovery.window import rows_between
from attn_assets.hours import missing_hours, with_expired_rows
from attn_assets.lake import Lake
from attn_assets.measure import Cost
from attn_assets.publishing import Assets, Outcome, Run, formulas_of, publish_checked, why_not
from attn_assets.stages import Tables, find_clusters, label_zones, locate

FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=2), fail_window=timedelta(hours=6))
"""The hour is made at two minutes past: after two hours one was left out, after six somebody should know."""
_PASSED = (dg.AssetCheckResult(passed=True), dg.AssetCheckResult(passed=True))


def build_assets(*, first_hour: str, window_hours: int) -> list[dg.AssetsDefinition]:
    """The five assets, partitioned from `first_hour` on, each window `window_hours` long."""
    # Said here: with checks beside it Dagster takes no type from the annotation of a result.
    tables = dg.PythonObjectDagsterType((pa.Table, dict), name="Tables")

    def made_by(kind: str, *, asset: str) -> dict[str, Any]:
        return {
            "partitions_def": hourly(first_hour),
            "group_name": "discovery",
            "kinds": {kind, "parquet"},
            "check_specs": checks.specs(asset),
            "dagster_type": tables,
            "freshness_policy": FRESH,
        }

    @dg.asset(**made_by("sqlite", asset="fingerprints"))  # type: ignore[untyped-decorator]
    def fingerprints(
        context: dg.AssetExecutionContext,
        store: FingerprintStore,
        lake: dg.ResourceParam[Lake],
        progress: dg.ResourceParam[Progress],
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """The hour's rows of the sidecar's database, and those that retention has deleted there since."""
        window = context.partition_time_window
        with Cost() as cost, progress.stage("fingerprints"):
            span = store.span(start_us=_us(window.start), end_us=_us(window.end))
            keys = list(context.partition_keys)
            stored, unreadable = lake.rows("fingerprints", keys), lake.unreadable("fingerprints", keys)
            rows, num_kept = with_expired_rows(span.rows, stored=stored, oldest_id=span.oldest_id)
        outcomes = (
            checks.schema_holds(rows),
            checks.fingerprints_are_valid(rows),
            checks.rows_match_database(rows, num_counted=span.num_counted, num_kept=num_kept),
        )
        note = "" if rows.num_rows else "no fingerprints were captured in this hour"
        shown = row_preview(rows, note)
        if unreadable:
            shown["unreadable_before"] = ", ".join(unreadable)
            context.log.warning(f"could not be read, made again from the database: {', '.join(unreadable)}")
        return _result("fingerprints", rows, outcomes, cost, shown)

    @dg.asset(  # type: ignore[untyped-decorator]
        **made_by("umap", asset="umap_embedding"),
        ins={"fingerprints": dg.AssetIn(partition_mapping=last_hours(window_hours))},
    )
    def umap_embedding(
        context: dg.AssetExecutionContext,
        plan: Plan,
        store: FingerprintStore,
        progress: dg.ResourceParam[Progress],
        keepers: dg.ResourceParam[Keepers],
        fingerprints: pa.Table,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """The window's rows with their place on the map: UMAP on a sample, the rest placed against it."""
        start_us, end_us = plan.window_us(_us(context.partition_time_window.end))
        rows = rows_between(fingerprints, start_us=start_us, end_us=end_us, max_id=plan.max_fingerprint_id)
        captured = store.hours(start_us=start_us, end_us=end_us, max_id=plan.max_fingerprint_id)
        missing = [key_from_us(hour_us) for hour_us in missing_hours(rows, captured_hours_us=captured)]
        with Cost() as cost, progress.stage("umap_embedding"):
            located = locate(
                rows,
                window_us=(start_us, end_us),
                sample_size=plan.umap_sample_size,
                batch_size=plan.batch_size,
                seed=plan.seed,
                keeper=keepers.keeper("umap_embedding"),
                report=lambda done, total: progress.report("umap_embedding", done, total),
                previous_bundle=plan.previous(),
            )
        located = with_facts(located, {**facts_of(located), "missing_hours": missing})
        note = "" if rows.num_rows else f"no fingerprints in the {plan.window_hours} hours up to here: an empty map"
        frame = facts_of(located)["frame"] or {"event": "no map"}
        shown = {**facts_of(located)["metrics"], "frame": frame["event"], **row_preview(located, note)}
        outcomes = (
            checks.embedding_is_complete(located),
            checks.map_is_trustworthy(located),
            checks.window_has_its_hours(missing),
        )
        return _result("umap_embedding", located, outcomes, cost, shown)

    @dg.asset(**made_by("hdbscan", asset="hdbscan_clusters"))  # type: ignore[untyped-decorator]
    def hdbscan_clusters(
        plan: Plan, progress: dg.ResourceParam[Progress], umap_embedding: pa.Table
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """Each row's cluster, by ids that last from run to run, and the clusters with their lineage."""
        with Cost() as cost, progress.stage("hdbscan_clusters"):
            found = find_clusters(
                umap_embedding,
                min_cluster_size=plan.min_cluster_size,
                seed=plan.seed,
                previous_bundle=plan.previous(),
            )
        note = "" if found["clusters"].num_rows else "No clusters detected: every row is noise"
        shown = {**facts_of(found["points"])["metrics"], **row_preview(found["clusters"], note)}
        outcomes = (
            checks.clusters_cover_rows(found, umap_embedding),
            checks.noise_share_is_bounded(found, max_noise_share=plan.max_noise_share),
        )
        return _result("hdbscan_clusters", found, outcomes, cost, shown)

    @dg.asset(**made_by("numpy", asset="zone_labels"))  # type: ignore[untyped-decorator]
    def zone_labels(
        plan: Plan, progress: dg.ResourceParam[Progress], umap_embedding: pa.Table, hdbscan_clusters: Tables
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """Each cluster's zone with score, margin and evidence, and each row's zone."""
        with Cost() as cost, progress.stage("zone_labels"):
            labelled = label_zones(umap_embedding, hdbscan_clusters, calibrations=plan.calibrations())
        shown: dict[str, Any] = {**facts_of(labelled["points"])["metrics"], **zone_plots(labelled, umap_embedding)}
        shown["preview"] = cluster_preview(labelled, hdbscan_clusters)
        shown |= reliability_preview(formulas_of(labelled).default.provenance.get("confidence", {}))
        return _result("zone_labels", labelled, (checks.zones_are_valid(labelled, umap_embedding),), cost, shown)

    @dg.asset(**made_by("numpy", asset="classifier_bundle"))  # type: ignore[untyped-decorator]
    def classifier_bundle(
        context: dg.AssetExecutionContext,
        plan: Plan,
        store: FingerprintStore,
        progress: dg.ResourceParam[Progress],
        umap_embedding: pa.Table,
        hdbscan_clusters: Tables,
        zone_labels: Tables,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """The bundle that the sidecar serves, published as `latest`, with the run recorded in the database."""
        assets = Assets(located=umap_embedding, clusters=hdbscan_clusters, zones=zone_labels)
        run = Run(run_id=plan.run_id, parameters=plan.parameters(), started_at_us=time.time_ns() // 1000)
        reason = why_not(umap_embedding, discovery_dir=plan.output)
        with Cost() as cost, progress.stage("classifier_bundle"):
            outcome = Outcome(note=f"not published: {reason}")
            if reason is None:
                outcome = publish_checked(
                    assets,
                    run,
                    discovery_dir=plan.output,
                    db=store.path,
                    agrees=partial(checks.classifier_agrees, min_agreement=plan.min_agreement),
                    verifies=partial(checks.bundle_is_sound, discovery_dir=plan.output),
                    publishing=progress.publishing,
                )
        if outcome.is_overtaken:
            raise dg.Failure(outcome.note)
        context.log.info(outcome.note)
        shown: dict[str, Any] = {**outcome.metrics, "published": outcome.run_id is not None, "note": outcome.note}
        shown["recorded"] = outcome.is_recorded
        if outcome.metrics:
            shown["preview"] = cluster_preview(zone_labels, hdbscan_clusters)
        told = pa.table({name: pa.array([getattr(outcome, name)], pa.string()) for name in ("run_id", "note")})
        shown["dagster/row_count"] = umap_embedding.num_rows
        return _result("classifier_bundle", told, outcome.checks or _PASSED, cost, shown)

    return [fingerprints, umap_embedding, hdbscan_clusters, zone_labels, classifier_bundle]


def _result(
    asset: str,
    value: pa.Table | Tables,
    outcomes: tuple[dg.AssetCheckResult, ...],
    cost: Cost,
    shown: Mapping[str, Any],
) -> dg.MaterializeResult[Any]:
    rows = value["points"] if isinstance(value, dict) else value
    return dg.MaterializeResult(
        value=value,
        check_results=checks.results(asset, *outcomes),
        metadata={"dagster/row_count": rows.num_rows, **cost.metadata(), **shown},
    )


def _us(when: datetime) -> int:
    return round(when.timestamp() * 1e6)
