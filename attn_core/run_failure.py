"""The last discovery run that failed: a small file beside the bundles, written by discovery, read by the sidecar.

The sidecar tells it to whoever listens to `/events`. It goes when a later run is published.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from attn_core.errors import BundleError

FILE_NAME = "failed_run.json"
SCHEMA_VERSION = 1
_MAX_BYTES = 20_000
_MAX_REASON = 2_000


@dataclass(frozen=True, kw_only=True)
class RunFailure:
    """Which run failed, and why."""

    run_id: str
    """The id that it would have been published under, or Dagster's id of the run."""
    stage: str
    """The asset that failed; empty where it did not come to one."""
    reason: str
    """One sentence or more; never a prompt's or an answer's text."""
    failed_at_us: int
    """UTC microseconds."""


def tell(discovery_dir: Path, failure: RunFailure) -> None:
    """Write it, atomically, in place of an older one; raises `OSError`."""
    discovery_dir.mkdir(parents=True, exist_ok=True)
    staging = discovery_dir / f".{FILE_NAME}-{secrets.token_hex(4)}"
    try:
        with staging.open("w", encoding="utf-8") as file:
            said = asdict(failure)
            json.dump({"schema_version": SCHEMA_VERSION, **said, "reason": failure.reason[:_MAX_REASON]}, file)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(discovery_dir / FILE_NAME)
    finally:
        staging.unlink(missing_ok=True)


def told(discovery_dir: Path) -> RunFailure | None:
    """The failure that stands, None where there is none; raises `BundleError` where the file is not of this kind."""
    path = discovery_dir / FILE_NAME
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(_MAX_BYTES))
        if raw["schema_version"] != SCHEMA_VERSION:
            raise BundleError(f"{path} is of another version")
        return RunFailure(
            run_id=str(raw["run_id"]),
            stage=str(raw["stage"]),
            reason=str(raw["reason"]),
            failed_at_us=int(raw["failed_at_us"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} cannot be read as a failed run: {error}; delete it") from error


def forget(discovery_dir: Path) -> None:
    """A run was published since; raises `OSError`."""
    (discovery_dir / FILE_NAME).unlink(missing_ok=True)
