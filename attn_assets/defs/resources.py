"""What the assets are given: the store, the plan of a run, whom to tell of progress, a keeper of finished pieces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pyarrow as pa

from attn_assets.calibration.kept import FOLDER as ZONE_CALIBRATIONS
from attn_assets.calibration.kept import Calibrations
from attn_assets.discovery.embedding import Keeper, NoKeeper
from attn_core.bundle import LATEST, Bundle, open_bundle
from attn_core.errors import BundleError
from attn_core.store import HOUR_US, open_reader, read_fingerprints


@dataclass(frozen=True, kw_only=True)
class Span:
    """Rows of the database at one instant."""

    rows: pa.Table
    num_counted: int
    """How many SQLite counts in the span at that instant."""
    oldest_id: int | None
    """The lowest id that the database still holds; None where it is empty."""


class FingerprintStore(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The sidecar's database."""

    db: str

    @property
    def path(self) -> Path:
        """Where the database lies."""
        return Path(self.db)

    def span(self, *, start_us: int, end_us: int) -> Span:
        """Fingerprints captured in [start_us, end_us), and what to hold them against."""
        with closing(open_reader(self.path)) as connection:
            # One snapshot: the sidecar goes on writing, and deletes, while this reads.
            connection.execute("BEGIN")
            rows = read_fingerprints(connection, start_us=start_us, end_us=end_us)
            sql = "SELECT count(*) FROM tokens WHERE captured_at_us >= ? AND captured_at_us < ?"
            counted = int(connection.execute(sql, (start_us, end_us)).fetchone()[0])
            oldest = connection.execute("SELECT min(id) FROM tokens").fetchone()[0]
        return Span(rows=rows, num_counted=counted, oldest_id=oldest)

    def count(self, *, start_us: int, end_us: int) -> int:
        """How many fingerprints were captured in [start_us, end_us)."""
        with closing(open_reader(self.path)) as connection:
            sql = "SELECT count(*) FROM fingerprints WHERE captured_at_us >= ? AND captured_at_us < ?"
            return int(connection.execute(sql, (start_us, end_us)).fetchone()[0])

    def hours(self, *, start_us: int, end_us: int, max_id: int | None = None) -> list[int]:
        """Starts of the hours in which fingerprints with an id of at most `max_id` were captured."""
        with closing(open_reader(self.path)) as connection:
            sql = (
                "SELECT DISTINCT captured_at_us / ? * ? FROM tokens "
                "WHERE captured_at_us >= ? AND captured_at_us < ? AND (? IS NULL OR id <= ?) ORDER BY 1"
            )
            found = connection.execute(sql, (HOUR_US, HOUR_US, start_us, end_us, max_id, max_id))
            return [int(hour_us) for (hour_us,) in found]

    def newest_us(self) -> int | None:
        """When the fingerprint that arrived last was captured, None in an empty store."""
        with closing(open_reader(self.path)) as connection:
            row = connection.execute("SELECT captured_at_us FROM tokens ORDER BY id DESC LIMIT 1").fetchone()
            return None if row is None else int(row[0])


class Plan(dg.ConfigurableResource):  # type: ignore[type-arg]
    """How a run is to be made. What is None is taken from the partition and the clock."""

    discovery_dir: str
    window_hours: float
    min_cluster_size: int
    umap_sample_size: int
    batch_size: int
    seed: int
    min_agreement: float
    max_noise_share: float = 1.0
    run_id: str | None = None
    window_start_us: int | None = None
    window_end_us: int | None = None
    max_fingerprint_id: int | None = None
    previous_run_id: str | None = None
    """Whose cluster ids to carry on; None: those of `latest`, empty: nobody's."""

    @property
    def output(self) -> Path:
        """Where bundles are published."""
        return Path(self.discovery_dir)

    def window_us(self, partition_end_us: int) -> tuple[int, int]:
        """[start, end) of the window of the hour that ends then; a running hour ends now."""
        end = min(partition_end_us, time.time_ns() // 1000) if self.window_end_us is None else self.window_end_us
        start = self.window_start_us
        if start is None:
            start = partition_end_us - round(self.window_hours * HOUR_US)
        return start, end

    def previous(self) -> Bundle | None:
        """The run whose cluster ids are carried on, where there is one that can be read."""
        name = LATEST if self.previous_run_id is None else self.previous_run_id
        try:
            return open_bundle(self.output / name) if name else None
        except BundleError:
            return None

    def calibrations(self) -> Calibrations:
        """The zone calibrations beside the bundles."""
        return Calibrations(self.output / ZONE_CALIBRATIONS)

    def parameters(self) -> dict[str, float | int]:
        """What the manifest says of the run."""
        names = ("window_hours", "min_cluster_size", "umap_sample_size", "batch_size", "seed")
        return {name: getattr(self, name) for name in names}


class Progress:
    """Told what goes on; this one tells nobody."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Surrounds the work of one asset."""
        self.report(name, 0, 0)
        yield

    def report(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` rows of a stage; `total` 0 where it is not known."""

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Surrounds the moment in which a run becomes public: who wants to stop it comes before or after."""
        yield


class Keepers:
    """Gives each asset its keeper of finished pieces; this one keeps nothing."""

    def keeper(self, asset: str) -> Keeper:
        """The keeper of this asset."""
        return NoKeeper()
