"""Retention of what discovery keeps: rows of the database once they lie in the lake, hours of the lake, old runs.

It agrees with the sidecar's own (`--retention-hours`): rows go from the lowest id on, by the age of `stored_at_us`, in
small transactions, and the newest row always stays. It differs in one thing: a row goes only when the lake holds it.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from attn_assets.lake import Lake
from attn_core.bundle import MANIFEST, is_run_id, latest_run_id
from attn_core.store import open_reader, open_writer

ROWS_A_STEP = 8_192
ROWS_OF = "fingerprints"
"""The asset that holds what was captured; the others can be made again from it."""


@dataclass(frozen=True, kw_only=True)
class Expired:
    """What went, and what holds the rest back."""

    num_rows: int
    waiting: str = ""
    """Why older rows are still there; empty where none is."""


def expire_rows(db: Path, lake: Lake, *, before_us: int, hour_of: Callable[[int], str]) -> Expired:
    """Delete tokens stored before this instant from the database, as far as the lake holds each of them."""
    known: dict[str, set[tuple[str, int]]] = {}
    last_id, waiting = 0, ""
    with closing(open_reader(db)) as connection:
        rows = connection.execute(
            "SELECT t.id, r.request_id, t.step, t.captured_at_us, t.stored_at_us FROM tokens t "
            "LEFT JOIN request_numbers r USING (request_no) WHERE t.id < (SELECT max(id) FROM tokens) ORDER BY t.id"
        )
        for row_id, request_id, step, captured_at_us, stored_at_us in rows:
            if stored_at_us >= before_us:
                break
            hour = hour_of(captured_at_us)
            if hour not in known:
                known[hour] = _keys(lake, hour)
            if (request_id, step) not in known[hour]:
                waiting = f"row {row_id} of hour {hour} is not in the lake yet: materialise {ROWS_OF} of that hour"
                break
            last_id = row_id
    return Expired(num_rows=_delete(db, last_id=last_id) if last_id else 0, waiting=waiting)


def expire_hours(lake: Lake, *, before: str | None, max_bytes: int, not_from: str) -> list[str]:
    """Drop hours before `before`, then the oldest until the lake takes at most `max_bytes` (0: no bound).

    What can be made again goes before the captured rows. Hours from `not_from` on always stay: windows look at them.
    Returns what went, as ``asset/hour``.
    """
    stored = lake.stored()
    total = sum(one.num_bytes for one in stored)
    gone = []
    for one in sorted(stored, key=lambda one: (one.asset == ROWS_OF, one.hour)):
        is_old = before is not None and one.hour < before
        is_too_much = max_bytes > 0 and total > max_bytes
        if one.hour < not_from and (is_old or is_too_much):
            lake.drop(one.asset, one.hour)
            total -= one.num_bytes
            gone.append(f"{one.asset}/{one.hour}")
    return gone


def expire_runs(discovery_dir: Path, *, keep: int) -> list[str]:
    """Remove published runs but the newest `keep`; `latest` and the run before it always stay. Returns their ids."""
    latest = latest_run_id(discovery_dir)
    published = sorted(path.parent.name for path in discovery_dir.glob(f"*/{MANIFEST}") if not path.parent.is_symlink())
    published = [run_id for run_id in published if is_run_id(run_id)]
    staying = {latest, _previous(discovery_dir, latest), *published[-keep:]}
    gone = [run_id for run_id in published if run_id not in staying]
    for run_id in gone:
        # Out of the way first: a reader finds the whole run or none.
        aside = discovery_dir / f".expired-{run_id}"
        (discovery_dir / run_id).rename(aside)
        shutil.rmtree(aside)
    return gone


def _previous(discovery_dir: Path, run_id: str | None) -> str | None:
    if run_id is None:
        return None
    try:
        found = json.loads((discovery_dir / run_id / MANIFEST).read_text(encoding="utf-8")).get("previous_run_id")
    except (OSError, ValueError):
        return None
    return None if found is None else str(found)


def _keys(lake: Lake, hour: str) -> set[tuple[str, int]]:
    # A file that cannot be read holds nothing that may be deleted elsewhere.
    rows = lake.rows(ROWS_OF, [hour])
    if rows is None:
        return set()
    columns = (rows.column(name).to_pylist() for name in ("request_id", "step"))
    return set(zip(*columns, strict=True))


def _delete(db: Path, *, last_id: int) -> int:
    """Tokens up to this id, in portions, and the requests of which nothing is left then."""
    deleted = 0
    with closing(open_writer(db)) as connection:
        while True:
            top = connection.execute(
                "SELECT max(id) FROM (SELECT id FROM tokens WHERE id <= ? ORDER BY id LIMIT ?)", (last_id, ROWS_A_STEP)
            ).fetchone()[0]
            if top is None:
                return deleted
            deleted += _delete_portion(connection, top)


def _delete_portion(connection: sqlite3.Connection, top: int) -> int:
    connection.execute("BEGIN IMMEDIATE")
    try:
        sql = "SELECT DISTINCT request_no FROM tokens WHERE id <= ?"
        numbers = json.dumps([number for (number,) in connection.execute(sql, (top,))])
        deleted = connection.execute("DELETE FROM tokens WHERE id <= ?", (top,)).rowcount
        emptied = connection.execute(
            "SELECT request_no, request_id FROM request_numbers WHERE request_no IN (SELECT value FROM json_each(?)) "
            "AND NOT EXISTS (SELECT 1 FROM tokens AS t WHERE t.request_no = request_numbers.request_no)",
            (numbers,),
        ).fetchall()
        connection.executemany("DELETE FROM request_numbers WHERE request_no = ?", [(one,) for one, _ in emptied])
        connection.executemany("DELETE FROM requests WHERE request_id = ?", [(one,) for _, one in emptied])
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return deleted
