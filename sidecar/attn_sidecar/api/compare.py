"""`GET /compare`: two runs, models or hours held against each other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response

from attn_core.classify import cluster_label
from attn_core.zones import ZONES
from attn_sidecar.api.asked import HOUR, MODEL, RUN, hour_range, query_invalid, run_asked
from attn_sidecar.api.endpoint import Endpoint, json_response, values_of
from attn_sidecar.comparison import (
    FeatureDifference,
    Labelled,
    ShareDifference,
    feature_differences,
    labels_in,
    share_difference,
    share_of,
)
from attn_sidecar.discovery import Discovery, Served
from attn_sidecar.map.points import PointMap
from attn_sidecar.store.history import TokenSample, token_sample
from attn_sidecar.store.reader import ReadPool

MOST_TOKENS = 100_000
"""Stored tokens read a side."""
_PARAMETERS = tuple(
    replace(one, name=f"{side}_{one.name}", description=f"side {side}: {one.description}")
    for side in "ab"
    for one in (RUN, MODEL, HOUR)
)


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one side was and how much of it was looked at."""

    run: str | None
    model: str | None
    hour: str | None
    num_fingerprints: int
    """Tokens whose zones and clusters are compared."""
    num_requests: int
    num_vectors: int
    """Tokens whose 20 numbers are compared: those that the store still holds."""
    sampled_every: int
    """1 where all stored tokens were read, k where every k-th was."""


class ZoneComparison(ShareDifference, frozen=True, kw_only=True):
    """One zone on both sides."""

    zone: str


class ClusterComparison(ShareDifference, frozen=True, kw_only=True):
    """One cluster on both sides, matched by its id, which lasts from run to run."""

    cluster_id: int
    cluster_label: str


class CompareAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Differences are b minus a; intervals are of 95% and take a request, not a token, as the unit."""

    a: Side
    b: Side
    zones: list[ZoneComparison]
    """By size of the difference."""
    clusters: list[ClusterComparison]
    """By size of the difference; -1 is what no cluster claims."""
    features: list[FeatureDifference]
    """The 20 numbers, the largest effect first; empty where a side has fewer than two stored vectors."""


@dataclass(frozen=True, kw_only=True)
class _Held:
    side: Side
    zones: Labelled
    clusters: Labelled
    vectors: npt.NDArray[np.float32]
    vector_requests: npt.NDArray[np.int64]


def endpoints(discovery: Discovery, *, readers: ReadPool) -> list[Endpoint]:
    """The endpoint over these runs and this store."""

    async def compare(request: Request) -> Response:
        asked = values_of(_PARAMETERS, request)
        a, b = [await _held(discovery, readers, asked, side) for side in "ab"]
        return json_response(await asyncio.to_thread(_compared, a, b))

    return [
        Endpoint(
            method="GET",
            path="/compare",
            handler=compare,
            summary="Two runs, models or hours: zone and cluster shares with intervals, the 20 numbers by effect",
            answer=CompareAnswer,
            parameters=_PARAMETERS,
            problems=(404, 409, 503),
        )
    ]


async def _held(discovery: Discovery, readers: ReadPool, asked: dict[str, Any], side: str) -> _Held:
    """One side's tokens: of a run, what the run says of them; else as they were classified on arrival."""
    run_id, model, hour = (asked[f"{side}_{name}"] for name in ("run", "model", "hour"))
    if run_id is None and model is None and hour is None:
        names = ", ".join(f"{side}_{name}" for name in ("run", "model", "hour"))
        raise query_invalid(f"side {side} names nothing", f"give one or more of {names}")
    from_us, to_us = (None, None) if hour is None else hour_range(hour, name=f"{side}_hour")
    served = None if run_id is None else await run_asked(discovery, run_id)
    start_us, end_us = _narrowed(served, from_us, to_us)
    sample = await readers.ask(
        lambda reader: token_sample(reader, from_us=start_us, to_us=end_us, model_id=model, most=MOST_TOKENS)
    )
    if served is None or served.points is None:
        zones = Labelled(requests=sample.request_no, labels=sample.zone_codes.astype(np.int64))
        clusters = Labelled(requests=sample.request_no, labels=sample.cluster_ids.astype(np.int64))
    else:
        zones, clusters = await asyncio.to_thread(_labelled, served.points, model, from_us, to_us)
    return _Held(
        side=_side((run_id, model, hour), zones, sample),
        zones=zones,
        clusters=clusters,
        vectors=sample.vectors,
        vector_requests=sample.request_no,
    )


def _narrowed(served: Served | None, from_us: int | None, to_us: int | None) -> tuple[int | None, int | None]:
    """The range of capture in which a run's tokens lie: its window, and the hour within it."""
    if served is None or served.points is None or not served.points.num_points:
        return from_us, to_us
    at_us = served.points.columns.column("captured_at_us").to_numpy()
    first, end = int(at_us.min()), int(at_us.max()) + 1
    return (first if from_us is None else max(first, from_us)), (end if to_us is None else min(end, to_us))


def _labelled(points: PointMap, model: str | None, from_us: int | None, to_us: int | None) -> tuple[Labelled, Labelled]:
    keep = np.ones(points.num_points, dtype=np.bool_)
    if points.num_points:
        at_us = points.columns.column("captured_at_us").to_numpy()
        keep &= (at_us >= (from_us or 0)) & (at_us < (2**62 if to_us is None else to_us))
        if model is not None:
            models = points.columns.column("model_id").chunk(0)
            names = models.dictionary.to_pylist()
            code = names.index(model) if model in names else -1
            keep &= models.indices.fill_null(-2).to_numpy() == code
    requests = points.request_codes[keep].astype(np.int64)
    return (
        Labelled(requests=requests, labels=points.zone_codes[keep].astype(np.int64)),
        Labelled(requests=requests, labels=points.cluster_ids[keep].astype(np.int64)),
    )


def _side(named: tuple[str | None, str | None, str | None], zones: Labelled, sample: TokenSample) -> Side:
    return Side(
        run=named[0],
        model=named[1],
        hour=named[2],
        num_fingerprints=len(zones.labels),
        num_requests=len(np.unique(zones.requests)),
        num_vectors=len(sample.vectors),
        sampled_every=sample.every,
    )


def _compared(a: _Held, b: _Held) -> CompareAnswer:
    def differences(one: Labelled, other: Labelled) -> list[tuple[int, ShareDifference]]:
        found = [
            (label, share_difference(share_of(one, label)[0], share_of(other, label)[0]))
            for label in labels_in((one, other))
        ]
        return sorted(found, key=lambda pair: -abs(pair[1].difference))

    features = []
    if min(len(a.vectors), len(b.vectors)) > 1:
        features = feature_differences(a.vectors, b.vectors, requests_a=a.vector_requests, requests_b=b.vector_requests)
    return CompareAnswer(
        a=a.side,
        b=b.side,
        zones=[
            ZoneComparison(zone=ZONES[code] if code >= 0 else "unclassified", **_fields(found))
            for code, found in differences(a.zones, b.zones)
        ],
        clusters=[
            ClusterComparison(cluster_id=number, cluster_label=cluster_label(number), **_fields(found))
            for number, found in differences(a.clusters, b.clusters)
        ],
        features=features,
    )


def _fields(found: ShareDifference) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ShareDifference.__struct_fields__}
