"""Retention: what is too old, or too much for the disk, is deleted from the oldest on, in small transactions.

The writing thread calls `step` between commits, so that ingest waits for one small deletion at most. Rows go in the
order of their ids, and the newest row always stays: ids are the cursors of readers and sensors, and would begin again
in an empty table. Age counts from `stored_at_us`, the sidecar's own clock: senders' clocks decide nothing here.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

HOUR_US = 3_600_000_000
LEAST_ROWS_A_STEP = 2_048
MOST_ROWS_A_STEP = 16_384
_REQUESTS_A_STEP = 256
_HIGH_SHARE, _LOW_SHARE = 0.9, 0.85
"""Deleting begins above the first share of `max_db_bytes` and goes on down to the second."""


@dataclass
class RetentionCounters:
    """Counted since start, read by `/stats`."""

    num_fingerprints: int = 0
    num_requests: int = 0


class Retention:
    """Keeps the store within `hours` and `max_db_bytes`; None: no such bound."""

    def __init__(self, *, hours: float | None, max_db_bytes: int | None, now_us: Callable[[], int]) -> None:
        self._age_us = None if hours is None else int(hours * HOUR_US)
        self._max_bytes = max_db_bytes
        self._now_us = now_us
        self._shrinking = False
        self.counters = RetentionCounters()

    @property
    def is_on(self) -> bool:
        """Whether there is any bound."""
        return self._age_us is not None or self._max_bytes is not None

    def step(self, connection: sqlite3.Connection, *, rows_arrived: int = 0) -> bool:
        """Delete one portion, more than `rows_arrived` where there are; True where there may be more at once.

        Raises `sqlite3.Error`, with nothing deleted.
        """
        most = min(MOST_ROWS_A_STEP, max(LEAST_ROWS_A_STEP, 2 * rows_arrived))
        last_id = self._last_to_go(connection, most=most)
        cutoff_us = None if self._age_us is None else self._now_us() - self._age_us
        old = [] if cutoff_us is None or last_id is not None else _old_requests(connection, cutoff_us)
        if last_id is None and not old:
            return False
        connection.execute("BEGIN IMMEDIATE")
        try:
            requests = _delete_requests(connection, old)
            tokens = 0
            if last_id is not None:
                tokens, more = _delete_tokens(connection, last_id)
                requests += more
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self.counters.num_fingerprints += tokens
        self.counters.num_requests += requests
        return tokens > 0 or requests > 0

    def _last_to_go(self, connection: sqlite3.Connection, *, most: int) -> int | None:
        """The id up to which rows go now, at most `most` of them; None where none does."""
        oldest = "SELECT id, stored_at_us FROM tokens WHERE id < (SELECT max(id) FROM tokens) ORDER BY id LIMIT ?"
        found: list[int | None] = []
        if self._age_us is not None:
            # Up to the first that is young enough: a prefix, whatever the clock did meanwhile.
            young = f"SELECT min(id) FROM ({oldest}) WHERE stored_at_us >= ?"  # noqa: S608 - our own words
            cutoff_us = self._now_us() - self._age_us
            first_young = connection.execute(young, (most, cutoff_us)).fetchone()[0]
            sql = f"SELECT max(id) FROM ({oldest}) WHERE id < coalesce(?, id + 1)"  # noqa: S608
            found.append(connection.execute(sql, (most, first_young)).fetchone()[0])
        if self._max_bytes is not None and self._is_too_much(connection):
            found.append(connection.execute(f"SELECT max(id) FROM ({oldest})", (most,)).fetchone()[0])  # noqa: S608
        return max((one for one in found if one is not None), default=None)

    def _is_too_much(self, connection: sqlite3.Connection) -> bool:
        assert self._max_bytes is not None
        used = used_bytes(connection)
        if used > _HIGH_SHARE * self._max_bytes:
            self._shrinking = True
        elif used <= _LOW_SHARE * self._max_bytes:
            self._shrinking = False
        return self._shrinking


def used_bytes(connection: sqlite3.Connection) -> int:
    """What the pages in use take; free ones are filled again before the file grows."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _delete_tokens(connection: sqlite3.Connection, last_id: int) -> tuple[int, int]:
    """Tokens up to this id, and the requests of which nothing is left then; returns how many of each."""
    # By the rows, of which few are meant: left to itself SQLite reads the whole index of (request_no, step).
    sql = "SELECT DISTINCT request_no FROM tokens NOT INDEXED WHERE id <= ?"
    numbers = [number for (number,) in connection.execute(sql, (last_id,))]
    tokens = connection.execute("DELETE FROM tokens WHERE id <= ?", (last_id,)).rowcount
    connection.execute(
        "DELETE FROM head_figures WHERE request_no IN (SELECT value FROM json_each(?)) AND NOT EXISTS "
        "(SELECT 1 FROM tokens AS t WHERE t.request_no = head_figures.request_no AND t.step = head_figures.step)",
        (json.dumps(numbers),),
    )
    gone = connection.execute(
        "SELECT request_no, request_id FROM request_numbers WHERE request_no IN (SELECT value FROM json_each(?)) "
        "AND NOT EXISTS (SELECT 1 FROM tokens AS t WHERE t.request_no = request_numbers.request_no)",
        (json.dumps(numbers),),
    ).fetchall()
    connection.executemany("DELETE FROM request_numbers WHERE request_no = ?", [(number,) for number, _ in gone])
    return tokens, _delete_requests(connection, [request_id for _, request_id in gone])


def _old_requests(connection: sqlite3.Connection, cutoff_us: int) -> list[str]:
    """Requests over before this instant of which no token is held: those that never had one among them."""
    sql = """
        SELECT request_id FROM requests AS r
        WHERE (started_at_us < :cutoff_us OR started_at_us IS NULL)
            AND coalesce(ended_at_us, started_at_us) < :cutoff_us
            AND NOT EXISTS (
                SELECT 1 FROM request_numbers AS n JOIN tokens AS t USING (request_no) WHERE n.request_id = r.request_id
            )
        LIMIT :most
    """
    values = {"cutoff_us": cutoff_us, "most": _REQUESTS_A_STEP}
    return [request_id for (request_id,) in connection.execute(sql, values)]


def _delete_requests(connection: sqlite3.Connection, request_ids: list[str]) -> int:
    sql = "DELETE FROM requests WHERE request_id = ?"
    return connection.executemany(sql, [(request_id,) for request_id in request_ids]).rowcount if request_ids else 0
