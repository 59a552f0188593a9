"""What a bundle holds for the run after it: the map's frame, and what became of each cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attn_assets.discovery.frame import FILE_NAME as FRAME
from attn_assets.discovery.frame import MAX_ANCHORS, Anchors
from attn_assets.discovery.learned_space import coordinates
from attn_assets.discovery.models import Models
from attn_assets.discovery.sample import lasting_rows
from attn_assets.discovery.tables import embedding_of, facts_of
from attn_assets.discovery.window import Window
from attn_core.space import Space

LINEAGE = "lineage.parquet"
_SEED = 0x616E63686F72
"""Another one than the sample's, which it is drawn from."""


def write_remembered(
    directory: Path, *, located: pa.Table, window: Window, space: Space, clusters: Mapping[str, pa.Table]
) -> None:
    """Write `lineage.parquet` and `frame.npz` into a bundle that is being made."""
    pq.write_table(clusters["lineage"], directory / LINEAGE, compression="zstd")
    anchors = anchors_of(located, window, space)
    if anchors is not None:
        anchors.save(directory / FRAME)


def anchors_of(located: pa.Table, window: Window, space: Space) -> Anchors | None:
    """At most `MAX_ANCHORS` rows of the map's sample; None where the window has no map."""
    frame = facts_of(located).get("frame")
    if frame is None:
        return None
    embedding = embedding_of(located)
    sampled = np.flatnonzero(embedding.in_sample)
    rows = sampled[lasting_rows(located.column("id").to_numpy()[sampled], size=MAX_ANCHORS, seed=_SEED)]
    birth = frame["trustworthiness_at_birth"]
    return Anchors(
        features=coordinates(window, Models.from_column(located.column("model_id")), space, rows).main,
        rests_on=facts_of(located)["rests_on"],
        positions=embedding.positions[rows],
        since_us=int(frame["since_us"]),
        trustworthiness=float("nan") if birth is None else float(birth),
    )
