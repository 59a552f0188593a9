"""How many points lie where: the map from a distance, when a million points would only hide one another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from attn_core.zones import ZONES
from attn_sidecar.map.points import PointMap, View

DENSITY = pa.schema(
    [
        pa.field("cell_x", pa.uint16(), nullable=False),
        pa.field("cell_y", pa.uint16(), nullable=False),
        pa.field("zone", pa.dictionary(pa.int8(), pa.utf8()), nullable=False),
        pa.field("num_points", pa.uint32(), nullable=False),
    ]
)
"""A row for each cell and zone that holds points; cell (0, 0) lies at the box's lowest x and y."""


def density_of(points: PointMap, view: View, *, cells: int) -> tuple[pa.RecordBatch, tuple[float, float, float, float]]:
    """Counts of all the view's points on a grid of `cells` x `cells`, and the grid's box (x0, x1, y0, y1).

    Edges that the view leaves open are those of the map; a point on the map's upper edge counts in the last cell.
    """
    x0, x1, y0, y1 = (
        edge if said is None else said
        for edge, said in zip(points.extent, (view.x0, view.x1, view.y0, view.y1), strict=True)
    )
    places = points.places_of(view)
    rows = slice(None) if places is None else places
    x, y = (np.asarray(points.columns.column(name).to_numpy()[rows], np.float64) for name in ("x", "y"))
    across, up = (
        np.clip((values - low) / max(high - low, 1e-12) * cells, 0, cells - 1).astype(np.int64)
        for values, low, high in ((x, x0, x1), (y, y0, y1))
    )
    code = (up * cells + across) * len(ZONES) + points.zone_codes[rows]
    held, counts = np.unique(code, return_counts=True)
    cell, zone = np.divmod(held, len(ZONES))
    arrays = [
        pa.array((cell % cells).astype(np.uint16)),
        pa.array((cell // cells).astype(np.uint16)),
        pa.DictionaryArray.from_arrays(pa.array(zone.astype(np.int8)), pa.array(ZONES)),
        pa.array(counts.astype(np.uint32)),
    ]
    metadata = {
        "run_id": points.run_id,
        "cells": str(cells),
        "x0": repr(x0), "x1": repr(x1), "y0": repr(y0), "y1": repr(y1),
        "num_points": str(len(x)),
    }  # fmt: skip
    return pa.RecordBatch.from_arrays(arrays, schema=DENSITY.with_metadata(metadata)), (x0, x1, y0, y1)
