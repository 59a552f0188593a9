"""Small tables and shares for the Dagster UI."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from attn_assets.discovery.tables import reading
from attn_assets.plots import COLOURS, map_png, reliability_png, zones_png
from attn_core.classify import cluster_label
from attn_core.store import HOUR_US
from attn_core.zones import ZONES

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


def zone_plots(zones: Mapping[str, pa.Table], located: pa.Table) -> dict[str, Any]:
    """`map` and `zones_per_hour` as pictures, shown by Dagster's UI where a run's metadata stands."""
    if not located.num_rows:
        return {}
    names = zones["points"].column("zone")
    zone_index = np.asarray(pc.index_in(names.cast(pa.string()), pa.array(ZONES))).astype(np.int8)
    hours = located.column("captured_at_us").to_numpy() // HOUR_US
    counts = np.zeros((int(hours.max() - hours.min()) + 1, len(ZONES)), dtype=np.int64)
    np.add.at(counts, (hours - hours.min(), zone_index.astype(np.int64)), 1)
    drawn = map_png(located.column("x").to_numpy(), located.column("y").to_numpy(), zone_index)
    legend = ", ".join(f"{name} {_hex(colour)}" for name, colour in zip(ZONES, COLOURS, strict=True))
    return {
        "map": dg.MetadataValue.md(f"{picture(drawn)}\n\n{legend}"),
        "zones_per_hour": dg.MetadataValue.md(picture(zones_png(counts))),
    }


def reliability_preview(confidence: Mapping[str, Any]) -> dict[str, Any]:
    """`reliability`: how often other heads gave the same zone, by confidence, as a table and a picture."""
    rows = confidence.get("reliability")
    if not rows:
        return {}
    names = ["confidence", "same zone", "share of tokens"]
    cells = [[f"{row[name]:.3f}" for name in ("confidence", "correct", "share")] for row in rows]
    fitted = f"Fitted on {confidence.get('model')}, judged on {confidence.get('num_judged')} tokens that set nothing."
    text = f"{fitted}\n\n{markdown(names, cells)}\n\n{picture(reliability_png(rows))}"
    return {"reliability": dg.MetadataValue.md(text)}


def picture(png: bytes) -> str:
    """A PNG as Markdown, without a file beside it."""
    return f"![](data:image/png;base64,{base64.b64encode(png).decode()})"


def _hex(colour: npt.NDArray[np.float64]) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in colour)


def markdown(names: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
