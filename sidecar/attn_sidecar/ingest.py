"""The ingest thread: takes batches off the wire, admits or refuses them, and acknowledges what the writer committed.

The only module that touches ZMQ. Back-pressure: while the writer has no room the socket is not read, so ZMQ's own
buffers fill and the senders' queues grow, as the wire contract foresees.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import zmq

from attn_core.addresses import is_ipv6
from attn_core.errors import AttnError, WireError
from attn_core.wire import (
    MAGIC,
    MAX_BATCH_BYTES,
    SOURCE_ID_BYTES,
    Batch,
    ack_frames,
    decode_batch,
    projection_frames,
    refusal_frames,
)
from attn_sidecar.admission import MAX_AHEAD_US, Admission, admissions
from attn_sidecar.head_offers import HeadOffers
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import log_event, logger_named
from attn_sidecar.privacy import without_content
from attn_sidecar.service_thread import ServiceThread
from attn_sidecar.store.jobs import ArrivedBatch
from attn_sidecar.zmq_door.guard import Guard

_LOG = logger_named("ingest")
CLOCK = "clock"
_CLOCK_FORGOTTEN_S = 600.0
"""A source with a wrong clock that has sent nothing for this long has gone."""
_MESSAGES_A_TURN = 256
_ROWS_A_TURN = 8192
_RECEIVE_HIGH_WATER = 64
"""Messages ZMQ may hold for us a connection."""
_COMMITTED_KEPT = 65_536
"""(source, seq) of committed batches remembered, to answer repeats without touching the store."""
_SOURCES_KEPT = 1024
_LINGER_MS = 500
_SEQ_BYTES = 8


class AddressTaken(AttnError):
    """An address to listen on is in use or cannot be bound."""


@dataclass
class Source:
    """One model server process, as its batches show it."""

    model_id: str
    dropped: int = 0
    """Batches that it says it had to drop."""
    clock_ahead_us: int = 0
    """How far the newest instant of its latest batch lay ahead of this machine's clock; negative where it was behind or
    the batch came late."""
    head_projection: str | None = None
    """The matrix that its latest batch's sketches were made with, None where it had none."""
    head_projection_offers: int = 0
    """How often it was sent another matrix."""
    redated_rows: int = 0
    """Rows whose instant no right clock could have given: stored with this machine's."""


@dataclass
class IngestCounters:
    """Counted since start, read by `/stats`."""

    num_batches: int = 0
    num_rows: int = 0
    num_acknowledged: int = 0
    num_repeated_batches: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Batches of which no row was stored, by the reason's first word."""
    refused_rows: Counter[str] = field(default_factory=Counter)
    """Rows refused, by the reason's first word; the other rows of their batches are stored."""
    num_redated_rows: int = 0
    num_head_projection_offers: int = 0
    sources: dict[bytes, Source] = field(default_factory=dict)
    """The newest sources."""

    def note(self, batch: Batch, admission: Admission) -> Source:
        """What this batch says of its source: its losses, its clock and its head projection."""
        source = self.sources.setdefault(batch.source_id, Source(model_id=batch.info.model_id))
        source.dropped = batch.info.dropped
        if batch.rows.num_rows:
            source.clock_ahead_us = admission.ahead_us
        if batch.kind == "fingerprints":
            source.head_projection = batch.info.head_projection
        source.redated_rows += admission.num_redated
        self.num_redated_rows += admission.num_redated
        if len(self.sources) > _SOURCES_KEPT:
            self.sources.pop(next(iter(self.sources)))
        return source


@dataclass(frozen=True, kw_only=True)
class _Arrived:
    identity: bytes
    frames: Sequence[bytes]
    batch: Batch


