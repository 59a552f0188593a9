"""The writer's way to the database: opened when needed, opened again after what a connection does not survive."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attn_core.errors import StoreError
from attn_core.store import open_writer
from attn_sidecar.logs import log_event, logger_named

_LOG = logger_named("store")
_SURVIVED = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_CONSTRAINT")
"""After these the same connection can go on."""
_MAY_PASS = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CORRUPT")
"""What keeps a database from being opened now and need not tomorrow; anything else is a wrong file or folder."""


class Access:
    """The one read-write connection. Used on the writing thread only."""

    def __init__(
        self, path: Path, *, busy_timeout_ms: int, on_open: Callable[[sqlite3.Connection], None] = lambda _: None
    ) -> None:
        """`on_open` is given each connection that is made."""
        self._on_open = on_open
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def connection(self) -> sqlite3.Connection:
        """The connection to the file that bears the name now; raises `StoreError` where it cannot be opened.

        Without a look at the name, a database that was moved away or replaced would be written to where nobody reads.
        """
        if self._connection is not None and self._file != identity(self._path):
            log_event(_LOG, logging.WARNING, "store.replaced", database=self._path)
            self.close()
        if self._connection is None:
            connection = open_writer(self._path)
            connection.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms}")
            self._connection, self._file = connection, identity(self._path)
            self._on_open(connection)
        return self._connection

    def failed(self, error: Exception) -> None:
        """Take note of a failure: where the connection may not have survived it, the next use opens another."""
        if not getattr(error, "sqlite_errorname", "").startswith(_SURVIVED):
            self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # The rest of the log goes into the file, so that a copy of the file alone is whole. Where that fails the
            # log stays and nothing is lost.
            with suppress(sqlite3.Error):
                # Said outright, for closing alone leaves the log where it is as long as anyone reads.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with suppress(sqlite3.Error):
                connection.close()


def may_pass(error: StoreError) -> bool:
    """Whether a database that cannot be opened for this reason may be opened later, as it is."""
    return getattr(error.__cause__, "sqlite_errorname", "").startswith(_MAY_PASS)


def identity(path: Path) -> tuple[int, int] | None:
    """Which file bears this name now, None where none does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
