"""What waits for the sidecar's acknowledgement: the newest in memory, what is older in the spool, both bounded.

Order is kept: the spool holds what is older than anything in memory, and is sent first. One thread uses an outbox;
only `count_drop` may be called from others.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

import pyarrow as pa

from attn_core.errors import WireError
from attn_core.wire import SOURCE_ID_BYTES, SourceInfo, decode_answer, encode_rows
from attn_kernels.spool import Spool
from attn_kernels.spool_segment import Key, Parcel

logger = logging.getLogger(__name__)

_RETRY_SPOOL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long and how much the publisher collects, keeps and waits."""

    batch_interval_s: float = 0.1
    batch_rows: int = 512
    queue_items: int = 65_536
    memory_bytes: int = 64 << 20
    """Unacknowledged batches kept in memory; beyond that the oldest go to the spool, or are dropped without one."""
    spool_after_s: float = 1.0
    """A batch that waits longer goes to the spool, so that a server that is killed loses no more than this."""
    in_flight_bytes: int = 16 << 20
    """Sent and not yet acknowledged at any time: bounds what ZMQ and the sidecar hold beside the outbox."""
    ack_timeout_s: float = 5.0
    ack_timeout_max_s: float = 60.0
    reconnect_interval_ms: int = 100
    reconnect_interval_max_ms: int = 2_000


class Outbox:
    """Batches by source and sequence number until they are acknowledged."""

    def __init__(self, *, info: SourceInfo, limits: Limits) -> None:
        self.spool: Spool | None = None
        self.num_sent = 0
        self.num_acknowledged = 0
        self.dropped = 0
        self.memory_bytes = 0
        self._info = info
        self._limits = limits
        self._source_id = os.urandom(SOURCE_ID_BYTES)
        self._next_seq = 0
        self._memory: OrderedDict[Key, tuple[Parcel, float]] = OrderedDict()
        self._unsent: deque[Key] = deque()
        self._in_flight: dict[Key, int] = {}
        self._in_flight_bytes = 0
        self._retry_spool_at = 0.0
        self._spool_fault: str | None = None
        self._lock = threading.Lock()  # drops are counted from the scheduler's thread as well

    @property
    def is_empty(self) -> bool:
        """Whether everything was acknowledged."""
        return not self._memory and not self.num_spooled

    @property
    def num_in_memory(self) -> int:
        """Batches in memory."""
        return len(self._memory)

    @property
    def num_spooled(self) -> int:
        """Batches in the spool."""
        return self.spool.num_batches if self.spool is not None else 0

    @property
    def spool_bytes(self) -> int:
        """Bytes of the spool's files."""
        return self.spool.num_bytes if self.spool is not None else 0

    @property
    def awaits_answer(self) -> bool:
        """Whether something has been sent and is not yet acknowledged."""
        return bool(self._in_flight)

    def add(self, kind: str, rows: pa.RecordBatch, *, head_projection: str | None = None) -> None:
        """Seal a batch; it says how many this source has had to drop before it, and which matrix made its sketches."""
        info = dataclasses.replace(self._info, dropped=self.dropped, head_projection=head_projection)
        parcel = Parcel(self._source_id, self._next_seq, encode_rows(kind=kind, rows=rows, info=info))
        self._next_seq += 1
        self._memory[parcel.key] = parcel, time.monotonic()
        self._unsent.append(parcel.key)
        self.memory_bytes += len(parcel.payload)
        self.spill()

    def spill(self, *, everything: bool = False) -> None:
        """Move what is too much or too old for memory to the spool; without one, drop what is too much."""
        overdue = time.monotonic() - self._limits.spool_after_s
        if everything:
            self._retry_spool_at = 0.0  # there is no later
        while self._memory:
            key, (parcel, made_at) = next(iter(self._memory.items()))
            too_much = self.memory_bytes > self._limits.memory_bytes and len(self._memory) > 1
            if not too_much and (self.spool is None or not (everything or made_at <= overdue)):
                return
            if not self._to_spool(parcel):
                if not too_much:
                    return
                self.count_drop(f"more than {self._limits.memory_bytes} bytes wait in memory for the sidecar")
                self._landed(key)
            self._forget_in_memory(key)

    def _to_spool(self, parcel: Parcel) -> bool:
        if self.spool is None or time.monotonic() < self._retry_spool_at:
            return False
        try:
            self.spool.append(parcel, sent=parcel.key in self._in_flight)
        except (OSError, ValueError) as error:
            self._retry_spool_at = time.monotonic() + _RETRY_SPOOL_S
            self._say_spool_fault(error)
            return False
        if self._spool_fault is not None:
            self._spool_fault = None
            logger.info("Attention publisher: the spool in %s can be written again.", self.spool.path)
        return True

    def _say_spool_fault(self, error: OSError | ValueError) -> None:
        """Once a fault, not once a batch."""
        code = getattr(error, "errno", None)
        fault = errno.errorcode.get(code, "") if isinstance(code, int) else type(error).__name__
        if fault != self._spool_fault:
            self._spool_fault = fault
            logger.error(
                "Attention publisher: cannot write to the spool (%s). Fingerprints stay in memory; beyond %d bytes the "
                "oldest are dropped until it can be written again.",
                error,
                self._limits.memory_bytes,
            )

    def _forget_in_memory(self, key: Key) -> None:
        parcel, _ = self._memory.pop(key)
        self.memory_bytes -= len(parcel.payload)
        if self._unsent and self._unsent[0] == key:
            self._unsent.popleft()

    def next_unsent(self) -> Parcel | None:
        """The oldest batch not yet sent on this connection, or None where there is none or enough is in flight."""
        if self._in_flight_bytes >= self._limits.in_flight_bytes:
            return None
        parcel = self.spool.next_unsent() if self.spool is not None else None
        while parcel is None and self._unsent:
            waiting = self._memory.get(self._unsent.popleft())
            parcel = waiting[0] if waiting is not None else None
        if parcel is not None:
            self._landed(parcel.key)  # where it is on its way for the second time
            self._in_flight[parcel.key] = len(parcel.payload)
            self._in_flight_bytes += len(parcel.payload)
            self.num_sent += 1
        return parcel

    def rewind(self) -> None:
        """A new connection: nothing has been sent on it."""
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._unsent = deque(self._memory)
        if self.spool is not None:
            self.spool.rewind()

    def settle(self, answer: list[bytes]) -> None:
        """Forget the batch that this acknowledgement or refusal names."""
        try:
            source_id, seq, refused = decode_answer(answer)
        except WireError as error:
            logger.error("Attention publisher: an answer that is none came back: %s", error)
            return
        key = source_id, seq
        self._landed(key)
        known = self.spool is not None and self.spool.settle(key)
        if key in self._memory:
            self._forget_in_memory(key)
            known = True
        if not known:
            return
        if refused is None:
            self.num_acknowledged += 1
        else:
            self.count_drop(f"the sidecar refused batch {seq}: {refused}")

    def _landed(self, key: Key) -> None:
        self._in_flight_bytes -= self._in_flight.pop(key, 0)

    def count_drop(self, why: str, *, count: int = 1) -> None:
        """Count and tell a loss; may be called from any thread."""
        if not count:
            return
        with self._lock:
            before = self.dropped
            self.dropped = now = before + count
        if now.bit_length() > before.bit_length():  # the first, second, fourth, eighth ...: loud, but no flood
            logger.error("Attention publisher: %d batches of fingerprints lost so far: %s.", now, why)
