"""The writing thread: owns the read-write connection, commits what waits in one transaction, then answers.

Grouping needs no timer: whatever arrives during one commit makes the next transaction. A commit that fails (disk
full, locked, read-only) is tried again and again without answering, so that the senders keep their batches; `/health`
says so.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from attn_core.classify import Classifier
from attn_core.errors import StoreError
from attn_core.store import explain
from attn_sidecar.durations import Durations
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import log_event, logger_named
from attn_sidecar.service_thread import ServiceThread
from attn_sidecar.store.access import Access, may_pass
from attn_sidecar.store.fairness import FairQueue, Job
from attn_sidecar.store.jobs import ArrivedBatch, Committed, PostedFingerprint
from attn_sidecar.store.journal import PART as JOURNAL
from attn_sidecar.store.journal import why_unsuited
from attn_sidecar.store.retention import Retention, RetentionCounters
from attn_sidecar.store.transaction import PreparedGroup, prepare, probe, write

_LOG = logger_named("store")
PART = "store"
MAX_ROWS_PER_COMMIT = 16_384
MAX_ROWS_WAITING = 65_536
BUSY_TIMEOUT_MS = 1_000
"""Shorter than the store's own: a lock is retried here, where it is also said in `/health`."""
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 2.0
_NEVER = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, ValueError, OverflowError)
"""Faults of the rows themselves: trying again is useless. (Arrow's errors are ValueErrors.)"""
_GROUPS_AHEAD = 2
_LOOK_FOR_OLD_S = 1.0


