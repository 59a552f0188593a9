"""What the last published run says of this run's rows: where stable ids come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_assets.discovery.lineage import UNSEEN
from attn_core.bundle import Bundle

I32 = npt.NDArray[np.int32]
_CLUSTER = "cluster_before"


@dataclass(frozen=True, kw_only=True)
class Previous:
    """Each row's cluster in the last run, and the first id that no run has used."""

    run_id: str | None
    before: I32
    """[m], -1 noise, -2 not in that run's window."""
    next_id: int


def previous_of(rows: pa.Table, bundle: Bundle | None) -> Previous:
    """`rows` has the columns request_id and step; without a bundle every row is unseen and ids start at 0."""
    if bundle is None:
        return Previous(run_id=None, before=np.full(rows.num_rows, UNSEEN, dtype=np.int32), next_id=0)
    old = bundle.table("embeddings").select(["request_id", "step", "cluster_id"])
    old = old.rename_columns(["request_id", "step", _CLUSTER])
    keys = rows.select(["request_id", "step"]).append_column("row", pa.array(np.arange(rows.num_rows)))
    joined = keys.join(old, keys=["request_id", "step"], join_type="left outer").sort_by("row")
    before = joined.column(_CLUSTER).fill_null(UNSEEN).to_numpy().astype(np.int32)
    known = bundle.manifest.get("next_cluster_id")
    ids = bundle.table("clusters").column("cluster_id").to_numpy()
    next_id = int(known) if isinstance(known, int) else int(ids.max(initial=-1)) + 1
    return Previous(run_id=bundle.run_id, before=before, next_id=next_id)