class Ingest:
    """One ROUTER socket on one thread. `offer` hands a batch to the writer, or returns False where it has no room.

    `head_offers` says which head projection a source should be sent, where it uses another than the current one.
    """

    def __init__(
        self,
        address: str,
        *,
        offer: Callable[[ArrivedBatch], bool],
        health: HealthBoard,
        guard: Callable[[zmq.Context[zmq.Socket[bytes]]], Guard | None] = lambda _: None,
        privacy: bool = False,
        head_offers: HeadOffers | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._now_us = now_us
        self._wrong_clock: bytes | None = None
        self._wrong_clock_at_s = 0.0
        self._offer = offer
        self._health = health
        self._privacy = privacy
        self._head_offers = head_offers
        self._context = zmq.Context()
        try:
            self._guard = guard(self._context)
        except AttnError:
            self._context.destroy(linger=0)
            raise
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, _LINGER_MS)
        self._router.setsockopt(zmq.IPV6, int(is_ipv6(address)))
        self._router.setsockopt(zmq.RCVHWM, _RECEIVE_HIGH_WATER)
        # Answers are tiny, and a lost one would be waited for until the next reconnect: always room for them.
        self._router.setsockopt(zmq.SNDHWM, 0)
        # Up to twice the limit is read and refused with its reason; beyond that ZMQ cuts the connection.
        self._router.setsockopt(zmq.MAXMSGSIZE, 2 * MAX_BATCH_BYTES)
        if self._guard is not None:
            self._guard.stand_before(self._router)
        try:
            self._router.bind(address)
        except zmq.ZMQError as error:
            self._close_guard()
            self._context.destroy(linger=0)
            raise AddressTaken(_explain(address, error)) from error
        self.address = str(self._router.getsockopt_string(zmq.LAST_ENDPOINT))
        self._answers: deque[list[bytes]] = deque()
        self._held: deque[ArrivedBatch] = deque()
        self._committed: OrderedDict[tuple[bytes, int], None] = OrderedDict()
        self._bell, self._bell_rope = socket.socketpair()
        self._bell.setblocking(False)
        self._bell_rope.setblocking(False)
        self._receiving = True
        self._ending = False
        self.thread = ServiceThread("attn-ingest", part="ingest", run=self._run, health=health, blocks=True)
        self.counters = IngestCounters()

    def start(self) -> None:
        """Begin to receive."""
        self.thread.start()

    def stop_receiving(self) -> None:
        """Take nothing more in; what is not acknowledged will be sent again."""
        self._receiving = False
        self.ring()

    def close(self) -> None:
        """Send the last answers and end the thread."""
        self._receiving, self._ending = False, True
        self.thread.stopping()
        self.ring()
        self.thread.join()
        self._close_guard()
        self._context.destroy(linger=_LINGER_MS)
        self._bell.close()
        self._bell_rope.close()

    def _close_guard(self) -> None:
        if self._guard is not None:
            self._guard.close()

    def ring(self) -> None:
        """Wake the thread: there are answers to send, or room in the writer, or it should end. Any thread may call."""
        try:
            self._bell_rope.send(b"\0")
        except BlockingIOError:
            return  # The bell rings already.

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._bell, zmq.POLLIN)
        while True:
            poller.modify(self._router, zmq.POLLIN if self._receiving and not self._held else 0)
            ready = dict(poller.poll())
            with self.thread.turn():
                if self._bell.fileno() in ready:
                    self._bell.recv(4096)
                ending = self._ending
                self._send_answers()
                if ending:
                    return
                self._hand_over()
                if self._router in ready and self._receiving and not self._held:
                    self._receive()

    def _receive(self) -> None:
        """Take what has arrived, up to a bound, and admit it in one go: checks cost by the call, hardly by the row."""
        arrived: list[_Arrived] = []
        num_rows = 0
        while len(arrived) < _MESSAGES_A_TURN and num_rows < _ROWS_A_TURN:
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                batch = self._decode(identity, frames)
            except Exception as error:
                self._refuse_unforeseen(identity, frames, error)
                continue
            if batch is not None:
                arrived.append(_Arrived(identity=identity, frames=frames, batch=batch))
                num_rows += batch.rows.num_rows
        self._admit(arrived)
        self._send_answers()

    def _decode(self, identity: bytes, frames: Sequence[bytes]) -> Batch | None:
        try:
            batch = decode_batch(frames)
        except WireError as error:
            self._refuse(identity, frames, word=error.reason, reason=f"{error.reason}: {error}")
            return None
        self.counters.num_batches += 1
        if (batch.source_id, batch.seq) in self._committed:
            self.counters.num_repeated_batches += 1
            self._answers.append([identity, *ack_frames(source_id=batch.source_id, seq=batch.seq)])
            return None
        return batch

    def _admit(self, arrived: Sequence[_Arrived]) -> None:
        try:
            found = admissions([each.batch for each in arrived], now_us=self._now_us())
        except Exception as error:
            if len(arrived) == 1:
                self._refuse_unforeseen(arrived[0].identity, arrived[0].frames, error)
            else:
                for each in arrived:
                    self._admit([each])
            return
        for each, admission in zip(arrived, found, strict=True):
            if admission.refused:
                self._count_refused_rows(each.batch, admission.refused)
            self._look_at_clock(each.batch, admission)
            self._offer_head_projection(each)
            if admission.batch is None:
                reason = admission.refused[0]
                if len(admission.refused) > 1:
                    reason += f" (and {len(admission.refused) - 1} more rows)"
                self._refuse(each.identity, each.frames, word=reason.partition(":")[0], reason=reason)
                continue
            batch = without_content(admission.batch) if self._privacy else admission.batch
            self.counters.num_rows += batch.rows.num_rows
            answer = partial(self._answer, each.identity, batch)
            self._held.append(ArrivedBatch(batch=batch, answer=answer, redated=admission.num_redated > 0))
        self._hand_over()

    def _count_refused_rows(self, batch: Batch, reasons: Sequence[str]) -> None:
        for reason in reasons:
            word, _, detail = reason.partition(":")
            self.counters.refused_rows[word] += 1
            if self.counters.refused_rows[word] == 1:
                # Once a kind, as with batches.
                log_event(
                    _LOG, logging.WARNING, "ingest.row_refused", reason=word, detail=detail.strip()[:200],
                    source=batch.source_id.hex(), rows_in_batch=batch.rows.num_rows,
                )  # fmt: skip

    def _look_at_clock(self, batch: Batch, admission: Admission) -> None:
        """Report a source whose clock is wrong; what it sends is stored all the same."""
        source = self.counters.note(batch, admission)
        if admission.num_redated:
            if admission.ahead_us > MAX_AHEAD_US:
                clock = f"runs {admission.ahead_us / 1e6:.0f} s ahead of this machine's"
            else:
                clock = "was never set: it gives instants before 2020"
            reason = (
                f"the clock of {source.model_id} (source {batch.source_id.hex()[:8]}) {clock}; its rows carry this "
                "machine's time until it is set (NTP), here or there"
            )
            if self._health.ail(CLOCK, reason, blocks=False):
                log_event(_LOG, logging.WARNING, "ingest.clock", reason=reason)
            self._wrong_clock = batch.source_id
        elif (
            self._wrong_clock is not None
            and batch.rows.num_rows
            and (batch.source_id == self._wrong_clock or time.monotonic() - self._wrong_clock_at_s > _CLOCK_FORGOTTEN_S)
        ):
            self._wrong_clock = None
            self._health.recover(CLOCK)
        if admission.num_redated:
            self._wrong_clock_at_s = time.monotonic()

    def _offer_head_projection(self, arrived: _Arrived) -> None:
        """Send the source its model's current matrix, where it names another."""
        batch = arrived.batch
        if self._head_offers is None or batch.kind != "fingerprints" or not batch.rows.num_rows:
            return
        projection = self._head_offers.offer(source_id=batch.source_id, info=batch.info)
        if projection is not None:
            frames = projection_frames(source_id=batch.source_id, projection=projection)
            self._answers.append([arrived.identity, *frames])
            self.counters.num_head_projection_offers += 1
            if (source := self.counters.sources.get(batch.source_id)) is not None:
                source.head_projection_offers += 1

    def _hand_over(self) -> None:
        while self._held and self._offer(self._held[0]):
            self._held.popleft()

    def _answer(self, identity: bytes, batch: Batch, reason: str | None) -> None:
        """The writer's word on a batch; called on the writing thread."""
        frames = (
            ack_frames(source_id=batch.source_id, seq=batch.seq)
            if reason is None
            else refusal_frames(source_id=batch.source_id, seq=batch.seq, reason=reason)
        )
        if reason is None:
            self._committed[batch.source_id, batch.seq] = None
            if len(self._committed) > _COMMITTED_KEPT:
                self._committed.popitem(last=False)
            self.counters.num_acknowledged += 1
        else:
            self.counters.refused[reason.partition(":")[0]] += 1
        self._answers.append([identity, *frames])
        self.ring()

    def _refuse(self, identity: bytes, frames: Sequence[bytes], *, word: str, reason: str) -> None:
        self.counters.refused[word] += 1
        if self.counters.refused[word] == 1:
            # Once a kind: a broken sender must not fill the disk with its complaints. /stats has the counts.
            log_event(_LOG, logging.WARNING, "ingest.refused", reason=word)
        source_id, seq = _return_address(frames)
        self._answers.append([identity, *refusal_frames(source_id=source_id, seq=seq, reason=reason)])

    def _refuse_unforeseen(self, identity: bytes, frames: Sequence[bytes], error: Exception) -> None:
        self.thread.survived(error, doing="a batch was refused")
        self._refuse(identity, frames, word="internal", reason=f"internal: {type(error).__name__}; the log says where")

    def _send_answers(self) -> None:
        while self._answers:
            self._router.send_multipart(self._answers.popleft())


def _return_address(frames: Sequence[bytes]) -> tuple[bytes, int]:
    """Source and number of a damaged batch, as far as they are there; else a source of zeros, which is nobody's."""
    if len(frames) >= 3 and frames[0] == MAGIC and len(frames[1]) == SOURCE_ID_BYTES and len(frames[2]) == _SEQ_BYTES:
        return bytes(frames[1]), int.from_bytes(frames[2], "little")
    return bytes(SOURCE_ID_BYTES), 0


def _explain(address: str, error: zmq.ZMQError) -> str:
    if error.errno == zmq.EADDRINUSE:
        return (
            f"ZMQ address {address} is taken by another process (another sidecar?): stop it, choose another with "
            "--zmq-bind tcp://127.0.0.1:PORT (and tell the model server), or run without ingest with --zmq-bind off"
        )
    return f"ZMQ address {address} cannot be bound: {error}. Give an address of this machine with --zmq-bind"
