"""Compiled loops: Numba without its threads. Loops release the interpreter's lock, and threads of ours share the rows.

Numba's own threads cannot be entered by two threads at once, nor survive a fork, and Dagster does both. Here a loop
takes the range of rows that it answers for, and writes no other: the result does not depend on how many threads there
are. Imported only where something is computed: Numba takes a second to load.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])
LEAST_ROWS = 512
"""Fewer rows than this are not worth a second thread."""


def compiled(loop: Loop) -> Loop:
    """The loop as machine code, kept on disk beside the module where that can be written."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz", "arcp", "reassoc"}}
    try:
        made: Loop = numba.njit(cache=True, **options)(loop)
    except RuntimeError:
        # Numba finds no folder to write to: compiled anew in each process, then.
        made = numba.njit(**options)(loop)
    return made


def num_threads() -> int:
    """The processors that this process may use, at most 8."""
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8))


class Workers:
    """Threads that share a range of rows."""

    def __init__(self) -> None:
        self._count = num_threads()
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="discovery") if self._count > 1 else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def over(self, num_rows: int, work: Callable[[int, int], None]) -> None:
        """Call `work(start, stop)` on parts of 0..num_rows, each row in one of them, and wait for all."""
        parts = min(self._count, num_rows // LEAST_ROWS)
        if self._pool is None or parts < 2:
            work(0, num_rows)
            return
        ends = [num_rows * part // parts for part in range(parts + 1)]
        for one in [self._pool.submit(work, ends[part], ends[part + 1]) for part in range(parts)]:
            one.result()


def over_rows(num_rows: int, work: Callable[[int, int], None]) -> None:
    """`Workers.over` with threads of its own."""
    with Workers() as workers:
        workers.over(num_rows, work)
