"""Compiled loops: Numba without its threads. Loops release the interpreter's lock, and threads of ours share the rows.

Numba's own threads cannot be entered by two threads at once, nor survive a fork, and Dagster does both. Here a loop
takes the range of rows that it answers for, and writes no other: the result does not depend on how many threads there
are. Imported only where something is computed: Numba takes a second to load.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

from attn_core import row_loops

Loop = TypeVar("Loop", bound=Callable[..., Any])
LEAST_ROWS = 512
"""Fewer rows than this are not worth a second thread."""


def compiled(loop: Loop) -> Loop:
    """The loop as machine code, kept on disk beside the module where that can be written."""
    return row_loops.compiled(loop, fastmath={"contract", "nsz", "arcp", "reassoc"}, error_model="python")


def num_threads() -> int:
    """The processors that this process may use, at most 8."""
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8))


def over_rows(num_rows: int, work: Callable[[int, int], None]) -> None:
    """Call `work(start, stop)` on parts of 0..num_rows, each row in one of them, and wait for all."""
    parts = min(num_threads(), num_rows // LEAST_ROWS)
    if parts < 2:
        work(0, num_rows)
        return
    ends = [num_rows * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts, thread_name_prefix="discovery") as pool:
        for one in [pool.submit(work, start, stop) for start, stop in pairwise(ends)]:
            one.result()
