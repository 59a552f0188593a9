"""The zones of requests from their stored tokens: written at their end, and computed for those who ask before that."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from attn_core.classify import Classifier
from attn_core.store import record_request_zone
from attn_sidecar.classification import rows_from_stored
from attn_sidecar.sequence_zones import SequenceZone, evidence_of

ALL = -1
"""As a bound on tokens: none."""
_ROWS_AT_ONCE = 16_384
"""Short requests are classified together, for a call costs as much as 100 tokens; more rows than these are not held."""
_TOKENS = """
SELECT vector, context_len, sink_mass, periodicity, substr(head_sketch, 33),
       (SELECT label FROM labels WHERE label_no = projection_no) FROM tokens
WHERE request_no = (SELECT request_no FROM request_numbers WHERE request_id = ?) ORDER BY step DESC LIMIT ?
"""
Rows = Sequence[tuple[Any, ...]]


def zones_of_stored(
    ask: Callable[..., Rows], models: Mapping[str, str | None], *, classifier: Classifier, most: int = ALL
) -> dict[str, SequenceZone]:
    """The zone of each request's latest `most` stored tokens, by request id; a request without a valid one has none.

    `ask` runs one query: it takes the SQL and its values, and gives the rows. `models` holds the model of each request
    that is meant, None where it is not known.
    """
    zones = {}
    for model_id in dict.fromkeys(models.values()):
        request_ids = [request_id for request_id, its in models.items() if its == model_id]
        for group in _groups((request_id, ask(_TOKENS, request_id, most)[::-1]) for request_id in request_ids):
            rows = [row for _, stored in group for row in stored]
            evidence = evidence_of(classifier, rows_from_stored(rows), model_id=model_id)
            first = 0
            for request_id, stored in group:
                found = evidence.zone(first, first + len(stored))
                first += len(stored)
                if found is not None:
                    zones[request_id] = found
    return zones


def _groups(requests: Iterator[tuple[str, Rows]]) -> Iterator[list[tuple[str, Rows]]]:
    """Requests with their rows, in groups of about `_ROWS_AT_ONCE` rows; requests without rows are left out."""
    group: list[tuple[str, Rows]] = []
    num_rows = 0
    for request_id, stored in requests:
        if not stored:
            continue
        group.append((request_id, stored))
        num_rows += len(stored)
        if num_rows >= _ROWS_AT_ONCE:
            yield group
            group, num_rows = [], 0
    if group:
        yield group


def record_zones_at_end(
    connection: sqlite3.Connection, requests: Sequence[tuple[str, pa.RecordBatch]], *, classifier: Classifier
) -> dict[str, SequenceZone]:
    """Store the zone of each request that ended in these rows of request events; returns the zones by request id.

    Called after the tokens and the rows of the transaction are written. Does not commit; raises `sqlite3.Error`.
    """

    def ask(sql: str, *values: object) -> Rows:
        return connection.execute(sql, values).fetchall()

    models: dict[str, str | None] = {}
    for _, rows in requests:
        events = zip(rows.column("request_id").to_pylist(), rows.column("event").to_pylist(), strict=True)
        for request_id in (request_id for request_id, event in events if event == "ended"):
            # The row's, for a request keeps the model that it was first reported with.
            models[request_id] = ask("SELECT model_id FROM requests WHERE request_id = ?", request_id)[0][0]
    zones = zones_of_stored(ask, models, classifier=classifier)
    for request_id, found in zones.items():
        record_request_zone(connection, request_id=request_id, zone=found.zone, confidence=found.confidence)
    return zones
