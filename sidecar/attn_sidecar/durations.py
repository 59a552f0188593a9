"""Durations counted into fixed buckets: cheap enough for every request, and what Prometheus calls a histogram."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

EDGES_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the buckets in seconds; one more holds all that is longer."""


class Durations:
    """Written by one thread, read by any: a reader may miss the newest duration, never see half a one."""

    def __init__(self) -> None:
        self.sum_s = 0.0
        self._counts = [0] * (len(EDGES_S) + 1)

    def add(self, duration_s: float) -> None:
        """Count one."""
        self._counts[bisect_left(EDGES_S, duration_s)] += 1
        self.sum_s += duration_s

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper end, durations up to it), ending with ``+Inf``."""
        return list(zip((*map(str, EDGES_S), "+Inf"), map(float, accumulate(self._counts)), strict=True))
