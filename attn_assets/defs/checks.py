"""What must hold of each asset before the next is made: every check blocks but those of `WARNINGS`."""

from collections.abc import Mapping, Sequence
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
from attn_core.store import STORED
from attn_core.zones import ZONES

MIN_TRUSTWORTHINESS = 0.75
"""A map below this misplaces neighbours so often that clusters on it mean little; real ones measure 0.94 to 0.98."""
MIN_MAP_ROWS = 100
"""Fewer rows have so few neighbours that their trustworthiness is chance: shown, but nothing is refused for it."""
MIN_NOISE_ROWS = 500
"""Fewer rows may well hold no cluster: published as "No clusters detected"."""
CHECKS = {
    "fingerprints": {
        "schema_holds": "The columns are those of the store, with their types; nothing that must be there is missing.",
        "vectors_hold_invariants": "Every vector keeps its invariants; no (request_id, step) repeats.",
        "rows_match_database": "As many rows as SQLite counts, and those that only the lake still holds.",
    },
    "umap_embedding": {
        "every_row_is_on_the_map": "Every row has finite coordinates.",
        "map_is_trustworthy": f"Map neighbours are neighbours in the features: at least {MIN_TRUSTWORTHINESS}.",
    },
    "hdbscan_clusters": {
        "every_row_has_a_label": "Every row has a label, every label a cluster of that size.",
        "noise_share_is_bounded": "Not nearly everything is noise (ATTN_MAX_NOISE_SHARE).",
    },
    "zone_labels": {
        "zones_are_known": "Every row and cluster has one of the five zones, its confidence or share within 0..1."
    },
    "classifier_bundle": {
        "classifier_agrees": "The served classifier gives held-out rows their cluster (ATTN_MIN_AGREEMENT).",
        "bundle_verifies": "Every file has the size and hash of the manifest; the classifier loads.",
    },
}
"""Asset to the names and meanings of its checks."""
Tables = dict[str, pa.Table]
WARNINGS = {
    "umap_embedding": {
        "window_has_its_hours": "The lake holds each hour of the window that the database has rows of; else a warning."
    },
}
"""The same of checks that block nothing: the map is made, and says what it lacks."""
Result = dg.AssetCheckResult


def schema_holds(rows: pa.Table) -> Result:
    """The columns of the store in their order, with their types, and no nulls where none may be."""
    expected, found = {f.name: f.type for f in STORED}, {f.name: f.type for f in rows.schema}
    strange = [f"{name} is {found.get(name)}, not {kind}" for name, kind in expected.items() if found.get(name) != kind]
    strange += [f"{name} is not known" for name in found if name not in expected]
    empty = [f.name for f in STORED if not f.nullable and f.name in found and rows.column(f.name).null_count]
    strange += [f"{name} has nulls" for name in empty]
    return Result(passed=not strange, metadata={"num_columns": rows.num_columns, "strange": "; ".join(strange)})


def fingerprints_are_valid(rows: pa.Table) -> Result:
    """Every vector keeps its invariants and no (request_id, step) occurs twice."""
    vectors = vectors_from_table(rows)
    lengths = pc.fill_null(rows.column("context_len"), 0).to_numpy()
    bad = np.flatnonzero(~valid_rows(vectors, lengths))
    distinct = rows.group_by(["request_id", "step"]).aggregate([]).num_rows
    first = ""
    if len(bad):
        request_id, step = (rows.column(name)[int(bad[0])].as_py() for name in ("request_id", "step"))
        first = f"request {request_id} step {step}: {why_invalid(vectors[bad[:1]], lengths[bad[:1]])[0]}"
    return Result(
        passed=len(bad) == 0 and distinct == rows.num_rows,
        metadata={
            "num_rows": rows.num_rows,
            "num_invalid": len(bad),
            "num_repeated": rows.num_rows - distinct,
            "first_reason": first,
        },
    )


def rows_match_database(rows: pa.Table, *, num_counted: int, num_kept: int) -> Result:
    """`num_counted` rows are in the database, and `num_kept` were deleted there by retention and kept here."""
    return Result(
        passed=rows.num_rows == num_counted + num_kept,
        metadata={"num_rows": rows.num_rows, "num_in_database": num_counted, "num_only_in_lake": num_kept},
    )


def embedding_is_complete(located: pa.Table) -> Result:
    """Every row has finite coordinates."""
    lost = sum(int((~np.isfinite(located.column(axis).to_numpy())).sum()) for axis in ("x", "y"))
    return Result(passed=lost == 0, metadata={"num_rows": located.num_rows, "num_lost_coordinates": lost})


def map_is_trustworthy(located: pa.Table) -> Result:
    """Neighbours on the map are neighbours in the features, where there are enough rows to say."""
    trust = facts_of(located).get("metrics", {}).get("trustworthiness")
    metadata: dict[str, float | int] = {"num_rows": located.num_rows, "least": MIN_TRUSTWORTHINESS}
    if trust is not None:
        metadata["trustworthiness"] = trust
    judged = trust is not None and located.num_rows >= MIN_MAP_ROWS
    return Result(passed=not judged or trust >= MIN_TRUSTWORTHINESS, metadata=metadata)


