"""The request for an early discovery run: a small file beside the bundles, written by the sidecar, read by Dagster.

Both already share the discovery folder, wherever each of them runs: the one publishes there and the other serves from
it. The file names the run that no longer fits, so that it means nothing any more once another run is `latest`.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from attn_core.errors import BundleError

FILE_NAME = "early_run.json"
SCHEMA_VERSION = 1
NOVELTY, DRIFT = "novelty", "drift"
_MAX_BYTES = 10_000


@dataclass(frozen=True, kw_only=True)
class EarlyRun:
    """Why the hour should not be waited for."""

    run_id: str
    """The run that is served and no longer fits."""
    reason: str
    """``novelty`` or ``drift``."""
    evidence: str
    """One sentence with the figures."""
    asked_at_us: int
    """UTC microseconds."""


def ask(discovery_dir: Path, request: EarlyRun) -> None:
    """Write the request, atomically, in place of an older one; raises `OSError`."""
    discovery_dir.mkdir(parents=True, exist_ok=True)
    staging = discovery_dir / f".{FILE_NAME}-{secrets.token_hex(4)}"
    try:
        with staging.open("w", encoding="utf-8") as file:
            json.dump({"schema_version": SCHEMA_VERSION, **asdict(request)}, file)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(discovery_dir / FILE_NAME)
    finally:
        staging.unlink(missing_ok=True)


def asked(discovery_dir: Path) -> EarlyRun | None:
    """The request that stands, None where there is none; raises `BundleError` where the file is no request."""
    path = discovery_dir / FILE_NAME
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(_MAX_BYTES))
        if raw["schema_version"] != SCHEMA_VERSION or raw["reason"] not in (NOVELTY, DRIFT):
            raise BundleError(f"{path} is a request of another version")
        return EarlyRun(
            run_id=str(raw["run_id"]),
            reason=raw["reason"],
            evidence=str(raw["evidence"]),
            asked_at_us=int(raw["asked_at_us"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} cannot be read as a request for an early run: {error}; delete it") from error


def withdraw(discovery_dir: Path) -> None:
    """Take the request back, where there is one; raises `OSError`."""
    (discovery_dir / FILE_NAME).unlink(missing_ok=True)
