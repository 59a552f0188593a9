"""Bringing a database of an older schema version up to date, in one transaction: all of it or nothing.

Version 1 kept one wide table `fingerprints` with every text written out in every row. Version 2 keeps numbers in
`tokens` and shows the same columns in a view of the old name. Version 3 keeps the zone of each request's whole answer:
two more columns of `requests`, null in the rows that there are. Version 4 keeps names for the answers of ids that were
used again: one more table, empty. Version 5 keeps head sketches: two more columns of `tokens`, null in the rows that
there are, which the view shows, and one more table, empty.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

_REQUESTS = """
INSERT INTO request_numbers (request_id)
SELECT request_id FROM fingerprints_v1 GROUP BY request_id ORDER BY min(id)
"""
_LABELS = """
INSERT OR IGNORE INTO labels (label)
SELECT model_id FROM fingerprints_v1 WHERE model_id IS NOT NULL
UNION SELECT zone FROM fingerprints_v1 WHERE zone IS NOT NULL
UNION SELECT classified_run_id FROM fingerprints_v1 WHERE classified_run_id IS NOT NULL
"""
_TOKENS = """
INSERT INTO tokens (id, request_no, step, captured_at_us, stored_at_us, model_no, token_id, token_text, vector,
    context_len, sink_mass, prompt_mass, periodicity, zone_no, zone_confidence, cluster_id, classified_run_no,
    topk_positions, topk_probs, residual_mass)
SELECT f.id, r.request_no, f.step, f.captured_at_us, f.stored_at_us,
    (SELECT label_no FROM labels WHERE label = f.model_id), f.token_id, f.token_text, f.vector,
    f.context_len, f.sink_mass, f.prompt_mass, f.periodicity,
    (SELECT label_no FROM labels WHERE label = f.zone), f.zone_confidence, f.cluster_id,
    (SELECT label_no FROM labels WHERE label = f.classified_run_id),
    f.topk_positions, f.topk_probs, f.residual_mass
FROM fingerprints_v1 AS f CROSS JOIN request_numbers AS r ON r.request_id = f.request_id ORDER BY f.id
"""
_REQUEST_ZONES = ("zone TEXT", "zone_confidence REAL")
"""The columns of `requests` that version 2 lacks."""
_HEAD_SKETCHES = ("head_sketch BLOB CHECK (length(head_sketch) = 42)", "projection_no INTEGER")
"""The columns of `tokens` that version 4 lacks."""
_VIEWS = ("zones_per_hour", "newest_fingerprints", "fingerprints")


def version_of(connection: sqlite3.Connection) -> int:
    """The schema version of a database, 0 where it has none."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    # Today's schema.sql, run by hand on an older file, sets the number but can neither move rows nor add columns.
    if version >= 1 and _kind_of(connection, "fingerprints") == "table":
        return 1
    if version >= 3 and _missing(connection, "requests", _REQUEST_ZONES):
        return 2
    if version >= 5 and _missing(connection, "tokens", _HEAD_SKETCHES):
        return 4
    return version


def bring_up_to_date(connection: sqlite3.Connection, *, schema: str) -> None:
    """From an older version to that of `schema` (the text of schema.sql); raises `sqlite3.Error`, nothing changed."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have done it while this one waited for the lock.
        version = version_of(connection)
        if version == 1:
            _move_tokens(connection, schema)
        if 1 <= version <= 4:
            _add_columns(connection)
            for view in _VIEWS:
                connection.execute(f"DROP VIEW IF EXISTS {view}")
            for statement in _statements(schema):
                connection.execute(statement)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _move_tokens(connection: sqlite3.Connection, schema: str) -> None:
    """From version 1: the rows of the wide table go into the tables of `schema`."""
    for view in _VIEWS[:-1]:
        connection.execute(f"DROP VIEW IF EXISTS {view}")
    connection.execute("ALTER TABLE fingerprints RENAME TO fingerprints_v1")
    for statement in _statements(schema):
        connection.execute(statement)
    for statement in (_REQUESTS, _LABELS, _TOKENS, "DROP TABLE fingerprints_v1"):
        connection.execute(statement)


def _add_columns(connection: sqlite3.Connection) -> None:
    """The columns that tables of an older version lack; they are null in the rows that there are."""
    for table, columns in (("requests", _REQUEST_ZONES), ("tokens", _HEAD_SKETCHES)):
        for column in _missing(connection, table, columns):
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")


def _missing(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> list[str]:
    """Which of these columns the table lacks; none where there is no such table."""
    held = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    return [column for column in columns if held and column.split()[0] not in held]


def _statements(schema: str) -> Iterator[str]:
    """The statements of schema.sql that can run inside a transaction, the version's number among them."""
    statement = ""
    for line in schema.splitlines(keepends=True):
        if not statement and (line.startswith("--") or not line.strip()):
            continue
        statement += line
        if not sqlite3.complete_statement(statement):
            continue
        words = statement.split()
        if words[0] not in ("BEGIN;", "COMMIT;") and words[:2] not in (
            ["PRAGMA", "page_size"],
            ["PRAGMA", "journal_mode"],
        ):
            yield statement
        statement = ""


def _kind_of(connection: sqlite3.Connection, name: str) -> str | None:
    found = connection.execute("SELECT type FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    return None if found is None else str(found[0])
