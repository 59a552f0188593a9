"""One discovery by plain calls of its stages, in a process of its own: seconds a stage, and its peak memory.

`python -m benchmarks.discovery_run DB FOLDER` prints one JSON line and leaves the sample in ``FOLDER/sample.npz``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attn_assets.discovery.embedding import NoKeeper
from attn_assets.discovery.learned_space import coordinates
from attn_assets.discovery.models import Models
from attn_assets.discovery.tables import embedding_of, facts_of, space_of
from attn_assets.discovery.window import window_from_table
from attn_assets.measure import Cost
from attn_assets.publishing import Assets, Run, publish_checked
from attn_assets.settings import Settings
from attn_assets.stages import find_clusters, label_zones, locate
from attn_core.store import open_reader, read_fingerprints

WINDOW_US = (0, 1 << 61)


@dataclass(frozen=True)
class _Passed:
    passed: bool = True


def discover(db: Path, folder: Path, *, settings: Settings) -> dict[str, float]:
    """Read, embed, cluster, label, publish; returns seconds by stage, and all together under `seconds`."""
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    began = time.perf_counter()
    with stage("read"), closing(open_reader(db)) as connection:
        rows = read_fingerprints(connection, start_us=WINDOW_US[0], end_us=WINDOW_US[1])
    with stage("embed"):
        located = locate(
            rows,
            window_us=WINDOW_US,
            sample_size=settings.umap_sample_size,
            batch_size=settings.batch_size,
            seed=settings.seed,
            keeper=NoKeeper(),
            report=lambda done, total: None,
        )
    with stage("cluster"):
        clusters = find_clusters(
            located,
            min_cluster_size=settings.min_cluster_size,
            seed=settings.seed,
            previous_bundle=None,
        )
    with stage("label"):
        zones = label_zones(located, clusters)
    with stage("publish"):
        outcome = publish_checked(
            Assets(located=located, clusters=clusters, zones=zones),
            Run(run_id=None, parameters={}, started_at_us=time.time_ns() // 1000),
            discovery_dir=folder / f"bundles-{os.getpid()}",  # of its own: a run follows on no other here
            db=db,
            agrees=lambda metrics: _Passed(),
            verifies=lambda run_id: _Passed(),
            publishing=contextlib.nullcontext,
        )
    seconds["seconds"] = time.perf_counter() - began
    if outcome.run_id is None:
        raise SystemExit(f"discovery: {outcome.note}")
    seconds["agreement"] = float(outcome.metrics.get("cluster_agreement", 0.0))
    embedding = embedding_of(located)
    window, models = window_from_table(located), Models.from_column(located.column("model_id"))
    space = space_of(located)
    np.savez(
        folder / "sample.npz",
        points=coordinates(window, models, space, np.flatnonzero(embedding.in_sample)).main,
        positions=embedding.positions[embedding.in_sample],
        landmarks=coordinates(window, models, space, clusters["landmarks"].column("row").to_numpy()).main,
        labels=clusters["landmarks"].column("label").to_numpy(),
        min_samples=facts_of(clusters["points"])["metrics"]["min_samples"],
    )
    return seconds


def main() -> None:
    """Run one discovery of all rows of a database."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.discovery_run", description=__doc__)
    parser.add_argument("db", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int, default=Settings.umap_sample_size)
    arguments = parser.parse_args()
    with Cost() as cost:
        settings = Settings(umap_sample_size=arguments.sample)
        seconds = discover(arguments.db, arguments.folder, settings=settings)
    print(json.dumps({**seconds, "peak_rss_bytes": cost.peak_memory_bytes}), flush=True)


if __name__ == "__main__":
    main()
