"""`make bench NAME=replay`: 48 synthetic-clock hours of real fingerprints through the asset graph, hour after hour.

Requests captured over `benchmarks/corpus/` arrive `REQUESTS_AN_HOUR` an hour, in an order drawn anew each time all have
come; from the second time on with 0.5% noise, as the same text asked again. One kind of text, long documents, is held
back and comes from `PLANTED_HOUR` on beside the others; from `SHIFT_HOUR` on of the others only the shortest come.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from attn_assets.definitions import build_resources
from attn_assets.defs.assets import build_assets
from attn_assets.defs.partitions import key_from_us
from attn_assets.discovery.frame import width
from attn_assets.discovery.previous import row_of_each
from attn_assets.settings import Settings
from attn_core.bundle import Bundle, open_bundle
from attn_core.fingerprint import DIM, HISTOGRAM, MASSES
from attn_core.store import HOUR_US, insert_fingerprints, open_writer
from attn_core.wire import FINGERPRINTS, vectors_from_rows
from benchmarks.captured import CORPUS
from benchmarks.measure import Figure, figure_from_limit, report

HOURS = 48
REQUESTS_AN_HOUR = 3
MIN_CLUSTER_SIZE = 100
"""A seventieth of a window: with the default 20 the clusters of so few rows are single answers, which come and go."""
PLANTED = "planted"
PLANTED_AN_HOUR = 1
PLANTED_HOUR = 30
PLANTED_CONTEXT = 400
"""Positions at a request's first token that make it a long document: 17 in 20 of its rows' neighbours are of such."""
SHIFT_HOUR = 42
SHORT_CONTEXT = 120
WINDOW_FULL = 24
"""From this hour on a window slides; before, it fills."""
MAX_MOVED = 0.05
FIRST_HOUR_US = int(datetime(2026, 2, 1, tzinfo=UTC).timestamp()) * 1_000_000
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, kw_only=True)
class Hour:
    """What one hour's run made of its window."""

    number: int
    bundle: Bundle
    seconds: float
    moved: np.ndarray
    """[n], rows of the run before, in widths of its map."""
    kept: float
    """Share of the rows that were in a cluster before and are in one now that still have its id."""
    born: dict[int, float]
    """New clusters' ids (born or split), each with its share of planted rows."""

    @property
    def metrics(self) -> dict[str, float]:
        """The run's figures."""
        return dict(self.bundle.manifest["metrics"])


