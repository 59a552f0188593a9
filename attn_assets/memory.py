"""How large a sample and a batch fit into a bound on memory.

The figures are from runs on two cores: 2,000 rows 0.48 GB; 150,000 rows with a sample of 20,000 0.72 GB, of 45,000
0.78 GB. Rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

from attn_core.errors import SettingsError

BASE_BYTES = 520_000_000
"""Interpreter, libraries and compiled code of a run on few rows."""
BYTES_PER_ROW = 1_500
"""The window's rows as Arrow and arrays, at the widest moment."""
BYTES_PER_SAMPLE = 3_000
"""Neighbours, graph and layout of the map, and the cluster tree."""
BYTES_PER_BATCH_ROW = 600
LEAST_SAMPLE = 1_000
LEAST_BATCH = 1_000


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a run may hold at a time."""

    umap_sample_size: int
    batch_size: int
    expected_bytes: int
    reduced: bool


def fit_sizes(*, num_rows: int, umap_sample_size: int, batch_size: int, max_memory_gb: float) -> Sizes:
    """Sample and batch, reduced where needed so that the run stays within `max_memory_gb` (10^9 bytes each).

    Raises `SettingsError` where even the smallest sample does not fit.
    """
    bound = int(max_memory_gb * 1e9)
    sample, batch = min(umap_sample_size, num_rows), min(batch_size, num_rows)
    room = bound - BASE_BYTES - BYTES_PER_ROW * num_rows
    least = BYTES_PER_SAMPLE * min(LEAST_SAMPLE, sample) + BYTES_PER_BATCH_ROW * min(LEAST_BATCH, batch)
    if room < least:
        need = (bound - room + least) / 1e9
        raise SettingsError(
            f"--max-memory-gb {max_memory_gb:g} is too small: {num_rows:,} rows with the smallest sample need "
            f"about {need:.1f} GB. Raise it, or shorten --hours"
        )
    fitting_batch = min(batch, max(LEAST_BATCH, room // 5 // BYTES_PER_BATCH_ROW))
    fitting_sample = min(sample, (room - fitting_batch * BYTES_PER_BATCH_ROW) // BYTES_PER_SAMPLE)
    used = BASE_BYTES + BYTES_PER_ROW * num_rows
    used += BYTES_PER_SAMPLE * fitting_sample + BYTES_PER_BATCH_ROW * fitting_batch
    reduced = fitting_sample < sample or fitting_batch < batch
    return Sizes(
        umap_sample_size=fitting_sample if fitting_sample < sample else umap_sample_size,
        batch_size=fitting_batch if fitting_batch < batch else batch_size,
        expected_bytes=used,
        reduced=reduced,
    )
