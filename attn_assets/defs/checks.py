"""What must hold of each asset before the next is made: every check blocks."""

from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attn_assets.discovery.tables import facts_of
from attn_assets.discovery.window import vectors_from_table
from attn_assets.publishing import MIN_JUDGED_ROWS
from attn_core.bundle import open_bundle
from attn_core.classify import Classifier
from attn_core.errors import BundleError
from attn_core.fingerprint import valid_rows, why_invalid
from attn_core.zones import ZONES

MIN_TRUSTWORTHINESS = 0.75
"""A map below this misplaces neighbours so often that clusters on it mean little; real ones measure 0.94 to 0.98."""
CHECKS = {
    "fingerprints": ("vectors_hold_invariants", "Every vector keeps its invariants; no (request_id, step) repeats."),
    "umap_embedding": ("every_row_is_on_the_map", "Every row has finite coordinates; the map keeps neighbourhoods."),
    "hdbscan_clusters": ("every_row_has_a_label", "Every row has a label, every label a cluster of that size."),
    "zone_labels": ("zones_are_known", "Every row and cluster has one of the five zones, its score within 0..1."),
    "classifier_bundle": ("bundle_verifies", "Hashes verify; the classifier loads and agrees with the clusters."),
}
"""Asset to the name and meaning of its check."""
Tables = dict[str, pa.Table]


def fingerprints_are_valid(rows: pa.Table) -> dg.AssetCheckResult:
    """Every vector keeps its invariants and no (request_id, step) occurs twice."""
    vectors = vectors_from_table(rows)
    lengths = pc.fill_null(rows.column("context_len"), 0).to_numpy()
    bad = np.flatnonzero(~valid_rows(vectors, lengths))
    distinct = rows.group_by(["request_id", "step"]).aggregate([]).num_rows
    note = why_invalid(vectors[bad[:1]], lengths[bad[:1]])[0] if len(bad) else ""
    return dg.AssetCheckResult(
        passed=len(bad) == 0 and distinct == rows.num_rows,
        metadata={
            "num_rows": rows.num_rows,
            "num_invalid": len(bad),
            "num_repeated": rows.num_rows - distinct,
            "first_reason": note or "",
        },
    )


def embedding_is_complete(located: pa.Table) -> dg.AssetCheckResult:
    """Every row has finite coordinates, and neighbours on the map are neighbours in the features."""
    lost = sum(int((~np.isfinite(located.column(axis).to_numpy())).sum()) for axis in ("x", "y"))
    trust = facts_of(located).get("metrics", {}).get("trustworthiness")
    metadata: dict[str, float | int] = {"num_rows": located.num_rows, "num_lost_coordinates": lost}
    if trust is not None:
        metadata["trustworthiness"] = trust
    return dg.AssetCheckResult(passed=lost == 0 and (trust is None or trust >= MIN_TRUSTWORTHINESS), metadata=metadata)


def clusters_cover_rows(tables: Tables, located: pa.Table) -> dg.AssetCheckResult:
    """Every row has a label, every label a cluster of that size, every cluster an id of its own."""
    labels = tables["points"].column("cluster_id").to_numpy()
    ids, sizes = (tables["clusters"].column(name).to_numpy() for name in ("cluster_id", "size"))
    counted = np.array([np.count_nonzero(labels == one) for one in ids], dtype=np.int64)
    unknown = int(np.count_nonzero(~np.isin(labels, np.append(ids, -1))))
    return dg.AssetCheckResult(
        passed=bool(
            len(labels) == located.num_rows
            and unknown == 0
            and len(np.unique(ids)) == len(ids)
            and bool((ids >= 0).all())
            and np.array_equal(counted, sizes)
        ),
        metadata={"num_rows": len(labels), "num_expected": located.num_rows, "num_unknown_labels": unknown},
    )


def zones_are_valid(tables: Tables, located: pa.Table) -> dg.AssetCheckResult:
    """Every row and cluster has one of the five zones, with a score between 0 and 1."""
    points, clusters = tables["points"], tables["clusters"]
    names = set(points.column("zone").unique().to_pylist()) | set(clusters.column("zone").unique().to_pylist())
    outside = 0
    for table, column in ((points, "score"), (clusters, "zone_score")):
        scores = table.column(column).to_numpy()
        outside += int(np.count_nonzero(~((scores >= 0) & (scores <= 1))))
    strange = sorted(str(name) for name in names - set(ZONES))
    return dg.AssetCheckResult(
        passed=points.num_rows == located.num_rows and not strange and outside == 0,
        metadata={"num_rows": points.num_rows, "num_scores_outside": outside, "unknown_zones": ", ".join(strange)},
    )


def bundle_is_sound(outcome: pa.Table, *, discovery_dir: Path, min_agreement: float) -> dg.AssetCheckResult:
    """The published bundle opens as a reader opens it, its classifier loads, and it agrees with what was found."""
    run_id = outcome.column("run_id")[0].as_py()
    if run_id is None:
        return dg.AssetCheckResult(passed=True, metadata={"note": outcome.column("note")[0].as_py()})
    try:
        bundle = open_bundle(discovery_dir / run_id)
        Classifier.from_bundle(bundle)
    except BundleError as error:
        return dg.AssetCheckResult(passed=False, metadata={"run_id": run_id, "error": str(error)})
    metrics = bundle.manifest["metrics"]
    agreement, judged = metrics.get("cluster_agreement"), metrics["num_judged"]
    enough = agreement is None or judged < MIN_JUDGED_ROWS or agreement >= min_agreement
    shown = {} if agreement is None else {"cluster_agreement": agreement}
    return dg.AssetCheckResult(passed=enough, metadata={"run_id": run_id, "num_judged": judged, **shown})


def blocking(asset: str) -> list[dg.AssetCheckSpec]:
    """The blocking check of an asset; its result comes with the asset's own, so nothing is read twice."""
    name, description = CHECKS[asset]
    return [dg.AssetCheckSpec(name, asset=asset, blocking=True, description=description)]


def result(asset: str, outcome: dg.AssetCheckResult) -> dg.AssetCheckResult:
    """The outcome under the name of the asset's check."""
    return outcome._replace(check_name=CHECKS[asset][0], asset_key=dg.AssetKey(asset))
