"""A bound on memory: batches and sample planned from it before the run, and the process watched while it goes on.

The plan adds what is still to come to what is resident when the libraries are loaded. Its figures a row are rounded up
from peaks of the first version; what holds the bound is the watch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from attn_assets.measure import peak_bytes, resident_bytes
from attn_core.errors import AttnError, SettingsError

LIBRARY_BYTES = 250_000_000
"""What the first map and tree load and compile, beyond what is resident when the run is planned."""
BYTES_PER_ROW = 1_500
"""The window's rows as Arrow and arrays, at the widest moment."""
BYTES_PER_SAMPLE = 4_000
"""Neighbours, graph and layout of the map, and the cluster tree."""
BYTES_PER_BATCH_ROW = 600
LEAST_SAMPLE = 1_000
LEAST_BATCH = 1_000
WATCH_INTERVAL_S = 0.1
MENDS = (
    "1. reduce --umap-sample-size (default: 50000); 2. use --long-running with --max-memory-gb; "
    "3. change the chunk size with --batch-size"
)
"""The guide's, word for word but for the third: a larger chunk is quicker and needs more memory."""


class MemoryExceeded(AttnError):
    """The process took more memory than it was allowed, and was stopped."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a run may hold at a time."""

    umap_sample_size: int
    batch_size: int
    expected_bytes: int
    reduced: bool


def fit_sizes(
    *,
    num_rows: int,
    umap_sample_size: int,
    batch_size: int,
    max_memory_gb: float,
    sample_is_fixed: bool = False,
    loaded_bytes: int | None = None,
) -> Sizes:
    """Batch and sample so that the run stays within `max_memory_gb` (10^9 bytes each).

    The batch is reduced first, then the sample, unless it is fixed: who named its size gets that map or none.
    `loaded_bytes`: what the process holds by now (default: measured). Raises `SettingsError` where the sample, or the
    smallest one, does not fit.
    """
    bound = int(max_memory_gb * 1e9)
    sample, batch = min(umap_sample_size, num_rows), min(batch_size, num_rows)
    fixed = (resident_bytes() if loaded_bytes is None else loaded_bytes) + LIBRARY_BYTES + BYTES_PER_ROW * num_rows
    room = bound - fixed
    least_sample = sample if sample_is_fixed else min(LEAST_SAMPLE, sample)
    least = BYTES_PER_SAMPLE * least_sample + BYTES_PER_BATCH_ROW * min(LEAST_BATCH, batch)
    if room < least:
        which = f"a sample of {sample:,}" if sample_is_fixed else "the smallest sample"
        lower = "Raise it, lower --umap-sample-size" if sample_is_fixed else "Raise it"
        raise SettingsError(
            f"--max-memory-gb {max_memory_gb:g} is too small: {num_rows:,} rows with {which} need about "
            f"{(fixed + least) / 1e9:.1f} GB. {lower}, or shorten --hours"
        )
    fitting_batch = min(batch, max(LEAST_BATCH, (room - BYTES_PER_SAMPLE * least_sample) // BYTES_PER_BATCH_ROW))
    if not sample_is_fixed:
        # A fifth at most for the batch: a larger sample gives a better map, a larger batch only saves seconds.
        fitting_batch = min(fitting_batch, max(LEAST_BATCH, room // 5 // BYTES_PER_BATCH_ROW))
    fitting_sample = min(sample, (room - fitting_batch * BYTES_PER_BATCH_ROW) // BYTES_PER_SAMPLE)
    reduced = fitting_sample < sample or fitting_batch < batch
    return Sizes(
        umap_sample_size=fitting_sample if fitting_sample < sample else umap_sample_size,
        batch_size=fitting_batch if fitting_batch < batch else batch_size,
        expected_bytes=fixed + BYTES_PER_SAMPLE * fitting_sample + BYTES_PER_BATCH_ROW * fitting_batch,
        reduced=reduced,
    )


class MemoryWatch:
    """Looks at this process's resident memory ten times a second; above the bound it calls, once, and ends."""

    def __init__(self, max_memory_gb: float, *, on_exceeded: Callable[[MemoryExceeded], None]) -> None:
        self._bound = int(max_memory_gb * 1e9)
        self._on_exceeded = on_exceeded
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_INTERVAL_S):
            # The kernel's own high-water mark: a peak between two looks is not missed.
            found = peak_bytes()
            if found > self._bound:
                self._on_exceeded(
                    MemoryExceeded(
                        f"the run has taken {found / 1e9:.2f} GB, more than --max-memory-gb {self._bound / 1e9:g}, and "
                        f"was stopped; nothing was published. What helps: {MENDS}"
                    )
                )
                return
