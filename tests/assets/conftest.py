"""What the tests of discovery share: a database with synthetic fingerprints, and the graph over it."""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from synthetic_fingerprints import draw, hour_start_us, store_rows

from attn_assets.definitions import build_resources
from attn_assets.defs.assets import build_assets
from attn_assets.defs.partitions import key_from_us
from attn_assets.defs.resources import Plan
from attn_assets.settings import Settings
from attn_core.store import HOUR_US

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "core"))  # vectors drawn to have a zone's characteristic
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Graph:
    """The five assets over a database and folders of their own."""

    def __init__(self, folder: Path, **overrides: object) -> None:
        small = {"umap_sample_size": 400, "batch_size": 150}
        places = {"db": folder / "fingerprints.db", "discovery_dir": folder / "out", "assets_dir": folder / "assets"}
        self.settings = Settings(**{**small, **places, **overrides})
        self.resources = build_resources(self.settings)
        self.assets = build_assets(first_hour=self.settings.first_hour, window_hours=self.settings.window_hours)
        self.instance = dg.DagsterInstance.ephemeral()

    def plan(self, **changes: object) -> Plan:
        """The settings' plan with some of it changed."""
        return Plan(**{**self.resources["plan"].model_dump(), **changes})

    def fill(self, count: int, *, hours_ago: int = 1, seed: int = 0, kinds: int = 4) -> pa.RecordBatch:
        """Store `count` synthetic rows of an hour."""
        start = hour_start_us(hours_ago)
        rows = draw(count, seed=seed, start_us=start, end_us=start + HOUR_US, kinds=kinds)
        store_rows(self.settings.db, rows)
        return rows

    def key(self, hours_ago: int = 1) -> str:
        """The partition of an hour."""
        return key_from_us(hour_start_us(hours_ago))

    def make(
        self, *assets: str, hours_ago: int = 1, raise_on_error: bool = True, resources: dict[str, object] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Materialise these assets (all of them where none is named) for an hour."""
        return dg.materialize(
            self.assets,
            selection=list(assets) or None,
            instance=self.instance,
            resources={**self.resources, **(resources or {})},
            partition_key=self.key(hours_ago),
            raise_on_error=raise_on_error,
            run_config=QUIET,
        )


@pytest.fixture
def graph(tmp_path: Path):
    made = Graph(tmp_path)
    yield made
    made.instance.dispose()


@pytest.fixture
def large_graph(tmp_path: Path):
    """With a sample large enough for the held-out rows to count."""
    made = Graph(tmp_path, umap_sample_size=2000)
    yield made
    made.instance.dispose()


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The command line of `attn-discover`, in this Python."""
    return [sys.executable, "-m", "attn_assets.cli"]
