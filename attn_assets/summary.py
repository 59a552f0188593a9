"""What a finished run found, as tables for the terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from attn_assets.discovery.frame import AVERAGES
from attn_assets.discovery.unclear import note_of
from attn_core.bundle import Bundle
from attn_core.zones import ZONES

MOST_CLUSTERS = 25
MOST_DESCRIBED = 10


def result_of(bundle: Bundle) -> dict[str, object]:
    """What a listener is told of a published run."""
    names = ("num_fingerprints", "num_clusters", "noise_share", "metrics")
    return {"path": str(bundle.path), **{name: bundle.manifest[name] for name in names}}


def summary(bundle: Bundle) -> str:
    """Zones, clusters and figures of a published run."""
    manifest, metrics = bundle.manifest, bundle.manifest["metrics"]
    total = manifest["num_fingerprints"]
    counts = Counter(bundle.table("embeddings").column("zone").to_pylist())
    lines = [f"{'zone':18s} {'rows':>9s} {'share':>7s}"]
    lines += [f"{zone:18s} {counts[zone]:9,d} {counts[zone] / max(total, 1):6.1%}" for zone in ZONES]
    clusters = sorted(bundle.table("clusters").to_pylist(), key=lambda row: -row["size"])
    lines.append("")
    if clusters:
        lines.append(f"{'cluster':14s} {'rows':>9s} {'share':>7s}  {'zone':18s} {'score':>5s} {'margin':>6s}  lineage")
    elif note := note_of(metrics):
        lines.append(note[0].upper() + note[1:] + ".")
    else:
        lines.append(
            "No clusters detected: every row is noise. A smaller --min-cluster-size, or more rows, may find some."
        )
    for row in clusters[:MOST_CLUSTERS]:
        parents = ", ".join(str(one) for one in row["lineage"]["parents"] if one != row["cluster_id"])
        lines.append(
            f"{row['cluster_label']:14s} {row['size']:9,d} {row['size'] / max(total, 1):6.1%}  {row['zone']:18s} "
            f"{row['zone_score']:5.2f} {row['zone_margin']:6.2f}  {row['lineage']['event']}"
            f"{f' (from {parents})' if parents else ''}"
        )
    if len(clusters) > MOST_CLUSTERS:
        lines.append(f"... and {len(clusters) - MOST_CLUSTERS} smaller ones")
    described = [row for row in clusters[:MOST_DESCRIBED] if row.get("apart")]
    if described:
        lines += ["", "what sets the largest apart (mean against usual, in spreads), and tokens they have more of"]
    for row in described:
        figures_of = ", ".join(f"{one['name']} {one['mean']:.2f} ({one['lift']:+.1f})" for one in row["apart"])
        tokens = " ".join(json.dumps(text, ensure_ascii=False) for text in row["tokens"] or [])
        lines.append(f"{row['cluster_label']:14s} {figures_of}")
        lines += [f"{'':14s} {tokens}"] if tokens else []
    lines += ["", _rests_on(manifest)]
    noise = manifest["noise_share"]
    figures = [f"{total:,} fingerprints", f"{len(clusters)} clusters", f"{noise:.1%} noise"]
    named = (("trustworthiness", "trustworthiness"), ("cluster_agreement", "classifier agrees"), ("ece", "ECE"))
    figures += [f"{name} {metrics[key]:.3f}" for key, name in named if key in metrics]
    return "\n".join([*lines, "", ", ".join(figures)])


def _rests_on(manifest: Mapping[str, Any]) -> str:
    total, sketched = manifest["num_fingerprints"], manifest["metrics"].get("num_with_sketch", 0)
    if manifest["rests_on"] == AVERAGES:
        return (
            "The map rests on averages over heads, which are one continuum: expect few clusters. Once the model has a "
            "head projection (docs/discovery.md) it rests on the single heads."
        )
    return f"The map rests on the head sketches of {sketched:,} rows" + (
        "." if sketched == total else f"; the other {total - sketched:,} have none and are placed by their averages."
    )
