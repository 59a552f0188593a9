"""The spool: batches that wait on disk for the sidecar, oldest first, in a bounded number of bytes.

Append-only segment files, deleted once every batch in them is acknowledged. Beyond the bound the oldest segment is
dropped, counted and reported. What a former process left is sent again under that process's source id and numbers, so
that the receiver knows what it holds already. One thread uses a spool. Files are written through to the kernel and not
to the platter: what is written survives the process, not a loss of power.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from attn_kernels.spool_lane import SEGMENT_SUFFIX, Lane, abandoned_lanes, take_lane
from attn_kernels.spool_segment import (
    HEAD_BYTES,
    Key,
    Parcel,
    Segment,
    TornRecord,
    read_record,
    record_from_parcel,
    scan,
)

logger = logging.getLogger(__name__)

LARGEST_SEGMENT_BYTES = 8 << 20

Lost = Callable[[int, str], None]
"""Told of every loss: how many batches, and why."""


class Spool:
    """Batches on disk under `root`; `byte_limit` bounds their files."""

    def __init__(self, root: Path, *, byte_limit: int, lost: Lost) -> None:
        """Take a lane and what former processes left; raises OSError where `root` cannot be used."""
        self._byte_limit = byte_limit
        self._segment_bytes = max(1, min(LARGEST_SEGMENT_BYTES, byte_limit // 8))
        self._lost = lost
        self._segments: deque[Segment] = deque()
        self._where: dict[Key, tuple[Segment, int]] = {}
        self._writer: tuple[Segment, int] | None = None
        self._reader: tuple[Segment, int] | None = None
        self.num_bytes = 0
        self.num_batches = 0
        """Batches not yet acknowledged; a plain number, since other threads look at it."""
        self._lane = take_lane(root)
        self._number = 0
        try:
            self._take_over(root)
        except OSError:
            self._lane.release()
            raise

    @property
    def path(self) -> Path:
        """Where its files are."""
        return self._lane.path

    @property
    def shared(self) -> bool:
        """Whether another process holds the first place under the same root."""
        return self._lane.number > 0

    def append(self, parcel: Parcel, *, sent: bool = False) -> None:
        """Keep a batch, behind all others; `sent` where it is on its way already.

        Drops the oldest segments beyond the bound. Raises OSError where it cannot be written (nothing of it is then
        kept), ValueError where it alone is larger than the bound.
        """
        record = record_from_parcel(parcel)
        if len(record) > self._byte_limit:
            raise ValueError(f"a batch of {len(record)} bytes is larger than the spool's {self._byte_limit}")
        while self.num_bytes + len(record) > self._byte_limit:
            self._drop_oldest()
        was_read = sent and all(segment.is_read for segment in self._segments)
        segment, descriptor = self._writer or self._begin_segment()
        _write_whole(descriptor, record, at=segment.num_bytes)
        if sent:
            self._where[parcel.key] = segment, segment.num_records
        segment.num_records += 1
        segment.num_bytes += len(record)
        self.num_batches += 1
        self.num_bytes += len(record)
        if was_read:
            segment.skip_to_end()
        if segment.num_bytes >= self._segment_bytes:
            self._end_segment()

    def next_unsent(self) -> Parcel | None:
        """The oldest batch not yet given out since `rewind`, or None."""
        for segment in [s for s in self._segments if not s.is_read]:
            while not segment.is_read:
                number = segment.next_record
                try:
                    parcel, after = read_record(
                        self._descriptor_of(segment), at=segment.next_offset, end=segment.num_bytes
                    )
                except (OSError, TornRecord) as error:
                    self._give_up_rest(segment, error)
                    break
                segment.next_record, segment.next_offset = number + 1, after
                if number not in segment.settled:
                    self._where[parcel.key] = segment, number
                    return parcel
        return None

    def settle(self, key: Key) -> bool:
        """Forget a batch that was given out; False where it is not here."""
        found = self._where.pop(key, None)
        if found is None:
            return False
        segment, number = found
        segment.settled.add(number)
        self.num_batches -= 1
        if not segment.num_waiting:
            self._delete(segment)
        return True

    def rewind(self) -> None:
        """Give out everything that is not acknowledged once more, from the oldest."""
        for segment in self._segments:
            segment.rewind()

    def close(self) -> None:
        """Let go of the directory; what is in it waits for the next process."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._writer[1])
        self._end_segment()
        self._close_reader()
        self._lane.release()

    def _take_over(self, root: Path) -> None:
        for path in self._lane.segments():
            self._add_left(path)
        for lane in abandoned_lanes(root, but=self._lane):
            self._adopt(lane)
        if self._segments:
            logger.info(
                "Attention publisher: %d batches that an earlier server could not deliver are in %s.",
                self.num_batches,
                self.path,
            )

    def _adopt(self, lane: Lane) -> None:
        for path in lane.segments():
            if self.num_bytes + path.stat().st_size > self._byte_limit:
                return  # it stays where it is, for a process with room
            self._add_left(path.rename(self._next_path()))

    def _add_left(self, path: Path) -> None:
        self._number = max(self._number, int(path.stem) + 1 if path.stem.isdigit() else 0)
        segment, num_cut = scan(path)
        if num_cut:
            self._lost(1, f"the end of {path.name} in the spool was torn: {num_cut} bytes cut")
        if segment.num_records:
            self._segments.append(segment)
            self.num_bytes += segment.num_bytes
            self.num_batches += segment.num_records
        else:
            path.unlink()

    def _next_path(self) -> Path:
        self._number += 1
        return self._lane.path / f"{self._number - 1:012}{SEGMENT_SUFFIX}"

    def _begin_segment(self) -> tuple[Segment, int]:
        path = self._next_path()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._writer = Segment(path), os.open(path, flags, 0o600)
        self._segments.append(self._writer[0])
        return self._writer

    def _end_segment(self) -> None:
        if self._writer is not None:
            segment, descriptor = self._writer
            self._writer = None
            os.close(descriptor)
            if not segment.num_records:
                self._delete(segment)

    def _descriptor_of(self, segment: Segment) -> int:
        if self._reader is None or self._reader[0] is not segment:
            self._close_reader()
            self._reader = segment, os.open(segment.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._reader[1]

    def _close_reader(self) -> None:
        if self._reader is not None:
            os.close(self._reader[1])
            self._reader = None

    def _give_up_rest(self, segment: Segment, error: Exception) -> None:
        """What cannot be read back is lost, and said."""
        rest = set(range(segment.next_record, segment.num_records)) - segment.settled
        self._lost(len(rest), f"{segment.path.name} in the spool cannot be read back ({error or 'damaged'})")
        segment.settled |= rest
        self.num_batches -= len(rest)
        segment.skip_to_end()
        if self._writer is not None and self._writer[0] is segment:
            self._end_segment()
        if not segment.num_waiting:
            self._delete(segment)

    def _drop_oldest(self) -> None:
        segment = self._segments[0]
        self._lost(segment.num_waiting, f"more than {self._byte_limit} bytes wait in the spool for the sidecar")
        self.num_batches -= segment.num_waiting
        self._where = {key: place for key, place in self._where.items() if place[0] is not segment}
        self._delete(segment)

    def _delete(self, segment: Segment) -> None:
        if self._writer is not None and self._writer[0] is segment:
            os.close(self._writer[1])
            self._writer = None
        if self._reader is not None and self._reader[0] is segment:
            self._close_reader()
        self._segments.remove(segment)
        self.num_bytes -= segment.num_bytes
        with contextlib.suppress(FileNotFoundError):
            segment.path.unlink()


def _write_whole(descriptor: int, record: bytes, *, at: int) -> None:
    """Write all of it at this offset or, with OSError, nothing: what a full disk took of it is cut off again."""
    rest = memoryview(record)
    try:
        while rest:
            rest = rest[os.pwrite(descriptor, rest, at + len(record) - len(rest)) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, at)
        raise


def bytes_on_disk(parcel: Parcel) -> int:
    """What a batch takes in the spool."""
    return HEAD_BYTES + len(parcel.payload)
