"""A look at a database from outside, for the doctor: changes nothing, waits for nobody."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from attn_core.store import max_id as newest_id
from attn_core.store import open_reader

_STEPS_BETWEEN_LOOKS = 100_000
_MOST_FAULTS = 3


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found in a database that could be opened."""

    newest_id: int
    newest_stored_at_us: int | None
    faults: str | None
    """What ``PRAGMA quick_check`` complains of, None where nothing."""
    finished: bool
    """False where the check was given up for time."""


def examine(path: Path, *, within_s: float) -> Examination:
    """Open it, read its end, check its pages; raises `StoreError` where it cannot be opened."""
    with closing(open_reader(path)) as connection:
        newest, stored_at_us, faults, finished = 0, None, None, True
        try:
            newest = newest_id(connection)
            row = connection.execute("SELECT stored_at_us FROM tokens WHERE id = ?", (newest,)).fetchone()
            stored_at_us = None if row is None else row[0]
            give_up_s = time.monotonic() + within_s
            connection.set_progress_handler(lambda: int(time.monotonic() > give_up_s), _STEPS_BETWEEN_LOOKS)
            rows = connection.execute(f"PRAGMA quick_check({_MOST_FAULTS})").fetchall()
        except sqlite3.OperationalError as error:
            finished = getattr(error, "sqlite_errorname", "") != "SQLITE_INTERRUPT"
            faults = str(error) if finished else None
        except sqlite3.DatabaseError as error:
            faults = str(error)
        else:
            found = "; ".join(" ".join(str(text).split()) for (text,) in rows)
            faults = None if found == "ok" else found
        return Examination(newest_id=newest, newest_stored_at_us=stored_at_us, faults=faults, finished=finished)


def why_not_writable(path: Path, *, wait_ms: int) -> str | None:
    """Why the write lock cannot be had within this time, None where it can; nothing is written."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA busy_timeout = {wait_ms}")
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            return str(error)
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
    return None
