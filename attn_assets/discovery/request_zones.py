"""The zone of a whole request: what its sequence of fingerprints says, where the model's zones are calibrated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_assets.discovery.labelling import ClusterZones
from attn_assets.discovery.tables import zone_array
from attn_assets.discovery.window import Window, numbered
from attn_core.zone_scorer import INPUTS, ZoneScorer

I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


def request_zones(located: pa.Table, window: Window, scorer: ZoneScorer | None, own: F32) -> pa.Table:
    """A row a request, in the order of their first appearance: request_id, zone, zone_confidence.

    With a calibration its sequence head answers, from the mean of the request's tokens and the first of them there is.
    Without one the zone is that of the highest mean of the tokens' probabilities `own` [m, 5], and its confidence null.
    """
    request_no, ids = numbered(located.column("request_id")), located.column("request_id").unique()
    if len(ids) == 0:
        probabilities = np.zeros((0, own.shape[1]), dtype=np.float32)
    else:
        order = np.lexsort((located.column("step").to_numpy(), request_no))
        start = np.concatenate([[0], np.cumsum(np.bincount(request_no, minlength=len(ids)))])
        if scorer is not None:
            probabilities = scorer.request_probabilities(window.zone_inputs(scorer)[order], start)
        else:
            sums = np.add.reduceat(own[order].astype(np.float64), start[:-1], axis=0)
            probabilities = (sums / np.diff(start)[:, None]).astype(np.float32)
    confidence = pa.array(probabilities.max(axis=1, initial=0.0), pa.float32())
    return pa.table(
        {
            "request_id": ids,
            "zone": zone_array(probabilities.argmax(axis=1).astype(np.int8)).cast(pa.string()),
            "zone_confidence": pa.nulls(len(ids), pa.float32()) if scorer is None else confidence,
        }
    )


def with_deciding(zones: ClusterZones, labels: I32, window: Window, scorer: ZoneScorer) -> ClusterZones:
    """The clusters' evidence with the calibration's inputs that decided for each one's zone.

    Beside `mean` and `lift` such an entry has `adds`: by how much it raises the zone's score over that of all zones.
    """
    inputs = window.zone_inputs(scorer)
    usual, spread = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-9)
    reasons = []
    for cluster, (reason, zone) in enumerate(zip(zones.evidence, zones.zone_index, strict=True)):
        mean = inputs[labels == cluster].mean(axis=0)
        deciding = {
            name: {
                "mean": round(float(mean[INPUTS.index(name)]), 4),
                "lift": round(float(((mean - usual) / spread)[INPUTS.index(name)]), 3),
                "adds": round(added, 3),
            }
            for name, added in scorer.deciding(mean, usual, int(zone))
        }
        reasons.append({**reason, **deciding})
    return replace(zones, evidence=tuple(reasons))
