"""The bundle: what a discovery run publishes and the sidecar serves.

``RUN_ID/`` is immutable once published; ``latest`` is a relative symlink swapped atomically. ``manifest.json`` names
every file with its size and SHA-256. Data is Parquet, Arrow, npz or safetensors: nothing in a bundle can run code. A
reader verifies before it believes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attn_core.errors import BundleError
from attn_core.fingerprint import FINGERPRINT_VERSION

SCHEMA_VERSION = 1
LATEST = "latest"
MANIFEST = "manifest.json"
PUBLISH_LOCK = ".publish.lock"
REQUIRED = (
    "embeddings.parquet", "clusters.parquet", "prototypes.parquet", "requests.parquet", "classifier.npz",
    "zone_formulas.json",
)  # fmt: skip
_RUN_ID = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(-\d{1,6})?")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ALLOWED_SUFFIXES = {".parquet", ".arrow", ".npz", ".safetensors", ".json"}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A published run whose every hash was checked when it was opened."""

    path: Path
    run_id: str
    manifest: Mapping[str, Any]

    def table(self, name: str) -> pa.Table:
        """The Parquet file ``NAME.parquet`` as an Arrow table."""
        return pq.read_table(self.path / f"{name}.parquet")


def run_id_from_time(when: datetime) -> str:
    """The run id of a run that starts at this aware instant, for example ``2026-01-10T04-02-11``."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%S")


def is_run_id(text: str) -> bool:
    """Whether this can be a run's id, and so the name of its directory."""
    return _RUN_ID.fullmatch(text) is not None


def publish(
    output_dir: Path, *, run_id: str, manifest: Mapping[str, Any], write: Callable[[Path], None], latest: bool = True
) -> Path:
    """Write a bundle and make it `latest`, unless that is left to the caller; returns its directory.

    `write(directory)` puts the data files into an empty temporary directory. They are hashed, synced to disk and
    renamed into place in one step, then `latest` is swapped: a reader sees the old bundle or the new, never a part.

    Raises `BundleError` where the run is already published, a required file is missing or a name is not allowed.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise BundleError(f"run id {run_id!r}: expected a UTC instant such as 2026-01-10T04-02-11")
    output_dir.mkdir(parents=True, exist_ok=True)
    target = output_dir / run_id
    if target.exists():
        raise BundleError(f"run {run_id} is already published in {output_dir}: a bundle never changes")
    staging = output_dir / f".staging-{run_id}-{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        write(staging)
        files = {path.name: _described(path) for path in sorted(staging.iterdir())}
        missing = [name for name in REQUIRED if name not in files]
        if missing:
            raise BundleError(f"bundle {run_id} lacks {', '.join(missing)}: not published")
        full = {
            **manifest,
            "schema_version": SCHEMA_VERSION,
            "fingerprint_version": FINGERPRINT_VERSION,
            "run_id": run_id,
            "files": files,
        }
        manifest_path = staging / MANIFEST
        manifest_path.write_text(json.dumps(full, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
        for path in (*(staging / name for name in files), manifest_path, staging):
            _sync(path)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if latest:
        point_latest(output_dir, run_id=run_id)
    return target


def point_latest(output_dir: Path, *, run_id: str) -> None:
    """Swap the `latest` symlink to this run, atomically and durably."""
    link = output_dir / f".{LATEST}-{secrets.token_hex(4)}"
    link.symlink_to(run_id)
    link.replace(output_dir / LATEST)
    _sync(output_dir)


@contextmanager
def sole_publisher(output_dir: Path) -> Iterator[None]:
    """Waits until no other process or thread publishes there; the kernel frees the lock of one that is killed."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / PUBLISH_LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def latest_run_id(output_dir: Path) -> str | None:
    """The run that `latest` points to, without opening it; None where there is none."""
    try:
        return (output_dir / LATEST).readlink().name
    except OSError:
        return None


def open_bundle(path: Path) -> Bundle:
    """The verified bundle in this directory (or behind this symlink, which is resolved once).

    Raises `BundleError` where anything is missing, changed, of another version or not of a kind that is safe to read.
    """
    try:
        directory = path.resolve(strict=True)
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"no readable bundle at {path}: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise BundleError(f"{directory / MANIFEST} is not a bundle's manifest")
    for key, valid in (("schema_version", SCHEMA_VERSION), ("fingerprint_version", FINGERPRINT_VERSION)):
        if manifest.get(key) != valid:
            raise BundleError(f"bundle {directory.name} has {key} {manifest.get(key)!r}; this version reads {valid}")
    run_id = manifest.get("run_id")
    if run_id != directory.name:
        raise BundleError(f"bundle {directory.name} says it is run {run_id!r}: moved or mixed up")
    files = manifest["files"]
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise BundleError(f"bundle {run_id} lacks {', '.join(missing)}")
    for name, said in files.items():
        _verify(directory, name, said)
    return Bundle(path=directory, run_id=run_id, manifest=manifest)


def _verify(directory: Path, name: str, said: Any) -> None:
    if not _FILE_NAME.fullmatch(name) or Path(name).suffix not in _ALLOWED_SUFFIXES:
        raise BundleError(f"bundle {directory.name} lists the file {name!r}, which a bundle may not hold")
    try:
        found = _described(directory / name)
    except OSError as error:
        raise BundleError(f"bundle {directory.name}: {name} cannot be read: {error}") from error
    if found != said:
        raise BundleError(f"bundle {directory.name}: {name} is not what was published (size or SHA-256 differs)")


def _described(path: Path) -> dict[str, Any]:
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path.name} is not a plain file: a bundle holds plain files only")
    if not _FILE_NAME.fullmatch(path.name) or path.suffix not in _ALLOWED_SUFFIXES:
        raise BundleError(f"{path.name} may not be in a bundle: allowed are {sorted(_ALLOWED_SUFFIXES)}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
