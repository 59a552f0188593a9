"""The Parquet lake: one folder an asset and hour, one file a table, on a disk or on any store that fsspec knows.

On a disk a folder appears whole or not at all, by renaming. Elsewhere nothing can be renamed in one step: there a
folder counts once ``_tables.json`` names its files; where several belong together it goes first and comes back last.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

ONLY = "table"
"""File name of an asset that is a single table."""
MARKER = "_tables.json"
Tables = dict[str, pa.Table]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An hour of an asset as it lies in the lake."""

    asset: str
    hour: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How far an hour of rows reaches."""

    num_rows: int
    max_id: int


class Lake:
    """The lake at a path or URL such as ``/data/assets``, ``file:///data/assets``, ``s3://bucket/attention``."""

    def __init__(self, base: str) -> None:
        self._fs: Any
        self._fs, self._root = url_to_fs(base)
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def folder(self, asset: str, hour: str) -> str:
        """Where an hour of an asset lies."""
        return f"{self._root.rstrip('/')}/{asset}/{hour.replace(':', '-')}"

    def holds(self, asset: str, hour: str) -> bool:
        """Whether that hour is there, whole."""
        folder = self.folder(asset, hour)
        return Path(folder).is_dir() if self._is_local else bool(self._fs.exists(f"{folder}/{MARKER}"))

    def read(self, asset: str, hour: str) -> Tables | None:
        """All tables of that hour by name, None where it is not there."""
        folder = self.folder(asset, hour)
        if not self.holds(asset, hour):
            return None
        if self._is_local:
            return read_tables(Path(folder))
        tables = {}
        for name in json.loads(self._fs.cat_file(f"{folder}/{MARKER}")):
            with self._fs.open(f"{folder}/{name}.parquet", "rb") as file:
                tables[name] = pq.read_table(file)
        return tables

    def rows(self, asset: str, hours: Sequence[str]) -> pa.Table | None:
        """The rows of an asset of one table over these hours; None where none of them is there and whole."""
        tables = []
        for hour in hours:
            try:
                found = self.read(asset, hour)
            except (OSError, pa.ArrowException):
                continue
            if found is not None and ONLY in found:
                tables.append(found[ONLY])
        # An older version wrote fewer columns: they are null in its hours.
        return pa.concat_tables(tables, promote_options="default") if tables else None

    def unreadable(self, asset: str, hours: Sequence[str]) -> list[str]:
        """Those of the hours that are there and cannot be read."""
        return [hour for hour in hours if self.holds(asset, hour) and self.extent(asset, hour) is None]

    def extent(self, asset: str, hour: str) -> Extent | None:
        """Rows of that hour and their highest `id`, from the file's footer; None where it is absent or unreadable."""
        if not self.holds(asset, hour):
            return None
        try:
            with self._fs.open(f"{self.folder(asset, hour)}/{ONLY}.parquet", "rb") as file:
                return _extent_of(pq.ParquetFile(file))
        except (OSError, pa.ArrowException):
            return None

    def write(self, asset: str, hour: str, tables: Mapping[str, pa.Table]) -> None:
        """Store the tables of an hour in place of what is there."""
        folder = self.folder(asset, hour)
        if self._is_local:
            write_tables(Path(folder), tables)
            return
        marker, before = f"{folder}/{MARKER}", self._names(folder)
        self._fs.makedirs(folder, exist_ok=True)
        if before and set(before) | set(tables) != {ONLY}:
            # A lone file is replaced in one step; of several a reader could meet old and new ones together.
            self._fs.rm_file(marker)
        for name, table in tables.items():
            with self._fs.open(f"{folder}/{name}.parquet", "wb") as file:
                pq.write_table(table, file, compression="zstd")
        self._fs.pipe_file(marker, json.dumps(sorted(tables)).encode())
        for name in set(before) - set(tables):
            self._fs.rm_file(f"{folder}/{name}.parquet")

    def stored(self) -> list[Stored]:
        """Every hour of every asset, oldest hour first."""
        if not self._fs.exists(self._root):
            return []
        found: dict[tuple[str, str], int] = {}
        for path, info in self._fs.find(self._root, detail=True).items():
            parts = str(path)[len(self._root) :].strip("/").split("/")
            if len(parts) == 3 and not parts[1].startswith("."):
                found[parts[0], parts[1]] = found.get((parts[0], parts[1]), 0) + int(info["size"])
        return sorted(
            (Stored(asset=asset, hour=hour_from_folder(hour), num_bytes=size) for (asset, hour), size in found.items()),
            key=lambda one: (one.hour, one.asset),
        )

    def drop(self, asset: str, hour: str) -> None:
        """Remove that hour of the asset, or what a writer that died left of it: at no moment is half of it there."""
        folder = self.folder(asset, hour)
        if self._is_local:
            old = Path(folder).with_name(f".{Path(folder).name}-{secrets.token_hex(4)}-old")
            Path(folder).rename(old)
            shutil.rmtree(old)
            return
        if self._fs.exists(f"{folder}/{MARKER}"):
            self._fs.rm_file(f"{folder}/{MARKER}")
        self._fs.rm(folder, recursive=True)

    def _names(self, folder: str) -> list[str]:
        if not self._fs.exists(f"{folder}/{MARKER}"):
            return []
        names: list[str] = json.loads(self._fs.cat_file(f"{folder}/{MARKER}"))
        return names


def _extent_of(file: pq.ParquetFile) -> Extent:
    column = file.schema_arrow.get_field_index("id")
    max_id = 0
    for group in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max:
            max_id = max(max_id, int(statistics.max))
    return Extent(num_rows=file.metadata.num_rows, max_id=max_id)


def hour_from_folder(name: str) -> str:
    """The partition key of a folder: ``2026-01-10-04-00`` is ``2026-01-10-04:00``."""
    return f"{name[:-3]}:{name[-2:]}" if name[-3:-2] == "-" else name


def write_tables(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    """Write each table as ``NAME.parquet``, replacing the folder if it is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if set(tables) == {ONLY} == {path.stem for path in folder.glob("*.parquet")}:
        # In one step: between two renames of folders a crash would leave neither, and an hour's rows may lie only here.
        part = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
        pq.write_table(tables[ONLY], part, compression="zstd")
        _sync(part)
        part.replace(folder / f"{ONLY}.parquet")
        return
    staging = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    staging.mkdir()
    for name, table in tables.items():
        pq.write_table(table, staging / f"{name}.parquet", compression="zstd")
        _sync(staging / f"{name}.parquet")
    if folder.exists():
        old = staging.with_name(f"{staging.name}-old")
        folder.rename(old)
        staging.rename(folder)
        shutil.rmtree(old)
    else:
        staging.rename(folder)


def _sync(path: Path) -> None:
    # Else a power cut may leave the new name with half of its bytes.
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_tables(folder: Path) -> Tables:
    """All tables of a folder by name."""
    return {path.stem: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}
