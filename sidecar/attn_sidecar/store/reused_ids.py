"""Ids that a client used again: each answer is a request of its own, under a name of its own.

A client may send an id a second time once its first answer has ended (a retry, an agent or a health probe with a fixed
id, a trace id). The second answer has the same request id and the same steps. It is told from the first by time:

- A request event ``started`` with another instant than the stored one begins another answer. What was captured from
  then on belongs to it, until the next begins.
- A token whose (request_id, step) is held with another instant *and* another vector begins another answer too: its
  start was never reported. A token that was sent again has the same bytes, so it never does.

The first answer keeps the id. The next ones are called ``id~2``, ``id~3``, ...; `reused_ids` says which id they had.
Only the writing thread calls this, inside its transaction.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_core.wire import vectors_from_rows

_BEFORE_ALL = -(2**62)


@dataclass(frozen=True, kw_only=True)
class AnswersOfId:
    """The answers of one id by their beginnings, ascending."""

    began_at_us: list[int]
    request_ids: list[str]

    def at(self, instant_us: int) -> str:
        """The answer that what was captured then belongs to."""
        return self.request_ids[max(bisect_right(self.began_at_us, instant_us) - 1, 0)]


def name_starts(
    connection: sqlite3.Connection, requests: Iterable[tuple[str, pa.RecordBatch, bool]]
) -> list[tuple[str, pa.RecordBatch]]:
    """The request events with each id replaced by the name of its answer; new answers are written down.

    Each of `requests` has a model, rows, and whether their instants are this machine's own: then a repeat cannot be
    told from a new answer, and none is begun.
    """
    named = []
    for model_id, rows, redated in requests:
        ids, events = rows.column("request_id").to_pylist(), rows.column("event").to_pylist()
        names = []
        for request_id, event, at_us in zip(ids, events, rows.column("at_us").to_pylist(), strict=True):
            if event == "started" and not redated and _is_another(connection, request_id, at_us):
                names.append(_begin(connection, request_id, at_us))
            else:
                found = _answers_of(connection, request_id)
                names.append(request_id if found is None else found.at(at_us))
            if event == "started":
                # At once, so that a second start in the same transaction is seen.
                connection.execute(
                    "INSERT INTO requests (request_id, model_id, started_at_us) VALUES (?, ?, ?) "
                    "ON CONFLICT (request_id) DO UPDATE SET "
                    "started_at_us = coalesce(started_at_us, excluded.started_at_us)",
                    (names[-1], model_id, at_us),
                )
        named.append((model_id, with_ids(rows, names) if names != ids else rows))
    return named


def name_tokens(connection: sqlite3.Connection, rows: pa.RecordBatch) -> pa.RecordBatch:
    """The token rows with each id that was used again replaced by the name of the answer that the row belongs to."""
    if connection.execute("SELECT 1 FROM reused_ids LIMIT 1").fetchone() is None:
        return rows
    encoded = rows.column("request_id").dictionary_encode()
    answers = [_answers_of(connection, request_id) for request_id in encoded.dictionary.to_pylist()]
    if not any(answers):
        return rows
    ids, codes = rows.column("request_id").to_pylist(), encoded.indices.to_pylist()
    at_us = rows.column("captured_at_us").to_pylist()
    for i, code in enumerate(codes):
        if (found := answers[code]) is not None:
            ids[i] = found.at(at_us[i])
    return with_ids(rows, ids)


def rows_of_other_answers(
    connection: sqlite3.Connection, rows: pa.RecordBatch
) -> tuple[npt.NDArray[np.int64], pa.RecordBatch] | None:
    """Rows whose place is held by a token of another answer, under the names of the answers that they begin.

    Asked for where an insertion left rows out. Returns their places in `rows`, [m], and m rows; None where every row
    that was left out is a repeat.
    """
    vectors = np.ascontiguousarray(vectors_from_rows(rows), dtype="<f4")
    ids, steps = rows.column("request_id").to_pylist(), rows.column("step").to_pylist()
    at_us = rows.column("captured_at_us").to_pylist()
    others: dict[str, list[int]] = {}
    for i, place in enumerate(zip(ids, steps, strict=True)):
        held = connection.execute(_HELD, place).fetchone()
        if held is not None and held[0] != at_us[i] and held[1] != vectors[i].tobytes():
            others.setdefault(ids[i], []).append(i)
    if not others:
        return None
    places, names = [], []
    for request_id, members in others.items():
        response_id = _response_id(connection, request_id)
        name = _begin(connection, response_id, min(at_us[i] for i in members))
        places += members
        names += [name] * len(members)
    return np.array(places, dtype=np.int64), with_ids(rows.take(pa.array(places)), names)


_HELD = """
SELECT t.captured_at_us, t.vector FROM tokens AS t
WHERE t.request_no = (SELECT request_no FROM request_numbers WHERE request_id = ?) AND t.step = ?
"""


def _is_another(connection: sqlite3.Connection, request_id: str, at_us: int) -> bool:
    """Whether a start at this instant begins an answer that is not held yet, though the id is."""
    held = connection.execute("SELECT started_at_us, ended_at_us FROM requests WHERE request_id = ?", (request_id,))
    first = held.fetchone()
    if first is None:
        return False
    started_at_us, ended_at_us = first
    if started_at_us is None:
        # Only its end was reported, or nothing but its tokens: this is its start unless it came after that end.
        return ended_at_us is not None and at_us > ended_at_us
    if started_at_us == at_us:
        return False
    sql = "SELECT 1 FROM reused_ids WHERE response_id = ? AND began_at_us = ?"
    return connection.execute(sql, (request_id, at_us)).fetchone() is None


def _begin(connection: sqlite3.Connection, response_id: str, at_us: int) -> str:
    """Write down another answer of this id; returns its name."""
    sql = "SELECT count(*) FROM reused_ids WHERE response_id = ?"
    number = int(connection.execute(sql, (response_id,)).fetchone()[0]) + 2
    taken = "SELECT 1 FROM {} WHERE request_id = ?"
    while any(
        connection.execute(taken.format(table), (f"{response_id}~{number}",)).fetchone()
        for table in ("reused_ids", "request_numbers", "requests")
    ):
        number += 1
    name = f"{response_id}~{number}"
    connection.execute("INSERT INTO reused_ids VALUES (?, ?, ?)", (name, response_id, at_us))
    return name


def _answers_of(connection: sqlite3.Connection, response_id: str) -> AnswersOfId | None:
    """The answers of an id, None where it has no more than one."""
    sql = "SELECT began_at_us, request_id FROM reused_ids WHERE response_id = ?"
    found: list[tuple[int, str]] = connection.execute(sql, (response_id,)).fetchall()
    if not found:
        return None
    found.append((_first_began_us(connection, response_id), response_id))
    found.sort()
    return AnswersOfId(began_at_us=[at for at, _ in found], request_ids=[name for _, name in found])


def _first_began_us(connection: sqlite3.Connection, request_id: str) -> int:
    """When the answer that keeps the id began: as reported, else its earliest token, else before all others."""
    sql = "SELECT started_at_us FROM requests WHERE request_id = ? AND started_at_us IS NOT NULL"
    found = connection.execute(sql, (request_id,)).fetchone()
    if found is None:
        sql = (
            "SELECT min(captured_at_us) FROM tokens "
            "WHERE request_no = (SELECT request_no FROM request_numbers WHERE request_id = ?)"
        )
        found = connection.execute(sql, (request_id,)).fetchone()
    return _BEFORE_ALL if found[0] is None else int(found[0])


def _response_id(connection: sqlite3.Connection, request_id: str) -> str:
    found = connection.execute("SELECT response_id FROM reused_ids WHERE request_id = ?", (request_id,)).fetchone()
    return request_id if found is None else str(found[0])


def with_ids(rows: pa.RecordBatch, ids: list[str]) -> pa.RecordBatch:
    """These rows under these request ids."""
    columns = [pa.array(ids, pa.string()), *rows.columns[1:]]
    assert rows.schema.names[0] == "request_id"
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)
