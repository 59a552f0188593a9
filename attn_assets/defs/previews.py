"""Small tables and shares for the Dagster UI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pyarrow as pa

from attn_assets.discovery.tables import reading
from attn_core.classify import cluster_label

NUM_ROWS = 5
_HIDDEN = ("vector", "token_text")
"""Not shown: too wide, or somebody's words."""


def row_preview(table: pa.Table, note: str) -> dict[str, Any]:
    """`preview`: the first rows as a Markdown table; `note` where there is something to say."""
    names = [name for name in table.column_names if name not in _HIDDEN]
    head = table.select(names).slice(0, NUM_ROWS).to_pylist()
    shown: dict[str, Any] = {
        "preview": dg.MetadataValue.md(markdown(names, [[_cell(row[name]) for name in names] for row in head]))
    }
    return {**shown, "note": note} if note else shown


def cluster_preview(zones: Mapping[str, pa.Table], clusters: Mapping[str, pa.Table]) -> dg.MarkdownMetadataValue:
    """Clusters by size with zone, score, margin and what sets them apart."""
    rows = [
        {**zone, **found}
        for zone, found in zip(zones["clusters"].to_pylist(), clusters["clusters"].to_pylist(), strict=True)
    ]
    rows.sort(key=lambda row: -row["size"])
    names = ["cluster", "rows", "zone", "score", "margin", "event", "evidence"]
    cells = [
        [
            cluster_label(row["cluster_id"]), str(row["size"]), row["zone"], f"{row['zone_score']:.2f}",
            f"{row['zone_margin']:.2f}", row["event"], reading(zones, row["cluster_id"]),
        ]
        for row in rows[: 4 * NUM_ROWS]
    ]  # fmt: skip
    return dg.MetadataValue.md(markdown(names, cells) if cells else "No clusters detected")


def markdown(names: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
