"""A table whose columns lie in a memory-mapped file instead of on the heap.

A bundle's Parquet is compressed and in another order, so it cannot be mapped as it is: what is served is written once,
as Arrow IPC, to a file that has no name from the moment that it is open. Its pages belong to the system's cache, which
may drop and re-read them, and it vanishes with the last who reads it, however the process ends.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pyarrow as pa

from attn_sidecar.logs import log_event, logger_named

_LOG = logger_named("discovery")


def mapped(table: pa.Table) -> pa.Table:
    """The same table, its columns of one chunk each in a mapped file; as it was where no file can be written."""
    try:
        with tempfile.NamedTemporaryFile(prefix="attn-map-", suffix=".arrow") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            with pa.memory_map(str(Path(file.name))) as source:
                return pa.ipc.open_file(source).read_all().combine_chunks()
    except OSError as error:
        # A full temporary folder is no reason to refuse a good run.
        log_event(_LOG, logging.WARNING, "discovery.not_mapped", reason=error, num_points=table.num_rows)
        return table
