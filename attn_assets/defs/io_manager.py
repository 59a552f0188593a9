"""Where assets rest between runs: the lake. Nothing in it can run code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
from dagster import InputContext, OutputContext

from attn_assets.defs.partitions import us_from_key
from attn_assets.lake import ONLY, Lake, read_tables, write_tables
from attn_core.store import HOUR_US, STORED, with_all_columns

__all__ = ["ONLY", "ParquetFolders", "read_tables", "write_tables"]

_MISSING_HOURS = {"fingerprints": STORED}
"""Assets of which a window may lack hours (nothing was captured in them), and what an absent hour looks like."""


class ParquetFolders(dg.ConfigurableIOManager):
    """Stores a `pa.Table`, or a mapping of names to tables, as ``BASE/ASSET/HOUR/NAME.parquet``.

    An output of several hours is one table, cut by its column `captured_at_us`. An input of several hours is their
    tables in a row.
    """

    base_dir: str
    """A path, or a URL that fsspec knows."""

    @property
    def lake(self) -> Lake:
        """The lake itself."""
        return Lake(self.base_dir)

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Write the asset's tables."""
        if obj is None:
            return
        lake, asset, keys = self.lake, name_of(context.asset_key), list(context.asset_partition_keys)
        if len(keys) == 1:
            lake.write(asset, keys[0], obj if isinstance(obj, Mapping) else {ONLY: obj})
            return
        hours = obj.column("captured_at_us").to_numpy() // HOUR_US * HOUR_US
        for key in keys:
            lake.write(asset, key, {ONLY: obj.filter(pa.array(np.equal(hours, us_from_key(key))))})

    def load_input(self, context: InputContext) -> Any:
        """Read them back; a folder that is not there is an error, but for an hour in which nothing was captured."""
        lake, asset, keys = self.lake, name_of(context.asset_key), list(context.asset_partition_keys)
        schema = _MISSING_HOURS.get(asset)
        if schema is not None:
            rows = lake.rows(asset, keys)
            return schema.empty_table() if rows is None else with_all_columns(rows)
        tables_by_name = lake.read(asset, keys[0])
        if tables_by_name is None:
            raise FileNotFoundError(f"{asset} of {keys[0]} is not in the lake {self.base_dir}: materialise it first")
        return tables_by_name[ONLY] if set(tables_by_name) == {ONLY} else tables_by_name

    def folder(self, asset_key: dg.AssetKey, partition_key: str) -> Path:
        """Where an hour of an asset lies, for a lake on a disk."""
        return Path(self.lake.folder(name_of(asset_key), partition_key))


def name_of(asset_key: dg.AssetKey) -> str:
    """The asset's name in the lake."""
    return "/".join(asset_key.path)