@dataclass
class WriterCounters:
    """Counted since start, read by `/stats`."""

    num_commits: int = 0
    num_failed_commits: int = 0
    num_new: int = 0
    num_repeated: int = 0
    last_commit_s: float = 0.0
    commits: Durations = field(default_factory=Durations)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The jobs of one transaction, classified where that was possible."""

    jobs: list[Job]
    prepared: PreparedGroup | None


class Writer:
    """Two threads: one classifies the next group while the other writes this one; the latter owns the connection.

    `offer` and `post` may be called from any thread and never wait for SQLite.
    """

    def __init__(
        self,
        path: Path,
        *,
        classifier: Callable[[], Classifier],
        health: HealthBoard,
        on_commit: Callable[[Committed], None],
        on_room: Callable[[], None],
        now_us: Callable[[], int],
        retention: Retention | None = None,
    ) -> None:
        self._path = path
        self._access = Access(path, busy_timeout_ms=BUSY_TIMEOUT_MS, on_open=self._look_at_journal)
        self._classifier = classifier
        self._health = health
        self._on_commit = on_commit
        self._on_room = on_room
        self._now_us = now_us
        self._retention = retention if retention is not None and retention.is_on else None
        self.removed = retention.counters if retention is not None else RetentionCounters()
        """What retention has deleted since start."""
        self._look_at_s = 0.0
        self._rows_since_step = 0
        self._jobs = FairQueue()
        self._groups: deque[_Group] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._give_up = threading.Event()
        self._failing = False
        self._starved = False
        self._no_more_groups = False
        self.thread = ServiceThread("attn-writer", part="store", run=self._run, health=health, blocks=True)
        self.preparing = ServiceThread(
            "attn-prepare", part="store", run=self._prepare_groups, health=health, blocks=True
        )
        self._opened = threading.Event()
        self._open_error: StoreError | None = None
        self.counters = WriterCounters()

    def start(self) -> None:
        """Open (or make) the database on the writing thread; raises its `StoreError` here where that is for good.

        What may pass (locked, read-only, full, damaged) is said in `/health` and tried again instead.
        """
        self.thread.start()
        self._opened.wait()
        if self._open_error is not None:
            self.thread.stopping()
            raise self._open_error
        self.preparing.start()

    @property
    def rows_waiting(self) -> int:
        """Rows that are decoded but not yet classified."""
        return self._jobs.num_rows

    def offer(self, job: ArrivedBatch) -> bool:
        """Take a batch, or return False where too much waits already: `on_room` is called when there is room."""
        with self._changed:
            if self._jobs and self._jobs.num_rows + job.batch.rows.num_rows > MAX_ROWS_WAITING:
                self._starved = True
                return False
            self._push(job)
            return True

    def post(self, job: PostedFingerprint) -> None:
        """Take a fingerprint that came over HTTP; raises `StoreError` at once where it could not be stored now."""
        with self._changed:
            alive = self.thread.is_alive() and self.preparing.is_alive()
            if self._stopping.is_set() or not alive or self._failing or self._jobs.num_rows > MAX_ROWS_WAITING:
                raise StoreError("the store cannot take fingerprints at the moment: /health says why")
            self._push(job)

    def _push(self, job: Job) -> None:
        self._jobs.push(job)
        self._changed.notify_all()

    def stop(self, *, within_s: float) -> None:
        """Commit what waits, close the database and end the threads; give up on what cannot be committed by then."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        self.thread.join(within_s)
        if self.thread.is_alive():
            with self._changed:
                self._give_up.set()
                self._changed.notify_all()
            self.thread.join(BUSY_TIMEOUT_MS / 1000 + 0.5)
        self.preparing.join(BUSY_TIMEOUT_MS / 1000)

    def _prepare_groups(self) -> None:
        """The classifying thread: keeps at most `_GROUPS_AHEAD` groups ready for the writing one."""
        while jobs := self._next_jobs():
            with self.preparing.turn():
                try:
                    prepared = prepare(jobs, classifier=self._classifier(), now_us=self._now_us())
                except Exception:
                    prepared = None
                with self._changed:
                    self._groups.append(_Group(jobs=jobs, prepared=prepared))
                    self._changed.notify_all()
        with self._changed:
            self._no_more_groups = True
            self._changed.notify_all()

    def _next_jobs(self) -> list[Job]:
        """The jobs of the next group; empty when there will be none any more."""
        with self._changed:
            while (not self._jobs or len(self._groups) >= _GROUPS_AHEAD) and not self._give_up.is_set():
                if self._stopping.is_set() and not self._jobs:
                    return []
                self._changed.wait()
            if self._give_up.is_set():
                return []
            jobs = self._jobs.take(most_rows=MAX_ROWS_PER_COMMIT)
            room, self._starved = self._starved, False
        if room:
            self._on_room()
        return jobs

    def _run(self) -> None:
        if not self._opened.is_set() and not self._open():
            return
        while not self._is_done():
            group = self._next_group()
            with self.thread.turn():
                if group:
                    self._store_until_done(group)
                elif self._health.ails(PART):
                    self._probe()
                self._retain()
        self._access.close()

    def _open(self) -> bool:
        """Open the database for the first time; False where it never can be."""
        try:
            self._access.connection()
        except StoreError as error:
            if not may_pass(error):
                self._open_error = error
                return False
            self._fail(error)
        except Exception as error:
            self._open_error = StoreError(f"{self._path} cannot be opened: {type(error).__name__}: {error}")
            return False
        finally:
            self._opened.set()
        return True

    def _look_at_journal(self, connection: sqlite3.Connection) -> None:
        """Say where the file is kept in a way that it should not be; it is written all the same."""
        reason = why_unsuited(connection, self._path)
        if reason is None:
            self._health.recover(JOURNAL)
        elif self._health.ail(JOURNAL, reason, blocks=False):
            log_event(_LOG, logging.WARNING, "store.journal", reason=reason)

    def _is_done(self) -> bool:
        with self._changed:
            return self._give_up.is_set() or (self._no_more_groups and not self._groups)

    def _next_group(self) -> _Group | None:
        """The next transaction; None where there is none yet and something else may be due."""
        with self._changed:
            if not self._groups and not self._no_more_groups and not self._give_up.is_set():
                self._changed.wait(self._patience_s())
            if not self._groups:
                return None
            group = self._groups.popleft()
            self._changed.notify_all()
            return group

    def _patience_s(self) -> float | None:
        """How long to wait for work before something else may be due."""
        if self._health.ails(PART):
            return _LAST_RETRY_S
        return None if self._retention is None else max(0.0, self._look_at_s - time.monotonic())

    def _retain(self) -> None:
        """Delete a portion of what is too old or too much, where that is due and the store is well."""
        if self._retention is None or time.monotonic() < self._look_at_s or self._health.ails(PART):
            return
        try:
            rows_arrived, self._rows_since_step = self._rows_since_step, 0
            more = self._retention.step(self._access.connection(), rows_arrived=rows_arrived)
        except (sqlite3.Error, StoreError) as error:
            self._fail(error)
        else:
            self._look_at_s = 0.0 if more else time.monotonic() + _LOOK_FOR_OLD_S

    def _store_until_done(self, group: _Group) -> None:
        """Commit this group, however long it takes; a job that can never be stored is refused alone."""
        retry_s = _FIRST_RETRY_S
        jobs, prepared = group.jobs, group.prepared
        while jobs:
            try:
                if prepared is None:
                    prepared = prepare(jobs, classifier=self._classifier(), now_us=self._now_us())
                self._commit(prepared)
            except _NEVER as error:
                self._refuse_or_split(jobs, error)
                return
            except (sqlite3.Error, StoreError, MemoryError) as error:
                jobs, prepared = self._keep_batches(jobs, error), None
                self.thread.beat()
                if self._give_up.wait(retry_s):
                    return
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
            except Exception as error:
                self.thread.survived(error, doing="a batch was refused" if len(jobs) == 1 else "a group was split")
                self._refuse_or_split(jobs, error)
                return
            else:
                return

    def _commit(self, prepared: PreparedGroup) -> None:
        began_s = time.perf_counter()
        committed, answers = write(self._access.connection(), prepared)
        self.counters.last_commit_s = time.perf_counter() - began_s
        self.counters.commits.add(self.counters.last_commit_s)
        self.counters.num_commits += 1
        self.counters.num_new += committed.num_new
        self._rows_since_step += committed.num_new
        self.counters.num_repeated += committed.num_repeated
        self._failing = False
        self._recovered()
        # It is committed: whatever those who hear of it do, it is not to be tried again.
        heard: list[Callable[[], None]] = [*answers, partial(self._on_commit, committed)]
        for tell in heard:
            try:
                tell()
            except Exception as error:
                self.thread.survived(error, doing="after a commit")

    def _probe(self) -> None:
        """Nobody writes while the store ails: find out whether it would work again."""
        try:
            probe(self._access.connection())
        except (sqlite3.Error, StoreError) as error:
            self._fail(error)
        else:
            self._recovered()

    def _fail(self, error: sqlite3.Error | StoreError | MemoryError) -> str:
        """Say in `/health` what keeps the store from being written; returns the reason."""
        self._access.failed(error)
        if isinstance(error, MemoryError):
            reason = "there is no memory left for a transaction: give the sidecar more"
        else:
            reason = str(error) if isinstance(error, StoreError) else explain(self._path, error)
        if self._health.ail(PART, reason, blocks=True):
            log_event(_LOG, logging.ERROR, "store.failing", reason=reason)
        return reason

    def _recovered(self) -> None:
        if self._health.recover(PART):
            log_event(_LOG, logging.INFO, "store.recovered", database=self._path)

    def _keep_batches(self, group: list[Job], error: sqlite3.Error | StoreError | MemoryError) -> list[Job]:
        """Say that storing fails, tell HTTP callers at once, and keep the batches, which nobody acknowledged."""
        self._failing = True
        self.counters.num_failed_commits += 1
        reason = self._fail(error)
        kept: list[Job] = []
        for job in group:
            if isinstance(job, PostedFingerprint):
                job.answer(StoreError(reason))
            else:
                kept.append(job)
        # With nothing to retry, the next post must be let through: it is the only way to learn that the cause is gone.
        self._failing = bool(kept)
        return kept

    def _refuse_or_split(self, group: list[Job], error: Exception) -> None:
        if len(group) > 1:
            for job in group:
                self._store_until_done(_Group(jobs=[job], prepared=None))
            return
        # The words of any other error may quote what was sent.
        reason = (
            f"store: {type(error).__name__}: {error}"
            if isinstance(error, sqlite3.Error)
            else (f"store: {type(error).__name__}")
        )
        log_event(_LOG, logging.ERROR, "store.refused", reason=reason)
        job = group[0]
        if isinstance(job, PostedFingerprint):
            job.answer(StoreError(reason))
        else:
            job.answer(reason)
