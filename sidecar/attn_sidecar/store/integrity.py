"""Is the database whole? Asked once at start, beside the work, and again when a damaged file was replaced."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

from attn_core.errors import StoreError
from attn_core.store import open_reader
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import log_event, logger_named
from attn_sidecar.service_thread import ServiceThread

_LOG = logger_named("integrity")
PART = "integrity"
_LOOK_AGAIN_S = 1.0
_MOST_FAULTS = 3


class IntegrityCheck:
    """`PRAGMA quick_check` on a thread of its own: it reads every page, and nobody should wait for that."""

    def __init__(self, path: Path, *, health: HealthBoard) -> None:
        self._path = path
        self._health = health
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self.thread = ServiceThread("attn-integrity", part="integrity", run=self._run, health=health, blocks=False)

    def start(self) -> None:
        """Begin to look."""
        self.thread.start()

    def stop(self) -> None:
        """End the thread, also in the middle of a look."""
        self._stopping.set()
        with self._lock:
            if self._connection is not None:
                self._connection.interrupt()
        self.thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            looked_at = self._inode()
            fault = self._fault()
            if self._stopping.is_set():
                return
            if fault is None:
                self._health.recover(PART)
                return
            reason = (
                f"{self._path} is damaged: {fault}. What is whole is still served; stop the sidecar, save what can be "
                f"saved with sqlite3 {self._path} .recover | sqlite3 mended.db, and put mended.db in its place"
            )
            if self._health.ail(PART, reason, blocks=False):
                log_event(_LOG, logging.ERROR, "store.damaged", reason=reason)
            while self._inode() == looked_at and not self._stopping.wait(_LOOK_AGAIN_S):
                pass

    def _fault(self) -> str | None:
        """What is damaged, None where nothing is or where the file cannot be looked at (the writer says so)."""
        try:
            with self._lock:
                self._connection = open_reader(self._path)
            rows = self._connection.execute(f"PRAGMA quick_check({_MOST_FAULTS})").fetchall()
        except StoreError as error:
            cause = getattr(error.__cause__, "sqlite_errorname", "")
            return str(error.__cause__) if cause.startswith("SQLITE_CORRUPT") else None
        except sqlite3.DatabaseError as error:
            return str(error)
        finally:
            with self._lock:
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
        found = "; ".join(" ".join(str(text).split()) for (text,) in rows)
        return None if found == "ok" else found

    def _inode(self) -> int | None:
        try:
            return self._path.stat().st_ino
        except OSError:
            return None
