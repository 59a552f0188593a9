"""`GET /metrics`: what the sidecar has counted, for Prometheus. Read when asked; nothing is counted twice for it."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from attn_sidecar import __version__
from attn_sidecar.api.endpoint import Endpoint
from attn_sidecar.discovery import Discovery
from attn_sidecar.health import HealthBoard
from attn_sidecar.http_times import HttpTimes
from attn_sidecar.ingest import Ingest
from attn_sidecar.live import LiveHub
from attn_sidecar.online.follower import OnlineFollower
from attn_sidecar.store.writer import Writer

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PARTS = ("clock", "discovery", "ingest", "integrity", "journal", "live", "online", "store")
"""The parts that say how they are, whether or not they ail now."""
MOST_REASONS = 32
"""Reasons of refusal, and matrices, shown by name, the most frequent first; the others are summed as ``other``."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Whom the figures are read from."""

    db: Path
    health: HealthBoard
    discovery: Discovery
    writer: Writer
    live: LiveHub
    http: HttpTimes
    ingest: Callable[[], Ingest | None]
    online: OnlineFollower | None


def endpoints(parts: Parts) -> list[Endpoint]:
    """The endpoint, with a registry of its own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(parts))
    ProcessCollector(registry=registry)

    async def get_metrics(_: Request) -> Response:
        # Files are looked at and some 20 kB of text made: not on the event loop.
        return Response(await asyncio.to_thread(generate_latest, registry), headers={"Content-Type": MEDIA_TYPE})

    return [
        Endpoint(
            method="GET",
            path="/metrics",
            handler=get_metrics,
            summary="Counters and gauges in Prometheus' text format",
            answer_media_type="text/plain",
        )
    ]


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


class _Figures(Collector):
    """Reads the parts' own counters at each scrape."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        yield from self._health()
        yield from self._ingest()
        yield from self._store()
        yield from self._http()
        yield from self._live()
        yield from self._discovery()
        yield from self._online()

    def _health(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("attn_sidecar_info", "The version that runs", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        well = GaugeMetricFamily("attn_health_well", "1 where this part is well, 0 where it ails", labels=["part"])
        unwell = self._parts.health.unwell_parts
        for part in PARTS:
            well.add_metric([part], 0 if part in unwell else 1)
        yield well
        alive = GaugeMetricFamily("attn_thread_alive", "1 while this thread runs", labels=["thread"])
        faults = CounterMetricFamily("attn_thread_faults", "Faults that this thread survived", labels=["thread"])
        for one in self._parts.health.watched:
            alive.add_metric([one.name], 1 if one.is_alive() else 0)
            faults.add_metric([one.name], one.num_errors)
        yield alive
        yield faults
        blocked = self._parts.health.blocked
        yield _gauge("attn_health_blocked", "1 while fingerprints cannot be stored", 1 if blocked else 0)

    def _ingest(self) -> Iterator[Metric]:
        ingest = self._parts.ingest()
        if ingest is None:
            return
        counters = ingest.counters
        yield _counter("attn_ingest_batches", "Batches decoded", counters.num_batches)
        yield _counter("attn_ingest_rows", "Rows of admitted batches", counters.num_rows)
        yield _counter("attn_ingest_acknowledged_batches", "Batches acknowledged", counters.num_acknowledged)
        yield _counter(
            "attn_ingest_repeated_batches", "Batches that had been committed already", counters.num_repeated_batches
        )
        refused = CounterMetricFamily("attn_ingest_refused_batches", "Batches refused", labels=["reason"])
        for reason, count in _most(counters.refused.copy()):
            refused.add_metric([reason], count)
        yield refused
        rows = CounterMetricFamily("attn_ingest_refused_rows", "Rows refused", labels=["reason"])
        for reason, count in counters.refused_rows.copy().items():
            rows.add_metric([reason], count)
        yield rows
        sources = list(counters.sources.copy().values())
        yield _gauge("attn_ingest_sources", "Senders heard of, the newest 1024", len(sources))
        yield _gauge(
            "attn_ingest_batches_dropped_by_sources",
            "Batches that these senders gave up",
            sum(one.dropped for one in sources),
        )
        yield _counter(
            "attn_ingest_redated_rows",
            "Rows stored with this machine's time, since their sender's clock could not be right",
            counters.num_redated_rows,
        )
        using = GaugeMetricFamily(
            "attn_ingest_head_projection_sources",
            "Senders heard of whose sketches this matrix makes, none for those without",
            labels=["projection"],
        )
        for projection, count in _most(Counter(one.head_projection or "none" for one in sources)):
            using.add_metric([projection], count)
        yield using
        yield _counter(
            "attn_ingest_head_projection_offers",
            "Matrices sent to senders that used another than the current one",
            counters.num_head_projection_offers,
        )

    def _store(self) -> Iterator[Metric]:
        counters, db = self._parts.writer.counters, self._parts.db
        yield _counter("attn_store_commits", "Transactions committed", counters.num_commits)
        yield _counter("attn_store_failed_commits", "Transactions that failed and are tried again",
                       counters.num_failed_commits)  # fmt: skip
        rows = CounterMetricFamily("attn_store_rows", "Rows written, or held already", labels=["outcome"])
        rows.add_metric(["new"], counters.num_new)
        rows.add_metric(["repeated"], counters.num_repeated)
        yield rows
        yield HistogramMetricFamily(
            "attn_store_commit_seconds",
            "How long transactions took",
            buckets=counters.commits.cumulative(),
            sum_value=counters.commits.sum_s,
        )
        yield _gauge("attn_store_rows_waiting", "Rows decoded and not yet committed", self._parts.writer.rows_waiting)
        size = GaugeMetricFamily("attn_store_size_bytes", "Size of the database's files", labels=["file"])
        for name, path in (("database", db), ("wal", db.with_name(f"{db.name}-wal"))):
            size.add_metric([name], _size(path))
        yield size
        if (free := _free(db.parent)) is not None:
            yield _gauge("attn_store_disk_free_bytes", "Room left beside the database", free)

    def _http(self) -> Iterator[Metric]:
        http = self._parts.http
        requests = CounterMetricFamily(
            "attn_http_requests", "HTTP requests answered", labels=["method", "route", "status"]
        )
        for (method, route, status), count in http.num_by_outcome.copy().items():
            requests.add_metric([method, route, str(status)], count)
        yield requests
        took = HistogramMetricFamily(
            "attn_http_request_duration_seconds",
            "From a request's head to the end of its answer",
            labels=["method", "route"],
        )
        for (method, route), durations in http.durations.copy().items():
            took.add_metric([method, route], buckets=durations.cumulative(), sum_value=durations.sum_s)
        yield took

    def _live(self) -> Iterator[Metric]:
        live = self._parts.live
        yield _gauge("attn_live_clients", "Clients of /events", live.num_clients)
        yield _counter("attn_live_dropped_clients", "Clients that were too slow", live.num_dropped_clients)

    def _discovery(self) -> Iterator[Metric]:
        served = self._parts.discovery.served
        run = GaugeMetricFamily("attn_discovery_run_info", "The run that is served", labels=["run_id"])
        if served.run_id is not None:
            run.add_metric([served.run_id], 1)
        yield run
        yield _gauge("attn_discovery_clusters", "Clusters of the run that is served", len(served.clusters))

    def _online(self) -> Iterator[Metric]:
        if self._parts.online is None:
            return
        figures = self._parts.online.figures()
        shown: tuple[tuple[str, str, float | None], ...] = (
            ("points", "Points followed since the run was loaded", figures.num_points),
            ("points_passed_over", "Points that came faster than they are followed", figures.num_passed_over),
            ("novelty_ratio", "Share of points that no cluster claims", figures.novelty),
            ("novelty_expected_ratio", "The same share among the run's own held-out rows", figures.novelty_expected),
            ("novelty_excess_ratio", "Novelty beyond the expected one", figures.novelty_excess),
            ("drift_radii", "How far the clusters' points have moved, in cluster radii", figures.drift),
            ("followed_shift_radii", "How far the followed centres of the clusters have moved", figures.followed_shift),
            ("early_run_requested", "1 while an early run is asked for", float(figures.early_run_reason is not None)),
        )
        for name, text, value in shown:
            if value is not None:
                yield _gauge(f"attn_online_{name}", text, value)


def _most(counted: Counter[str]) -> list[tuple[str, int]]:
    ranked = counted.most_common()
    rest = ranked[MOST_REASONS:]
    return ranked[:MOST_REASONS] + ([("other", sum(count for _, count in rest))] if rest else [])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