def window_has_its_hours(missing: Sequence[str]) -> Result:
    """No hour of the window is `missing` from the lake."""
    shown: dict[str, int | str] = {"num_missing": len(missing)}
    if missing:
        shown["missing_hours"] = ", ".join(missing)
        shown["note"] = "the database has rows of these hours, the map has none: materialise fingerprints of them"
    return Result(passed=not missing, severity=dg.AssetCheckSeverity.WARN, metadata=shown)


def clusters_cover_rows(tables: Tables, located: pa.Table) -> Result:
    """Every row has a label, every label a cluster of that size, every cluster an id of its own."""
    labels = tables["points"].column("cluster_id").to_numpy()
    ids, sizes = (tables["clusters"].column(name).to_numpy() for name in ("cluster_id", "size"))
    counted = np.array([np.count_nonzero(labels == one) for one in ids], dtype=np.int64)
    unknown = int(np.count_nonzero(~np.isin(labels, np.append(ids, -1))))
    return Result(
        passed=bool(
            len(labels) == located.num_rows
            and unknown == 0
            and len(np.unique(ids)) == len(ids)
            and bool((ids >= 0).all())
            and np.array_equal(counted, sizes)
        ),
        metadata={"num_rows": len(labels), "num_expected": located.num_rows, "num_unknown_labels": unknown},
    )


def noise_share_is_bounded(tables: Tables, *, max_noise_share: float) -> Result:
    """At most this share of the distinct rows belongs to no cluster, where there are enough to expect one."""
    labels = tables["points"].column("cluster_id").to_numpy()
    share = float((labels < 0).mean()) if len(labels) else 0.0
    points = tables["points"]
    distinct = labels[points.column("is_first").to_numpy()] if "is_first" in points.column_names else labels
    judged, num_distinct = float((distinct < 0).mean()) if len(distinct) else 0.0, len(distinct)
    return Result(
        passed=num_distinct < MIN_NOISE_ROWS or judged <= max_noise_share,
        metadata={
            "noise_share": share,
            "distinct_noise_share": judged,
            "most": max_noise_share,
            "num_rows": len(labels),
            "num_distinct": num_distinct,
        },
    )


def zones_are_valid(tables: Tables, located: pa.Table) -> Result:
    """Every row and cluster has one of the five zones, with a confidence or share between 0 and 1."""
    points, clusters = tables["points"], tables["clusters"]
    names = set(points.column("zone").unique().to_pylist()) | set(clusters.column("zone").unique().to_pylist())
    outside = 0
    for table, column in ((points, "confidence"), (clusters, "zone_score")):
        scores = table.column(column).to_numpy()
        outside += int(np.count_nonzero(~((scores >= 0) & (scores <= 1))))
    strange = sorted(str(name) for name in names - set(ZONES))
    return Result(
        passed=points.num_rows == located.num_rows and not strange and outside == 0,
        metadata={"num_rows": points.num_rows, "num_scores_outside": outside, "unknown_zones": ", ".join(strange)},
    )


def classifier_agrees(figures: Mapping[str, float | int], *, min_agreement: float) -> Result:
    """The classifier gives held-out rows the cluster that discovery found, where there are enough rows to say."""
    agreement, judged = figures.get("cluster_agreement"), int(figures.get("num_judged", 0))
    shown: dict[str, float | int | str] = {"num_judged": judged, "least": min_agreement}
    if agreement is None or judged < MIN_JUDGED_ROWS or agreement >= min_agreement:
        return Result(passed=True, metadata=shown if agreement is None else {**shown, "cluster_agreement": agreement})
    note = (
        f"the served classifier gives {agreement:.2f} of held-out rows their cluster, below {min_agreement:.2f}: not "
        "published, `latest` stays. Look at the map for clusters that overlap, or raise --min-cluster-size"
    )
    return Result(passed=False, metadata={**shown, "cluster_agreement": agreement, "note": note})


def bundle_is_sound(run_id: str | None, *, discovery_dir: Path) -> Result:
    """The bundle opens as a reader opens it, every hash as the manifest says, and its classifier loads."""
    if run_id is None:
        return Result(passed=True, metadata={"note": "nothing was to be published"})
    try:
        bundle = open_bundle(discovery_dir / run_id)
        Classifier.from_bundle(bundle)
    except BundleError as error:
        return Result(passed=False, metadata={"run_id": run_id, "error": str(error)})
    return Result(passed=True, metadata={"run_id": run_id, "num_files": len(bundle.manifest["files"])})


def specs(asset: str) -> list[dg.AssetCheckSpec]:
    """The checks of an asset; their results come with the asset's own, so nothing is read twice."""
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=blocks, description=description)
        for checks, blocks in ((CHECKS[asset], True), (WARNINGS.get(asset, {}), False))
        for name, description in checks.items()
    ]


def results(asset: str, *outcomes: Result) -> list[Result]:
    """The outcomes under the names of the asset's checks, in their order."""
    return [
        outcome._replace(check_name=name, asset_key=dg.AssetKey(asset))
        for name, outcome in zip([*CHECKS[asset], *WARNINGS.get(asset, ())], outcomes, strict=True)
    ]
