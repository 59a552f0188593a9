"""Counts for `/stats`, kept up by reading only what came since they were last asked for."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass

from attn_sidecar.store.reader import Reader

_IDS_A_STRETCH = 131_072


@dataclass(frozen=True, kw_only=True)
class StoreCounts:
    """What the store holds."""

    num_fingerprints: int
    num_requests: int
    zones: Counter[str]


@dataclass
class _Stretch:
    """Tokens by zone with oldest <= id <= up_to_id."""

    oldest: int
    up_to_id: int
    zones: Counter[str]


class Tally:
    """Tokens by zone, from a store whose rows are added at one end and taken away, if at all, at the other.

    A full count of millions would take seconds: counts are kept for stretches of ids, so that only the newest rows and
    the stretch that retention has bitten into are counted again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stretches: deque[_Stretch] = deque()

    def counts(self, reader: Reader) -> StoreCounts:
        """Counts as of now; runs on a reading thread."""
        with self._lock:
            oldest, newest = reader.oldest_id(), reader.newest_id()
            if self._stretches and newest < self._stretches[-1].up_to_id:
                # Another file, or rows deleted by hand: count afresh.
                self._stretches.clear()
            while self._stretches and self._stretches[0].up_to_id < oldest:
                self._stretches.popleft()
            if self._stretches and self._stretches[0].oldest < oldest:
                first = self._stretches[0]
                first.zones = reader.zone_counts_between(after_id=oldest - 1, up_to_id=first.up_to_id)
                first.oldest = oldest
            self._count_newest(reader, oldest=oldest, newest=newest)
            zones: Counter[str] = Counter()
            for stretch in self._stretches:
                zones.update(stretch.zones)
        return StoreCounts(num_fingerprints=zones.total(), num_requests=reader.num_requests(), zones=zones)

    def _count_newest(self, reader: Reader, *, oldest: int, newest: int) -> None:
        """What lies beyond the last stretch, in stretches of a bounded number of ids."""
        at = self._stretches[-1].up_to_id if self._stretches else oldest - 1
        while at < newest:
            last = self._stretches[-1] if self._stretches else None
            if last is None or at - last.oldest >= _IDS_A_STRETCH:
                last = _Stretch(oldest=at + 1, up_to_id=at, zones=Counter())
                self._stretches.append(last)
            up_to_id = min(newest, last.oldest + _IDS_A_STRETCH)
            last.zones.update(reader.zone_counts_between(after_id=at, up_to_id=up_to_id))
            at = last.up_to_id = up_to_id
