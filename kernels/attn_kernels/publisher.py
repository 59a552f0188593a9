"""The publisher: fingerprints and requests from the scheduler to the sidecar, over ZMQ, from a thread of its own.

The scheduler only puts objects on a bounded queue and never waits. The thread makes batches of what came within
100 ms, sends them, and keeps each until the sidecar has acknowledged it (that is: committed it). When the connection
comes back, or acknowledgements stay away, everything unacknowledged is sent again in order; the sidecar drops what it
holds already. What waits long waits in a spool on disk. Memory and disk are bounded: beyond the bounds the oldest
batches are dropped, counted, logged and reported.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import zmq

from attn_core.errors import AttnError
from attn_core.wire import SourceInfo
from attn_kernels.curve import CurveKeys
from attn_kernels.link import Link
from attn_kernels.outbox import Limits, Outbox
from attn_kernels.publisher_metrics import Figures
from attn_kernels.rows import (
    RequestEvent,
    StepRows,
    by_projection,
    fingerprint_batch,
    request_batch,
    single_rows,
    with_texts,
)
from attn_kernels.spool import Spool
from attn_kernels.token_text import RequestTexts, Separate, TokenTexts

logger = logging.getLogger(__name__)

State = Literal["running", "stuck", "dead"]
_REPORT_INTERVAL_S = 1.0
_STALLED_S = 10.0
"""A thread that has not come round its loop for so long is stuck."""
_AFTER_ERROR_S = 0.5
_ABSENT_S = 1.0
"""A sidecar that has been away this long is not waited for when the server stops and there is a spool."""
_CLOSING_RESERVE_S = 0.5
"""Of the time that stopping may take, what is kept for writing the rest to the spool."""


@dataclass(frozen=True, kw_only=True)
class SpoolSettings:
    """Where batches wait on disk, and how much of it."""

    root: Path
    byte_limit: int = 1 << 30


class Publisher:
    """Sends to one sidecar. `put` from any thread; `close` drains for a bounded time.

    `text_of` gives the texts of tokens; a plain function gives that of each token alone.
    `report`, where given, is called with the figures once a second, on the publisher's thread. So is `take_matrix` with
    the bytes of each head projection that the sidecar offers: whether it was new; it raises where that one is refused.
    """

    def __init__(
        self,
        *,
        address: str,
        info: SourceInfo,
        text_of: TokenTexts | Callable[[int], str],
        privacy: bool = False,
        limits: Limits | None = None,
        spool: SpoolSettings | None = None,
        curve: CurveKeys | None = None,
        report: Callable[[Figures], None] | None = None,
        take_matrix: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._limits = limits or Limits()
        # Its put takes no lock that the publisher's thread could hold: the scheduler cannot be made to wait.
        self._queue: queue.SimpleQueue[StepRows | RequestEvent] = queue.SimpleQueue()
        self._outbox = Outbox(info=info, limits=self._limits)
        self._link: Link | None = None
        self._address = address
        texts = text_of if isinstance(text_of, TokenTexts) else TokenTexts(Separate(text_of))
        self._texts = RequestTexts(texts)
        self._privacy = privacy
        self._spool_settings = spool
        self._curve = curve
        self._report = report
        self._report_at = 0.0
        self._num_rows = 0
        self._num_refused = self._num_errors = 0
        self._take_matrix = take_matrix
        self._num_matrices_taken = self._num_matrices_refused = 0
        self._stopping = threading.Event()
        self._came_round_at = self._unlinked_at = time.monotonic()
        self._looked_at = time.monotonic()
        self._said_stuck = False
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="attention-publisher", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Batches that had to be dropped so far."""
        return self._outbox.dropped

    def state(self) -> State:
        """Whether the publisher's thread does its work; from any thread."""
        if not self._thread.is_alive():
            return "dead"
        return "stuck" if time.monotonic() - self._came_round_at > _STALLED_S else "running"

    def figures(self) -> Figures:
        """How it does now; from any thread."""
        outbox, link = self._outbox, self._link
        return Figures(
            rows=self._num_rows,
            batches_sent=outbox.num_sent,
            batches_acknowledged=outbox.num_acknowledged,
            batches_dropped=outbox.dropped,
            items_refused=self._num_refused,
            errors=self._num_errors,
            head_projections_taken=self._num_matrices_taken,
            head_projections_refused=self._num_matrices_refused,
            queue_items=self._queue.qsize(),
            memory_batches=outbox.num_in_memory,
            memory_bytes=outbox.memory_bytes,
            spool_batches=outbox.num_spooled,
            spool_bytes=outbox.spool_bytes,
            last_acknowledgement_seconds=link.silent_s if link is not None else 0.0,
            connected=link is not None and link.connected,
            alive=self._thread.is_alive(),
            stalled_seconds=time.monotonic() - self._came_round_at,
        )

    def put(self, item: StepRows | RequestEvent) -> None:
        """Hand over what a step or a request gave; never waits. Drops and counts it where the thread is far behind."""
        if self._queue.qsize() < self._limits.queue_items:
            self._queue.put(item)
        else:
            self._outbox.count_drop("its queue is full: the publisher thread does not keep up")
        self._look_after_thread()

    def _look_after_thread(self) -> None:
        """A thread that is dead or stuck reports nothing itself: its figures are then given from the caller's."""
        now = time.monotonic()
        if now - self._looked_at < _REPORT_INTERVAL_S:
            return
        self._looked_at = now
        state = self.state()
        if state != "running" and self._stop_at is None:
            if not self._said_stuck:
                self._said_stuck = True
                what = "has ended" if state == "dead" else f"has not come round for {now - self._came_round_at:.0f} s"
                logger.error(
                    "Attention publisher: its thread %s; what is captured waits in memory, and beyond %d items is "
                    "lost. The model serves on; restart the server to publish again.",
                    what,
                    self._limits.queue_items,
                )
            if self._report is not None:
                self._report(self.figures())
        else:
            self._said_stuck = False

    def close(self, timeout_s: float = 2.0) -> bool:
        """Send what is left and wait for its acknowledgement at most `timeout_s`; whether all was acknowledged.

        What is not acknowledged by then stays in the spool, for the next server.
        """
        self._stop_at = time.monotonic() + timeout_s
        self._stopping.set()
        self._thread.join(timeout_s + 1.0)
        outbox = self._outbox
        if left := outbox.num_in_memory + self._queue.qsize():
            logger.error("Attention publisher: stopped with %d batches that %s never took.", left, self._address)
        if spooled := outbox.num_spooled:
            logger.warning("Attention publisher: %d batches stay in the spool for the next server.", spooled)
        return not left and not spooled

    def _run(self) -> None:
        self._open_spool()
        context = zmq.Context()
        try:
            self._serve(context)
        finally:
            if self._link is not None:
                self._link.close()
            context.term()
            self._outbox.spill(everything=True)
            self._tell(last=True)
            if self._outbox.spool is not None:
                self._outbox.spool.close()

    def _serve(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Until told to stop. Whatever goes wrong on the way is logged, counted and gone on after."""
        pending: list[StepRows | RequestEvent] = []
        flush_at = 0.0
        while not self._finished(pending):
            self._came_round_at = time.monotonic()
            try:
                if self._link is None:
                    self._link = Link(
                        context,
                        address=self._address,
                        limits=self._limits,
                        curve=self._curve,
                        take_matrix=self._take_offered,
                    )
                if not pending:
                    flush_at = time.monotonic() + self._limits.batch_interval_s
                pending += self._take()
                if pending and (
                    time.monotonic() >= flush_at or self._stop_at or _num_rows(pending) >= self._limits.batch_rows
                ):
                    items, pending = pending, []
                    self._make_batches(items)
                behind = not self._queue.empty() and not pending
                self._link.exchange(self._outbox, wait_s=0.0 if behind else min(0.05, self._limits.batch_interval_s))
                self._outbox.spill()
                self._tell()
            except Exception:
                self._num_errors += 1
                logger.exception("Attention publisher: an error; publishing goes on.")
                self._start_over()

    def _take_offered(self, data: bytes) -> None:
        """A head projection that the sidecar offers: taken, or refused in one line, and nothing else changes."""
        if self._take_matrix is None:
            return
        try:
            self._num_matrices_taken += self._take_matrix(data)
        except Exception as error:
            self._num_matrices_refused += 1
            if self._num_matrices_refused & (self._num_matrices_refused - 1) == 0:  # the first, second, fourth ...
                logger.error(
                    "Attention publisher: a head projection from %s refused (%d so far): %s. Sketches go on as before.",
                    self._address,
                    self._num_matrices_refused,
                    error if isinstance(error, AttnError | OSError) else repr(error),
                )

    def _start_over(self) -> None:
        """After an error: on a new connection, and not at once, so that a lasting one does not fill the log."""
        link, self._link = self._link, None
        self._unlinked_at = time.monotonic()
        if link is not None:
            with suppress(Exception):
                link.close()
        # Not awaited when the server stops: the flag is looked at before the next round.
        self._stopping.wait(_AFTER_ERROR_S)

    def _open_spool(self) -> None:
        settings = self._spool_settings
        if settings is None:
            return
        try:
            spool = Spool(
                settings.root,
                byte_limit=settings.byte_limit,
                lost=lambda count, why: self._outbox.count_drop(why, count=count),
            )
        except OSError as error:
            logger.error(
                "Attention publisher: no spool in %s (%s): with the sidecar away, fingerprints beyond %d bytes of "
                "memory are lost. --attention-tokens-spool-dir names another place.",
                settings.root,
                error,
                self._limits.memory_bytes,
            )
            return
        if spool.shared:
            logger.warning(
                "Attention publisher: another server holds the spool in %s; this one has %s.", settings.root, spool.path
            )
        self._outbox.spool = spool

    def _tell(self, *, last: bool = False) -> None:
        if self._report is not None and (last or time.monotonic() >= self._report_at):
            self._report_at = time.monotonic() + _REPORT_INTERVAL_S
            self._report(self.figures())

    def _finished(self, pending: list[StepRows | RequestEvent]) -> bool:
        if self._stop_at is None:
            return False
        sealed = not pending and self._queue.empty()
        if self._outbox.spool is None:
            return (sealed and self._outbox.is_empty) or time.monotonic() >= self._stop_at
        # Without a connection at all: as long as it has been so.
        absent_s = time.monotonic() - self._unlinked_at if self._link is None else self._link.absent_s
        in_vain = self._outbox.is_empty or absent_s > _ABSENT_S
        return (sealed and in_vain) or time.monotonic() >= self._stop_at - _CLOSING_RESERVE_S

    def _take(self) -> list[StepRows | RequestEvent]:
        taken: list[StepRows | RequestEvent] = []
        while len(taken) < self._limits.batch_rows:
            try:
                taken.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return taken

    def _make_batches(self, pending: list[StepRows | RequestEvent]) -> None:
        """Starts, then tokens, then ends: a reader never meets the token of a request that it does not know."""
        events = [item for item in pending if isinstance(item, RequestEvent)]
        steps = [item for item in pending if isinstance(item, StepRows)]
        if started := [self._with_texts(e) for e in events if e.event == "started"]:
            self._add("requests", started, request_batch)
        for group in by_projection(steps):
            self._add("fingerprints", [self._with_texts(part) for part in group], fingerprint_batch)
        for event in events:
            if event.event == "ended":
                self._texts.forget(event.request_id)
        if ended := [e for e in events if e.event == "ended"]:
            self._add("requests", ended, request_batch)

    def _with_texts(self, item: StepRows | RequestEvent) -> StepRows | RequestEvent:
        """Once an item: what is written again after an error has its texts already."""
        if self._privacy:
            return item
        try:
            return with_texts(item, self._texts)
        except Exception:
            logger.debug("Attention publisher: %s has no texts.", _request_of(item), exc_info=True)
            return item

    def _add(self, kind: str, items: list[Any], make: Callable[..., pa.RecordBatch]) -> None:
        try:
            rows = make(items, privacy=self._privacy)
        except Exception as error:
            # One of them cannot be written, for whatever reason: the others are published without it.
            parts = items if len(items) > 1 else single_rows(items[0])
            if len(parts) > 1:
                for part in parts:
                    self._add(kind, [part], make)
                return
            self._num_refused += 1
            logger.error(
                "Attention publisher: %s of request %s left out, it cannot be written: %r",
                kind,
                _request_of(items[0]),
                error,
            )
            return
        head_projection = items[0].head_projection if kind == "fingerprints" else None
        self._outbox.add(kind, rows, head_projection=head_projection)
        self._num_rows += rows.num_rows


def _request_of(item: StepRows | RequestEvent) -> str:
    return item.request_id if isinstance(item, RequestEvent) else ", ".join(map(str, item.request_ids))


def _num_rows(items: list[StepRows | RequestEvent]) -> int:
    return sum(len(item.token_ids) if isinstance(item, StepRows) else 1 for item in items)
