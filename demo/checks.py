"""What must be true at the end of the demo, looked up where it lies: database, bundle, the sidecar's answers."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from attn_core.bundle import LATEST, Bundle, open_bundle
from attn_core.errors import AttnError
from attn_core.fingerprint import valid_rows, vectors_from_blobs
from attn_core.store import HOUR_US, open_reader
from demo.processes import DemoError
from demo.traffic import Answer


@dataclass(frozen=True)
class Stored:
    """What the database holds of the demo's requests."""

    num_fingerprints: int
    hours_us: tuple[int, ...]
    """The hours they were captured in, ascending."""


def count_stored(database: Path, answers: Sequence[Answer]) -> int:
    """How many fingerprints of these answers are committed."""
    try:
        with closing(open_reader(database)) as connection:
            return sum(_steps(connection, answer.request_id)[0] for answer in answers)
    except (AttnError, sqlite3.Error):
        return 0


def _steps(connection: sqlite3.Connection, request_id: str) -> tuple[int, int]:
    """(rows, distinct steps) of a request."""
    query = "SELECT count(*), count(DISTINCT step) FROM fingerprints WHERE request_id = ?"
    rows, steps = connection.execute(query, (request_id,)).fetchone()
    return int(rows), int(steps)


def require_stored(database: Path, answers: Sequence[Answer], *, at_least: int) -> Stored:
    """Every step of every answer is in the database exactly once, and every vector of the database is valid."""
    with closing(open_reader(database)) as connection:
        for answer in answers:
            found = _steps(connection, answer.request_id)
            if found != (len(answer.attention),) * 2:
                raise DemoError(
                    f"answer {answer.request_id} has {len(answer.attention)} tokens, the database holds {found[0]} "
                    f"rows of {found[1]} steps: see the sidecar's log"
                )
        rows = connection.execute(
            "SELECT vector, coalesce(context_len, 0), captured_at_us FROM fingerprints"
        ).fetchall()
    vectors = vectors_from_blobs([row[0] for row in rows])
    bad = np.flatnonzero(~valid_rows(vectors, np.array([row[1] for row in rows])))
    if len(bad):
        raise DemoError(f"{len(bad)} of {len(rows)} stored fingerprints break an invariant, the first at row {bad[0]}")
    if len(rows) < at_least:
        raise DemoError(f"the database holds {len(rows)} fingerprints, expected at least {at_least}")
    hours = sorted({row[2] // HOUR_US * HOUR_US for row in rows})
    return Stored(num_fingerprints=len(rows), hours_us=tuple(hours))


def require_bundle(discovery: Path) -> Bundle:
    """The published bundle, every hash verified."""
    try:
        return open_bundle(discovery / LATEST)
    except AttnError as error:
        raise DemoError(f"discovery published no bundle that verifies: {error}") from error


def served_run_id(sidecar_url: str) -> str | None:
    """The run that the sidecar serves at this moment."""
    try:
        answer = httpx.get(f"{sidecar_url}/discovery/status", timeout=5)
        return answer.json().get("run_id")  # type: ignore[no-any-return]
    except (httpx.HTTPError, ValueError):
        return None


def classify(sidecar_url: str, token: dict[str, Any], *, run_id: str) -> dict[str, Any]:
    """Classify one captured token over HTTP; the answer must come from this run."""
    body = {
        "vector": token["fingerprint"],
        "context_len": token["context_len"],
        "sink_mass": token["sink_mass"],
        "periodicity": token["periodicity"],
    }
    answer = httpx.post(f"{sidecar_url}/classify", json=body, timeout=10)
    if answer.status_code != 200 or answer.json().get("run_id") != run_id:
        raise DemoError(f"POST /classify answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()["manifold"]  # type: ignore[no-any-return]


def require_explorer(sidecar_url: str) -> None:
    """The sidecar serves the built explorer."""
    answer = httpx.get(f"{sidecar_url}/", timeout=10)
    if answer.status_code != 200 or '<div id="root"' not in answer.text:
        raise DemoError(f"GET / of the sidecar is not the explorer (status {answer.status_code}): run make ui")
