"""A segment of the spool: a file of whole batches one after the other, each with its length and checksum.

    record  [b"APS1", CRC-32 of the rest (uint32), payload bytes (uint32), source id (16 bytes), seq (uint64), payload]

Little-endian. A process that is killed while it writes leaves a torn last record, which `scan` finds by the checksum.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from attn_core.wire import MAX_BATCH_BYTES, batch_frames

_MAGIC = b"APS1"
_HEAD = struct.Struct("<4sI")
_REST = struct.Struct("<I16sQ")
HEAD_BYTES = _HEAD.size + _REST.size

Key = tuple[bytes, int]
"""(source id, seq): what an acknowledgement names."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A batch ready to be sent, or to be sent again."""

    source_id: bytes
    seq: int
    payload: bytes
    """The Arrow IPC stream."""

    @property
    def key(self) -> Key:
        """What its acknowledgement will name."""
        return self.source_id, self.seq

    def frames(self) -> list[bytes]:
        """The wire's four frames."""
        return batch_frames(source_id=self.source_id, seq=self.seq, payload=self.payload)


class TornRecord(Exception):
    """What lies here is no whole record."""


def record_from_parcel(parcel: Parcel) -> bytes:
    """The bytes of one record."""
    rest = _REST.pack(len(parcel.payload), parcel.source_id, parcel.seq)
    return _HEAD.pack(_MAGIC, zlib.crc32(parcel.payload, zlib.crc32(rest))) + rest + parcel.payload


def read_record(descriptor: int, *, at: int, end: int) -> tuple[Parcel, int]:
    """The record at offset `at` of an open file of `end` bytes, and where the next one begins.

    Raises `TornRecord` where there is no whole one, OSError where the file cannot be read.
    """
    head = os.pread(descriptor, HEAD_BYTES, at)
    if len(head) < HEAD_BYTES or at + HEAD_BYTES > end:
        raise TornRecord
    magic, checksum = _HEAD.unpack_from(head)
    num_bytes, source_id, seq = _REST.unpack_from(head, _HEAD.size)
    after = at + HEAD_BYTES + num_bytes
    if magic != _MAGIC or num_bytes > MAX_BATCH_BYTES or after > end:
        raise TornRecord
    payload = os.pread(descriptor, num_bytes, at + HEAD_BYTES)
    if len(payload) < num_bytes or zlib.crc32(payload, zlib.crc32(head[_HEAD.size :])) != checksum:
        raise TornRecord
    return Parcel(source_id, seq, payload), after


@dataclass(eq=False, slots=True)
class Segment:
    """What is known of one file; records are numbered from 0 within it."""

    path: Path
    num_records: int = 0
    num_bytes: int = 0
    settled: set[int] = field(default_factory=set)
    """Records that need not be sent any more."""
    next_record: int = 0
    """The next one to send on this connection, at `next_offset`."""
    next_offset: int = 0

    @property
    def num_waiting(self) -> int:
        """Records not yet acknowledged."""
        return self.num_records - len(self.settled)

    @property
    def is_read(self) -> bool:
        """Whether every record of it has been sent on this connection."""
        return self.next_record >= self.num_records

    def rewind(self) -> None:
        """Send from the beginning again."""
        self.next_record = self.next_offset = 0

    def skip_to_end(self) -> None:
        """Send nothing more of it on this connection."""
        self.next_record, self.next_offset = self.num_records, self.num_bytes


def scan(path: Path) -> tuple[Segment, int]:
    """The segment that a former process left, its torn end cut off, and how many bytes were cut."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        segment = Segment(path)
        while segment.num_bytes < size:
            try:
                _, segment.num_bytes = read_record(descriptor, at=segment.num_bytes, end=size)
            except TornRecord:
                os.ftruncate(descriptor, segment.num_bytes)
                break
            segment.num_records += 1
        return segment, size - segment.num_bytes
    finally:
        os.close(descriptor)