def arrivals(*, hours: int, seed: int = 0) -> Iterator[pa.Table]:
    """Each hour's rows, with the columns of the wire."""
    if not CORPUS.exists():
        raise SystemExit(f"no captured corpus in {CORPUS}: run python -m benchmarks.corpus first")
    table = pq.read_table(CORPUS).combine_chunks()
    requests = {
        one: table.filter(pc.equal(table["request_id"], one)) for one in table["request_id"].unique().to_pylist()
    }
    length = {one: pc.min(rows["context_len"]).as_py() for one, rows in requests.items()}
    rng = np.random.default_rng(seed)
    planted = _shuffled([one for one in requests if length[one] >= PLANTED_CONTEXT], rng)
    usual = _shuffled([one for one in requests if length[one] < PLANTED_CONTEXT], rng)
    short = _shuffled([one for one in requests if length[one] < SHORT_CONTEXT], rng)
    seen: dict[str, int] = {}
    for hour in range(hours):
        source = short if hour >= SHIFT_HOUR else usual
        chosen = [next(source) for _ in range(REQUESTS_AN_HOUR)]
        if hour >= PLANTED_HOUR:
            chosen += [next(planted) for _ in range(PLANTED_AN_HOUR)]
        parts = []
        for one in chosen:
            seen[one] = seen.get(one, 0) + 1
            name = f"{PLANTED if length[one] >= PLANTED_CONTEXT else 'usual'}-{one}-{seen[one]}"
            parts.append(_asked_again(requests[one], rng, name=name, noise=0.0 if seen[one] == 1 else 0.005))
        rows = pa.concat_tables(parts)
        start = FIRST_HOUR_US + hour * HOUR_US
        at = start + np.arange(rows.num_rows) * (HOUR_US // rows.num_rows)
        yield rows.set_column(rows.schema.get_field_index("captured_at_us"), "captured_at_us", pa.array(at))


class Replay:
    """The asset graph over a database and folders of its own, run hour by hour."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(
            db=folder / "fingerprints.db",
            discovery_dir=folder / "out",
            assets_dir=folder / "assets",
            first_hour=key_from_us(FIRST_HOUR_US),
            min_cluster_size=MIN_CLUSTER_SIZE,
            # The first hours are too few rows for clusters of this size.
            max_noise_share=1.0,
        )
        self._assets = build_assets(first_hour=self.settings.first_hour, window_hours=self.settings.window_hours)
        self._resources = build_resources(self.settings)
        self._instance = dg.DagsterInstance.ephemeral()

    def close(self) -> None:
        """Release the instance."""
        self._instance.dispose()

    def hour(self, number: int, rows: pa.Table, before: Bundle | None) -> Hour:
        """Store an hour's rows and make its partition; `before` is the bundle of the hour before."""
        with closing(open_writer(self.settings.db)) as connection:
            for batch in rows.combine_chunks().to_batches():
                insert_fingerprints(connection, batch, model_id="replayed", stored_at_us=time.time_ns() // 1000)
        began = time.perf_counter()
        dg.materialize(
            self._assets,
            instance=self._instance,
            resources=self._resources,
            partition_key=key_from_us(FIRST_HOUR_US + number * HOUR_US),
            run_config=QUIET,
        )
        seconds = time.perf_counter() - began
        bundle = open_bundle(self.settings.discovery_dir / "latest")
        moved, kept = compared(before, bundle) if before else (np.zeros(0), 1.0)
        return Hour(number=number, bundle=bundle, seconds=seconds, moved=moved, kept=kept, born=new_clusters(bundle))


def compared(before: Bundle, after: Bundle) -> tuple[np.ndarray, float]:
    """How far the rows of both runs moved, [n] in widths of the earlier map, and the share that kept their cluster."""
    old, new = before.table("embeddings"), after.table("embeddings")
    found, where = row_of_each(new, old, keys=("request_id", "step"))
    old_at, new_at = (np.column_stack([t["x"].to_numpy(), t["y"].to_numpy()]) for t in (old, new))
    moved = np.linalg.norm(new_at[found] - old_at[where], axis=1) / width(old_at)
    was, is_now = old["cluster_id"].to_numpy()[where], new["cluster_id"].to_numpy()[found]
    both = (was >= 0) & (is_now >= 0)
    return moved, float((was[both] == is_now[both]).mean()) if both.any() else 1.0


def new_clusters(bundle: Bundle) -> dict[int, float]:
    """Ids that this run gave, each with the share of its rows that are of the planted kind."""
    lineage, points = bundle.table("lineage"), bundle.table("embeddings")
    of_kind = np.array([one.startswith(PLANTED) for one in points["request_id"].to_pylist()])
    ids = points["cluster_id"].to_numpy()
    fresh = lineage.filter(pc.is_in(lineage["event"], pa.array(["born", "split"])))
    return {one: float(of_kind[ids == one].mean()) for one in fresh["cluster_id"].to_pylist()}


def run(*, rows: int | None = None, as_json: bool = False, verbose: bool = False) -> bool:
    """Replay, print, append to the results; whether every target is met. `rows` is the number of hours."""
    hours = []
    with TemporaryDirectory(prefix="attn-bench-") as folder:
        replay = Replay(Path(folder))
        before = None
        for number, arrived in enumerate(arrivals(hours=rows or HOURS)):
            hours.append(replay.hour(number, arrived, before))
            before = hours[-1].bundle
            if verbose:
                print(_line(hours[-1]), file=sys.stderr, flush=True)
        replay.close()
    figures = _figures(hours)
    report(figures, as_json=as_json)
    return all(one.met for one in figures)


def _figures(hours: list[Hour]) -> list[Figure]:
    followed = [one for one in hours[1:] if one.bundle.manifest["frame"]["event"] in ("followed", "kept")]
    renewed = [one.number for one in hours[1:] if one not in followed]
    late = sum(number >= WINDOW_FULL for number in renewed)
    largest = max((float(one.moved.max()) for one in followed), default=0.0)
    median = statistics.median(float(np.median(one.moved)) for one in followed)
    kept = statistics.mean(one.kept for one in hours[WINDOW_FULL:] or hours[1:])
    planted = [(one.number, share) for one in hours for share in one.born.values() if one.number >= PLANTED_HOUR]
    born = next((number for number, share in planted if share > 0.5), PLANTED_HOUR - 1)
    settled = _drifts(hours[WINDOW_FULL // 2 : PLANTED_HOUR])
    new, shifted = _drifts(hours[PLANTED_HOUR : PLANTED_HOUR + 3]), _drifts(hours[SHIFT_HOUR : SHIFT_HOUR + 3])
    quiet = statistics.median([value for value, _ in settled] or [0.0])
    alarms = sum(value > high for value, high in settled) / max(len(settled), 1)
    figures = [
        _figure("moved_max", largest, "share of the map's width", f"<= {MAX_MOVED}", largest <= MAX_MOVED),
        _figure("moved_median", median, "share of the map's width", f"<= {MAX_MOVED}", median <= MAX_MOVED),
        _figure("renewals_while_filling", len(renewed) - late, "frames", "-", True),
        _figure("renewals", late, "frames once the window is full", "<= 1", late <= 1),
        _figure("ids_kept", kept, "share of clustered rows an hour", ">= 0.95", kept >= 0.95),
        _figure("born_after", born - PLANTED_HOUR, "hours", "0 to 6", 0 <= born - PLANTED_HOUR <= 6),
        _figure("drift_quiet", quiet, "standard deviations", "-", True),
        _figure("drift_false_alarms", alarms, "share of quiet hours", "<= 0.05", alarms <= 0.05),
        _figure("hour_seconds", statistics.median(one.seconds for one in hours), "s", "-", True),
    ]
    for name, drifts in (("drift_planted", new), ("drift_shifted", shifted)):
        value = statistics.median([value for value, _ in drifts] or [0.0])
        figures.append(_figure(name, value, "standard deviations", "above quiet", value > quiet))
    return figures


def _drifts(hours: list[Hour]) -> list[tuple[float, float]]:
    """Distance and its bound by chance, of the hours that tell it."""
    found = [one.metrics for one in hours]
    return [(one["drift_distance"], one["drift_distance_high"]) for one in found if "drift_distance" in one]


def _figure(figure: str, value: float, unit: str, target: str, met: bool) -> Figure:
    return figure_from_limit(name="replay", figure=figure, value=value, unit=unit, target=target, met=met)


def _line(one: Hour) -> str:
    metrics, frame = one.metrics, one.bundle.manifest["frame"]
    events = {
        name: metrics[f"num_{name}"] for name in ("born", "split", "merged", "returned", "gone", "grown", "shrunk")
    }
    moved = f"{np.median(one.moved):.4f}/{one.moved.max():.4f}" if len(one.moved) else "-"
    drift = f"{metrics.get('drift_distance', -1):.3f} (<{metrics.get('drift_distance_high', -1):.3f})"
    return (
        f"hour {one.number}: {one.bundle.manifest['num_fingerprints']} rows, {frame['event']}, trust "
        f"{frame['trustworthiness']:.3f}, moved {moved}, clusters {metrics['num_clusters']}, noise "
        f"{metrics['noise_share']:.2f}, kept {one.kept:.3f}, drift {drift}, "
        f"{ {name: count for name, count in events.items() if count} } born {one.born} {one.seconds:.1f}s "
        f"requests moved {metrics.get('requests_moved_max', 0):.3f}"
    )


def _shuffled(names: list[str], rng: np.random.Generator) -> Iterator[str]:
    while True:
        yield from (names[i] for i in rng.permutation(len(names)))


def _asked_again(rows: pa.Table, rng: np.random.Generator, *, name: str, noise: float) -> pa.Table:
    vectors = np.concatenate([vectors_from_rows(batch) for batch in rows.to_batches()]).astype(np.float64)
    vectors *= 1 + rng.uniform(-noise, noise, vectors.shape)
    entropies = np.r_[3, 12:20]
    vectors[:, entropies] = np.minimum(vectors[:, entropies], np.log(rows["context_len"].to_numpy())[:, None])
    for part in (MASSES, HISTOGRAM):
        vectors[:, part] /= vectors[:, part].sum(axis=1, keepdims=True)
    made = {
        "request_id": pa.array([name] * rows.num_rows),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), DIM),
    }
    return pa.Table.from_arrays(
        [
            made.get(field.name)
            if field.name in made
            else (
                rows[field.name].combine_chunks()
                if field.name in rows.column_names
                else pa.nulls(len(rows), field.type)
            )
            for field in FINGERPRINTS
        ],
        schema=FINGERPRINTS,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--hours", type=int, default=HOURS, help="hours to replay (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object a figure on standard output")
    parser.add_argument("--verbose", action="store_true", help="a line an hour on standard error")
    chosen = parser.parse_args()
    sys.exit(0 if run(rows=chosen.hours, as_json=chosen.json, verbose=chosen.verbose) else 1)
