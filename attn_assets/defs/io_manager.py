"""Where assets rest: one folder an asset and hour, one Parquet file a table. Nothing in it can run code."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dagster import InputContext, OutputContext

from attn_assets.defs.partitions import us_from_key
from attn_core.store import HOUR_US, STORED

ONLY = "table"
"""File name of an asset that is a single table."""
_MISSING_HOURS = {"fingerprints": STORED}
"""Assets of which a window may lack hours (nothing was captured in them), and what an absent hour looks like."""


class ParquetFolders(dg.ConfigurableIOManager):
    """Stores a `pa.Table`, or a mapping of names to tables, as ``BASE/ASSET/HOUR/NAME.parquet``.

    An output of several hours is one table, cut by its column `captured_at_us`. An input of several hours is their
    tables in a row.
    """

    base_dir: str

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Write the asset's tables; a folder appears whole or not at all."""
        if obj is None:
            return
        keys = list(context.asset_partition_keys)
        if len(keys) == 1:
            write_tables(self.folder(context.asset_key, keys[0]), obj if isinstance(obj, Mapping) else {ONLY: obj})
            return
        hours = obj.column("captured_at_us").to_numpy() // HOUR_US * HOUR_US
        for key in keys:
            part = obj.filter(pa.array(np.equal(hours, us_from_key(key))))
            write_tables(self.folder(context.asset_key, key), {ONLY: part})

    def load_input(self, context: InputContext) -> Any:
        """Read them back."""
        keys = list(context.asset_partition_keys)
        schema = _MISSING_HOURS.get(context.asset_key.path[-1])
        folders = [self.folder(context.asset_key, key) for key in keys]
        if schema is not None:
            tables = [read_tables(folder)[ONLY] for folder in folders if folder.is_dir()]
            return pa.concat_tables(tables) if tables else schema.empty_table()
        tables_by_name = read_tables(folders[0])
        return tables_by_name[ONLY] if set(tables_by_name) == {ONLY} else tables_by_name

    def folder(self, asset_key: dg.AssetKey, partition_key: str) -> Path:
        """Where an hour of an asset lies."""
        return Path(self.base_dir).joinpath(*asset_key.path, partition_key.replace(":", "-"))


def write_tables(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    """Write each table as ``NAME.parquet``, replacing the folder if it is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    staging.mkdir()
    for name, table in tables.items():
        pq.write_table(table, staging / f"{name}.parquet", compression="zstd")
    if folder.exists():
        old = staging.with_name(f"{staging.name}-old")
        folder.rename(old)
        staging.rename(folder)
        shutil.rmtree(old)
    else:
        staging.rename(folder)


def read_tables(folder: Path) -> dict[str, pa.Table]:
    """All tables of a folder by name."""
    return {path.stem: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}
