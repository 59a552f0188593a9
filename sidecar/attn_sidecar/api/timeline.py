"""`GET /zones/timeline`: hour by hour, how many tokens of each zone and cluster each model made."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_core.store import HOUR_US
from attn_sidecar.api.asked import FROM_US, TO_US, hour_utc, query_invalid
from attn_sidecar.api.endpoint import Endpoint, json_response, values_of
from attn_sidecar.store.history import HourCount, captured_range, hour_counts
from attn_sidecar.store.reader import Reader, ReadPool

DEFAULT_HOURS, MAX_HOURS = 24, 744
UNCLASSIFIED = "unclassified"


class ZoneHour(msgspec.Struct, frozen=True, kw_only=True):
    """One zone in one hour of one model."""

    zone: str
    num_fingerprints: int
    share: float
    mean_confidence: float


class ClusterHour(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster (-1: unclustered) in one hour of one model, as classified on arrival."""

    cluster_id: int
    num_fingerprints: int
    share: float


class ModelHour(msgspec.Struct, frozen=True, kw_only=True):
    """One hour of one model; shares are of its tokens."""

    hour_utc: str
    hour_start_us: int
    model_id: str | None
    num_fingerprints: int
    mean_confidence: float
    zones: list[ZoneHour]
    clusters: list[ClusterHour]


class TimelineAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Hours that hold tokens, by hour and model, of those captured in [from_us, to_us)."""

    from_us: int
    to_us: int
    hours: list[ModelHour]


def endpoints(readers: ReadPool) -> list[Endpoint]:
    """The endpoint over this store."""

    async def get_timeline(request: Request) -> Response:
        asked = values_of((FROM_US, TO_US), request)
        return json_response(await readers.ask(lambda reader: _timeline(reader, asked["from_us"], asked["to_us"])))

    return [
        Endpoint(
            method="GET",
            path="/zones/timeline",
            handler=get_timeline,
            summary=f"Zones and clusters per hour and model: the newest {DEFAULT_HOURS} hours, or a range",
            answer=TimelineAnswer,
            parameters=(FROM_US, TO_US),
            problems=(503,),
        )
    ]


def _timeline(reader: Reader, from_us: int | None, to_us: int | None) -> TimelineAnswer:
    if to_us is None:
        held = captured_range(reader)
        newest = held[1] + 1 if held is not None else 0
        to_us = newest if from_us is None else max(newest, from_us + 1)
        to_us = to_us if from_us is None else min(to_us, from_us + MAX_HOURS * HOUR_US)
    if from_us is None:
        from_us = max(0, -(-to_us // HOUR_US) * HOUR_US - DEFAULT_HOURS * HOUR_US)
    if not from_us <= to_us <= from_us + MAX_HOURS * HOUR_US:
        raise query_invalid(
            f"from_us={from_us} and to_us={to_us}",
            f"from_us is not after to_us, and the range is at most {MAX_HOURS} hours ({MAX_HOURS * HOUR_US} us)",
        )
    groups: dict[tuple[int, str | None], list[HourCount]] = {}
    for count in hour_counts(reader, from_us=from_us, to_us=to_us):
        groups.setdefault((count.hour_us, count.model_id), []).append(count)
    return TimelineAnswer(from_us=from_us, to_us=to_us, hours=[_hour(*key, held) for key, held in groups.items()])


def _hour(start_us: int, model_id: str | None, counts: Sequence[HourCount]) -> ModelHour:
    total = sum(one.num_fingerprints for one in counts)
    zones: dict[str, list[HourCount]] = {}
    clusters: dict[int, int] = {}
    for one in counts:
        zones.setdefault(one.zone or UNCLASSIFIED, []).append(one)
        cluster_id = -1 if one.cluster_id is None else one.cluster_id
        clusters[cluster_id] = clusters.get(cluster_id, 0) + one.num_fingerprints
    return ModelHour(
        hour_utc=hour_utc(start_us),
        hour_start_us=start_us,
        model_id=model_id,
        num_fingerprints=total,
        mean_confidence=round(sum(one.sum_confidence for one in counts) / total, 6),
        zones=[_zone(zone, held, total) for zone, held in sorted(zones.items())],
        clusters=[
            ClusterHour(cluster_id=cluster_id, num_fingerprints=num, share=round(num / total, 6))
            for cluster_id, num in sorted(clusters.items())
        ],
    )


def _zone(zone: str, counts: Sequence[HourCount], total: int) -> ZoneHour:
    num = sum(one.num_fingerprints for one in counts)
    confidence = sum(one.sum_confidence for one in counts) / num
    return ZoneHour(zone=zone, num_fingerprints=num, share=round(num / total, 6), mean_confidence=round(confidence, 6))
