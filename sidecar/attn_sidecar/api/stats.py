"""`GET /stats`: what the store holds and what the sidecar has done since it started."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_core.zones import ZONES
from attn_sidecar.api.endpoint import Endpoint, json_response
from attn_sidecar.discovery import Discovery
from attn_sidecar.ingest import Ingest
from attn_sidecar.live import LiveHub
from attn_sidecar.online.figures import OnlineFigures
from attn_sidecar.online.follower import OnlineFollower
from attn_sidecar.store.reader import ReadPool
from attn_sidecar.store.tally import Tally
from attn_sidecar.store.writer import Writer

_CLOCKS_SHOWN = 64
"""Sources whose clocks are shown, the newest."""


class ClockStats(msgspec.Struct, frozen=True, kw_only=True):
    """A source's clock against this machine's, as of its latest batch: negative where it is behind or came late; and
    the matrix that made its sketches, null where it sends none."""

    source: str
    model_id: str
    ahead_s: float
    redated_rows: int
    """Rows stored with this machine's time, since theirs could not be right."""
    head_projection: str | None
    head_projection_offers: int
    """How often it was sent the current matrix because it used another."""


class IngestStats(msgspec.Struct, frozen=True, kw_only=True):
    """Since start. `refused` counts batches of which nothing was stored, `refused_rows` rows, both by reason;
    `dropped_by_senders` are batches that senders gave up."""

    address: str | None
    batches: int = 0
    rows: int = 0
    acknowledged: int = 0
    repeated_batches: int = 0
    sources: int = 0
    dropped_by_senders: int = 0
    refused: dict[str, int] = {}
    refused_rows: dict[str, int] = {}
    head_projection_offers: int = 0
    clocks: list[ClockStats] = []


class StoreStats(msgspec.Struct, frozen=True, kw_only=True):
    """Since start, from the writing thread; `removed_*` by retention."""

    commits: int
    failed_commits: int
    new_rows: int
    repeated_rows: int
    rows_waiting: int
    last_commit_s: float
    removed_fingerprints: int
    removed_requests: int


class LiveStats(msgspec.Struct, frozen=True, kw_only=True):
    """Clients of `/events`."""

    clients: int
    dropped_clients: int
    cursor: int


class StatsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`online` is null without `--online`."""

    fingerprints: int
    requests: int
    zones: dict[str, int]
    clusters: int
    run_id: str | None
    ingest: IngestStats
    store: StoreStats
    live: LiveStats
    online: OnlineFigures | None


def endpoints(
    *,
    readers: ReadPool,
    discovery: Discovery,
    writer: Writer,
    live: LiveHub,
    ingest: Callable[[], Ingest | None],
    online: OnlineFollower | None,
) -> list[Endpoint]:
    """The endpoint, asking these parts."""
    tally = Tally()

    async def get_stats(_: Request) -> Response:
        counts = await readers.ask(tally.counts)
        served = discovery.served
        answer = StatsAnswer(
            fingerprints=counts.num_fingerprints,
            requests=counts.num_requests,
            zones={zone: counts.zones[zone] for zone in (*ZONES, *(counts.zones.keys() - set(ZONES)))},
            clusters=len(served.clusters),
            run_id=served.run_id,
            ingest=_ingest_stats(ingest()),
            store=_store_stats(writer),
            live=LiveStats(clients=live.num_clients, dropped_clients=live.num_dropped_clients, cursor=live.cursor),
            online=online.figures() if online else None,
        )
        return json_response(answer)

    return [
        Endpoint(
            method="GET",
            path="/stats",
            handler=get_stats,
            summary="Counts of the store, ingest and live clients",
            answer=StatsAnswer,
            problems=(503,),
        )
    ]


def _ingest_stats(ingest: Ingest | None) -> IngestStats:
    if ingest is None:
        return IngestStats(address=None)
    counters = ingest.counters
    return IngestStats(
        address=ingest.address,
        batches=counters.num_batches,
        rows=counters.num_rows,
        acknowledged=counters.num_acknowledged,
        repeated_batches=counters.num_repeated_batches,
        sources=len(counters.sources),
        dropped_by_senders=sum(one.dropped for one in counters.sources.copy().values()),
        refused=dict(counters.refused.copy()),
        refused_rows=dict(counters.refused_rows.copy()),
        head_projection_offers=counters.num_head_projection_offers,
        clocks=[
            ClockStats(
                source=source_id.hex(),
                model_id=one.model_id,
                ahead_s=round(one.clock_ahead_us / 1e6, 3),
                redated_rows=one.redated_rows,
                head_projection=one.head_projection,
                head_projection_offers=one.head_projection_offers,
            )
            for source_id, one in list(counters.sources.copy().items())[-_CLOCKS_SHOWN:]
        ],
    )


def _store_stats(writer: Writer) -> StoreStats:
    counters = writer.counters
    return StoreStats(
        commits=counters.num_commits,
        failed_commits=counters.num_failed_commits,
        new_rows=counters.num_new,
        repeated_rows=counters.num_repeated,
        rows_waiting=writer.rows_waiting,
        last_commit_s=round(counters.last_commit_s, 6),
        removed_fingerprints=writer.removed.num_fingerprints,
        removed_requests=writer.removed.num_requests,
    )
