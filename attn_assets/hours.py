"""An hour's rows, put together from what the database holds now and what the lake held before; hours that lack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attn_core.store import HOUR_US, with_all_columns

_KEY = ["request_id", "step"]


def with_expired_rows(rows: pa.Table, *, stored: pa.Table | None, oldest_id: int | None) -> tuple[pa.Table, int]:
    """`rows` of the database, and those of `stored` that retention has deleted there since: by instant and id.

    Second, how many those are. Retention deletes from the lowest id on, so what lies below `oldest_id` went by age or
    size and is kept. A stored row above it that the database lacks was deleted by hand, and goes here too. Both tables
    have the columns of `attn_core.store.STORED`, or those that an older version wrote.
    """
    if stored is None or not stored.num_rows:
        return rows, 0
    stored = with_all_columns(stored)
    expired = stored if oldest_id is None else stored.filter(pc.less(stored.column("id"), oldest_id))
    fresh = expired.select(_KEY).append_column("at", pa.array(np.arange(expired.num_rows)))
    fresh = fresh.join(rows.select(_KEY), keys=_KEY, join_type="left anti")
    kept = expired.take(fresh.column("at").sort())
    if not kept.num_rows:
        return rows, 0
    both = pa.concat_tables([kept.select(rows.column_names).cast(rows.schema), rows])
    return both.sort_by([("captured_at_us", "ascending"), ("id", "ascending")]), kept.num_rows


def missing_hours(rows: pa.Table, *, captured_hours_us: Sequence[int]) -> list[int]:
    """Those of the database's hours (starts, UTC microseconds) of which `rows` has none: absent is not empty."""
    present = np.unique(rows.column("captured_at_us").to_numpy() // HOUR_US * HOUR_US)
    return sorted(set(captured_hours_us) - set(present.tolist()))
