"""What is known of an hour besides the sensor's cursor: Dagster's run records, the lake, and the published run."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg

from attn_assets.defs.attempts import Attempt, attempt_in
from attn_assets.defs.partitions import key_from_us
from attn_assets.lake import Extent, Lake
from attn_core.bundle import LATEST, MANIFEST

ROWS_OF = "fingerprints"


class Records:
    """Answers for one look: each file and each run is read once."""

    def __init__(self, *, instance: dg.DagsterInstance, lake: Lake, discovery_dir: Path, newest_id: int) -> None:
        self._instance, self._lake, self._newest_id = instance, lake, newest_id
        self._attempts: dict[str, Attempt] = {}
        self._extents: dict[int, Extent | None] = {}
        self.window_end_us, self._published_id = _published(discovery_dir)

    def attempt(self, run_key: str) -> Attempt:
        """How the run of this key stands."""
        if run_key not in self._attempts:
            self._attempts[run_key] = attempt_in(self._instance, run_key)
        return self._attempts[run_key]

    def lake_holds(self, hour_us: int, *, num_rows: int, max_id: int) -> bool:
        """Whether the lake's hour has so many rows at least, up to this id."""
        if hour_us not in self._extents:
            self._extents[hour_us] = self._lake.extent(ROWS_OF, key_from_us(hour_us))
        extent = self._extents[hour_us]
        # A higher id than the database has given comes from another database: it tells nothing of this one.
        return extent is not None and extent.num_rows >= num_rows and max_id <= extent.max_id <= self._newest_id

    def is_published(self, hour_us: int, *, max_id: int) -> bool:
        """Whether the window of `latest` reaches into the hour, up to this id."""
        return self.window_end_us > hour_us and max_id <= self._published_id <= self._newest_id


def _published(discovery_dir: Path) -> tuple[int, int]:
    """Where the window of `latest` ends and its highest id; zeros where none can be read. Hashes do not matter here."""
    try:
        manifest = json.loads((discovery_dir / LATEST / MANIFEST).read_text(encoding="utf-8"))
        return int(manifest["window_end_us"]), int(manifest.get("max_fingerprint_id", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0, 0
