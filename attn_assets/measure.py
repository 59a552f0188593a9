"""What a piece of work cost: seconds and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from types import TracebackType

import psutil

_KIB = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux


class Cost:
    """Measures the block it surrounds; the figures hold once the block is left."""

    duration_s: float = 0.0
    peak_memory_bytes: int = 0
    """Of the whole process so far: the operating system keeps no other peak."""

    def __enter__(self) -> Cost:
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.duration_s = time.perf_counter() - self._start
        self.peak_memory_bytes = peak_bytes()

    def metadata(self) -> dict[str, float | int]:
        """The figures by the names that they have in Dagster."""
        return {"duration_s": round(self.duration_s, 3), "peak_memory_bytes": self.peak_memory_bytes}


def peak_bytes() -> int:
    """The most memory that this process had in RAM so far, as the kernel saw it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def resident_bytes() -> int:
    """Memory of this process that is in RAM now."""
    return int(psutil.Process().memory_info().rss)
