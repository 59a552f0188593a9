"""Settings of discovery, read from the environment in this one place.

| variable               | meaning                                                            | default                |
|------------------------|--------------------------------------------------------------------|------------------------|
| ATTN_DB                | SQLite database with fingerprints                                  | data/fingerprints.db   |
| ATTN_DISCOVERY_DIR     | where bundles are published (`latest` points to the newest)        | data/discovery_outputs |
| ATTN_ASSETS_DIR        | where the assets' Parquet files lie                                | data/assets            |
| ATTN_LAKE_URL          | where those lie instead, a URL that fsspec knows (s3://...)        |                        |
| ATTN_WINDOW_HOURS      | hours of fingerprints that a run looks at                          | 24                     |
| ATTN_MIN_CLUSTER_SIZE  | fewest rows that make a cluster                                    | 20                     |
| ATTN_UMAP_SAMPLE_SIZE  | rows that the map is fitted on; the others are placed against them | 50000                  |
| ATTN_BATCH_SIZE        | rows placed at a time                                              | 20000                  |
| ATTN_SEED              | seed of sample, map and splits                                     | 0                      |
| ATTN_MIN_NEW_ROWS      | new rows in the running hour before the sensor asks for it         | 50                     |
| ATTN_DEBOUNCE_S        | seconds between two requests of one hour by the sensor             | 300                    |
| ATTN_MIN_AGREEMENT     | agreement with the offline clusters below which nothing is published | 0.6                  |
| ATTN_MAX_NOISE_SHARE   | share of rows in no cluster above which nothing is published       | 0.9                    |
| ATTN_KEEP_DB_HOURS     | rows older than this leave the database once in the lake; 0: none  | 0                      |
| ATTN_KEEP_LAKE_HOURS   | hours older than this leave the lake; 0: none                      | 0                      |
| ATTN_MAX_LAKE_BYTES    | above this the oldest hours leave the lake; 0: none                | 0                      |
| ATTN_KEEP_RUNS         | published runs that stay; 0: all                                   | 0                      |
| ATTN_KEEP_RECORDS_HOURS | runs that ended before that leave Dagster's records; 0: none      | 336                    |
| ATTN_SIDECAR_URL       | told of each published run, as http://127.0.0.1:9009               |                        |
| ATTN_SIDECAR_TOKEN     | its token, where it asks for one                                   |                        |
| ATTN_FIRST_HOUR        | first hourly partition, UTC                                        | 2026-01-01-00:00       |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from attn_core.errors import SettingsError

HOUR_FORMAT = "%Y-%m-%d-%H:%M"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All of discovery's settings; the fields are those of the table above."""

    db: Path = Path("data/fingerprints.db")
    discovery_dir: Path = Path("data/discovery_outputs")
    assets_dir: Path = Path("data/assets")
    lake_url: str = ""
    window_hours: int = 24
    min_cluster_size: int = 20
    umap_sample_size: int = 50_000
    batch_size: int = 20_000
    seed: int = 0
    min_new_rows: int = 50
    debounce_s: int = 300
    min_agreement: float = 0.6
    max_noise_share: float = 0.9
    keep_db_hours: int = 0
    keep_lake_hours: int = 0
    max_lake_bytes: int = 0
    keep_runs: int = 0
    keep_records_hours: int = 336
    sidecar_url: str = ""
    sidecar_token: str = field(default="", repr=False)
    first_hour: str = "2026-01-01-00:00"

    def __post_init__(self) -> None:
        for name, least in (
            ("window_hours", 1),
            ("min_cluster_size", 2),
            ("umap_sample_size", 50),
            ("batch_size", 1),
            ("seed", 0),
            ("min_new_rows", 1),
            ("debounce_s", 0),
            ("keep_db_hours", 0),
            ("keep_lake_hours", 0),
            ("max_lake_bytes", 0),
            ("keep_runs", 0),
            ("keep_records_hours", 0),
        ):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        for name in ("min_agreement", "max_noise_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SettingsError(f"{name} is {getattr(self, name)}: it lies between 0 and 1")
        if 0 < self.keep_lake_hours <= self.window_hours:
            raise SettingsError(
                f"keep_lake_hours is {self.keep_lake_hours}: it must exceed window_hours, {self.window_hours}, or be 0"
            )
        try:
            datetime.strptime(self.first_hour, HOUR_FORMAT)
        except ValueError as error:
            raise SettingsError(f"first_hour is {self.first_hour!r}: expected UTC such as 2026-01-01-00:00") from error

    @property
    def lake(self) -> str:
        """Path or URL of the lake."""
        return self.lake_url or str(self.assets_dir)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """The settings that these variables say; raises `SettingsError` naming the variable that cannot be used."""
        chosen: dict[str, object] = {}
        for name, default in vars(cls()).items():
            variable = f"ATTN_{name.upper()}"
            if variable not in environ:
                continue
            try:
                chosen[name] = (
                    type(default)(environ[variable]) if not isinstance(default, Path) else Path(environ[variable])
                )
            except ValueError as error:
                raise SettingsError(f"{variable}={environ[variable]!r}: expected a {type(default).__name__}") from error
        return cls(**chosen)  # type: ignore[arg-type]
