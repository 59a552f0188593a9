"""Counts for `/stats`, kept up by reading only what came since they were last asked for."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from attn_sidecar.store.reader import Reader


@dataclass(frozen=True, kw_only=True)
class StoreCounts:
    """What the store holds."""

    num_fingerprints: int
    num_requests: int
    zones: Counter[str]


class Tally:
    """Tokens by zone, from a store whose rows are only ever added (a full count of millions would take seconds)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted_up_to = 0
        self._zones: Counter[str] = Counter()

    def counts(self, reader: Reader) -> StoreCounts:
        """Counts as of now; runs on a reading thread."""
        with self._lock:
            newest = reader.newest_id()
            if newest < self._counted_up_to:
                # Rows were deleted by hand: count afresh.
                self._counted_up_to, self._zones = 0, Counter()
            self._zones += reader.zone_counts_between(after_id=self._counted_up_to, up_to_id=newest)
            self._counted_up_to = newest
            zones = Counter(self._zones)
        return StoreCounts(num_fingerprints=zones.total(), num_requests=reader.num_requests(), zones=zones)
