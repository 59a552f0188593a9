"""The publisher: fingerprints and requests from the scheduler to the sidecar, over ZMQ, from a thread of its own.

The scheduler only puts objects on a bounded queue and never waits. The thread makes batches of what came within
100 ms, sends them, and keeps each until the sidecar has acknowledged it (that is: committed it). When the connection
comes back, or acknowledgements stay away, everything unacknowledged is sent again in order; the sidecar drops what it
holds already. Memory is bounded: beyond the bound the oldest batch is dropped, counted, logged and reported.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import zmq
from zmq.utils.monitor import parse_monitor_message

from attn_core.errors import WireError
from attn_core.wire import SOURCE_ID_BYTES, SourceInfo, decode_answer, encode_batch
from attn_kernels.rows import RequestEvent, StepRows, fingerprint_batch, request_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long and how much the publisher collects, keeps and waits."""

    batch_interval_s: float = 0.1
    batch_rows: int = 512
    queue_items: int = 65_536
    unacknowledged_bytes: int = 256 << 20
    ack_timeout_s: float = 5.0
    reconnect_interval_ms: int = 100
    reconnect_interval_max_ms: int = 2_000


class Publisher:
    """Sends to one sidecar. `put` from any thread; `close` drains for a bounded time."""

    def __init__(
        self,
        *,
        address: str,
        info: SourceInfo,
        text_of: Callable[[int], str],
        privacy: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._queue: queue.Queue[StepRows | RequestEvent] = queue.Queue(self._limits.queue_items)
        self._outbox = _Outbox(info=info, byte_limit=self._limits.unacknowledged_bytes)
        self._address = address
        self._text_of = text_of
        self._privacy = privacy
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="attention-publisher", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Batches that had to be dropped so far."""
        return self._outbox.dropped

    def put(self, item: StepRows | RequestEvent) -> None:
        """Hand over what a step or a request gave; never waits. Drops and counts it where the thread is far behind."""
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._outbox.count_drop("its queue is full: the publisher thread does not keep up")

    def close(self, timeout_s: float = 2.0) -> bool:
        """Send what is left and wait for its acknowledgement at most `timeout_s`; whether all was acknowledged."""
        self._stop_at = time.monotonic() + timeout_s
        self._thread.join(timeout_s + 1.0)
        if left := len(self._outbox.unacknowledged):
            logger.error("Attention publisher: stopped with %d batches that %s never took.", left, self._address)
        return not left

    def _run(self) -> None:
        context = zmq.Context()
        link = _Link(context, self._address, self._limits)
        pending: list[StepRows | RequestEvent] = []
        flush_at = 0.0
        try:
            while not self._finished(pending):
                if not pending:
                    flush_at = time.monotonic() + self._limits.batch_interval_s
                pending += self._take()
                if pending and (
                    time.monotonic() >= flush_at or self._stop_at or _num_rows(pending) >= self._limits.batch_rows
                ):
                    self._make_batches(pending)
                    pending = []
                behind = not self._queue.empty() and not pending
                link.exchange(self._outbox, wait_s=0.0 if behind else min(0.05, self._limits.batch_interval_s))
        finally:
            link.close()
            context.term()

    def _finished(self, pending: list[StepRows | RequestEvent]) -> bool:
        if self._stop_at is None:
            return False
        done = not pending and self._queue.empty() and not self._outbox.unacknowledged
        return done or time.monotonic() >= self._stop_at

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
        options = {"text_of": self._text_of, "privacy": self._privacy}
        if started := [e for e in events if e.event == "started"]:
            self._add("requests", lambda: request_batch(started, **options))
        if steps:
            self._add("fingerprints", lambda: fingerprint_batch(steps, **options))
        if ended := [e for e in events if e.event == "ended"]:
            self._add("requests", lambda: request_batch(ended, **options))

    def _add(self, kind: str, make: Callable[[], pa.RecordBatch]) -> None:
        try:
            self._outbox.add(kind, make())
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            # Ids of a multimodal prompt may be no token's at all; one odd request must not end the publishing.
            self._outbox.count_drop(f"a batch of {kind} cannot be written as Arrow: {error}")


def _num_rows(items: list[StepRows | RequestEvent]) -> int:
    return sum(len(item.token_ids) if isinstance(item, StepRows) else 1 for item in items)


class _Outbox:
    """Batches by sequence number until they are acknowledged, bounded by bytes."""

    def __init__(self, *, info: SourceInfo, byte_limit: int) -> None:
        self.unacknowledged: OrderedDict[int, list[bytes]] = OrderedDict()
        self.dropped = 0
        self._info = info
        self._byte_limit = byte_limit
        self._num_bytes = 0
        self._source_id = os.urandom(SOURCE_ID_BYTES)
        self._next_seq = 0
        self._lock = threading.Lock()  # drops are counted from the scheduler's thread as well

    def add(self, kind: str, rows: pa.RecordBatch) -> None:
        info = dataclasses.replace(self._info, dropped=self.dropped)
        frames = encode_batch(kind=kind, rows=rows, source_id=self._source_id, seq=self._next_seq, info=info)
        self.unacknowledged[self._next_seq] = frames
        self._num_bytes += len(frames[-1])
        self._next_seq += 1
        while self._num_bytes > self._byte_limit and len(self.unacknowledged) > 1:
            _, oldest = self.unacknowledged.popitem(last=False)
            self._num_bytes -= len(oldest[-1])
            self.count_drop(f"more than {self._byte_limit} bytes wait for the sidecar")

    def count_drop(self, why: str) -> None:
        with self._lock:
            self.dropped += 1
            count = self.dropped
        if count & (count - 1) == 0:  # the first, second, fourth, eighth ...: loud, but no flood
            logger.error("Attention publisher: %d batches of fingerprints lost so far: %s.", count, why)

    def settle(self, answer: list[bytes]) -> None:
        """Forget the batch that this acknowledgement or refusal names."""
        try:
            source_id, seq, refused = decode_answer(answer)
        except WireError as error:
            logger.error("Attention publisher: an answer that is none came back: %s", error)
            return
        if source_id != self._source_id:
            return
        if refused is not None:
            self.count_drop(f"the sidecar refused batch {seq}: {refused}")
        frames = self.unacknowledged.pop(seq, None)
        if frames is not None:
            self._num_bytes -= len(frames[-1])


class _Link:
    """The socket, what is known of its connection, and how far the outbox has been sent on it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, limits: Limits) -> None:
        self._socket = context.socket(zmq.DEALER)
        # Messages go to a finished connection only: what a lost one held is in the outbox and is sent again.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, limits.reconnect_interval_ms)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, limits.reconnect_interval_max_ms)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._address = address
        self._limits = limits
        self._next_seq = 0
        self._connected = False
        self._heard_at = time.monotonic()

    def exchange(self, outbox: _Outbox, *, wait_s: float) -> None:
        """Send what can be sent, then take in what arrives within `wait_s`."""
        self._send(outbox)
        for socket, _ in self._poller.poll(int(wait_s * 1000)):
            if socket is self._monitor:
                self._note_connection(outbox)
            else:
                self._receive(outbox)
        overdue = time.monotonic() - self._heard_at > self._limits.ack_timeout_s
        if self._connected and outbox.unacknowledged and overdue:
            logger.warning("Attention publisher: no acknowledgement from %s; sending again.", self._address)
            self._rewind(outbox)

    def _send(self, outbox: _Outbox) -> None:
        if not self._connected:
            return
        for seq in [s for s in outbox.unacknowledged if s >= self._next_seq]:
            try:
                self._socket.send_multipart(outbox.unacknowledged[seq], flags=zmq.NOBLOCK)
            except zmq.Again:
                return
            self._next_seq = seq + 1

    def _receive(self, outbox: _Outbox) -> None:
        while self._socket.poll(0, zmq.POLLIN):
            outbox.settle(self._socket.recv_multipart())
            self._heard_at = time.monotonic()

    def _note_connection(self, outbox: _Outbox) -> None:
        while self._monitor.poll(0, zmq.POLLIN):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if self._connected:
                logger.info("Attention publisher: connected to %s.", self._address)
                self._rewind(outbox)
            else:
                logger.warning("Attention publisher: %s is gone; fingerprints wait for it.", self._address)

    def _rewind(self, outbox: _Outbox) -> None:
        self._next_seq = next(iter(outbox.unacknowledged), self._next_seq)
        self._heard_at = time.monotonic()

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
