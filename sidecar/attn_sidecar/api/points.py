"""`GET /points`, `/points/density` and `/points/{point}`: a run's map, as much of it as a view needs."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from attn_sidecar.api.asked import ARROW_STREAM, HOUR, RUN, hour_range, query_invalid, run_asked
from attn_sidecar.api.delivery import not_modified, run_headers
from attn_sidecar.api.endpoint import Endpoint, Parameter, json_response, values_of
from attn_sidecar.api.problems import Problem
from attn_sidecar.discovery import Discovery, Served
from attn_sidecar.map.density import density_of
from attn_sidecar.map.points import COLUMNS, DEFAULT_COLUMNS, PointMap, View, stream_of

MAX_CELLS = 1024
_EDGES = tuple(
    Parameter(name=name, kind="number", description=f"the box's {side} edge in map units ({bound})")
    for name, side, bound in (
        ("x0", "left", "inclusive"), ("x1", "right", "exclusive"), ("y0", "lower", "inclusive"),
        ("y1", "upper", "exclusive"),
    )
)  # fmt: skip
_VIEW = (RUN, HOUR, *_EDGES)
_MAX_POINTS = Parameter(
    name="max_points",
    kind="integer",
    least=1,
    most=100_000_000,
    description="at most so many points: the first by rank, so that more points contain fewer (default: all)",
)
_COLUMNS = Parameter(
    name="columns",
    kind="string",
    pattern=r"[a-z0-9_]+(,[a-z0-9_]+)*",
    default=",".join(DEFAULT_COLUMNS),
    description=f"names with commas between them, of {', '.join(COLUMNS)}",
)
_CELLS = Parameter(name="cells", kind="integer", least=1, most=MAX_CELLS, default=256, description="grid cells a side")
_POINT = Parameter(
    name="point", place="path", kind="integer", least=0, most=2**32 - 1, description="a `point` of /points", example=0
)


class PointAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One point with all that its run says of it."""

    run_id: str
    point: int
    x: float
    y: float
    zone: str
    cluster_id: int
    confidence: float
    context_len: int | None
    captured_at_us: int
    request_id: str
    step: int
    token_text: str | None
    model_id: str | None


def endpoints(discovery: Discovery) -> list[Endpoint]:
    """The endpoints over the runs of this folder."""

    async def get_points(request: Request) -> Response:
        asked = values_of((*_VIEW, _MAX_POINTS, _COLUMNS), request)
        names, view = _names(asked["columns"]), _view(asked)
        served = await run_asked(discovery, asked["run"])
        headers = run_headers(request, run_id=served.run_id)
        if (same := not_modified(request, headers)) is not None:
            return same
        points = _map_of(served)
        selection = await asyncio.to_thread(points.select, view, max_points=asked["max_points"])
        pieces = stream_of(points.batches(selection, names=names))
        return StreamingResponse(pieces, media_type=ARROW_STREAM, headers=headers)

    async def get_density(request: Request) -> Response:
        asked = values_of((*_VIEW, _CELLS), request)
        view = _view(asked)
        served = await run_asked(discovery, asked["run"])
        headers = run_headers(request, run_id=served.run_id)
        if (same := not_modified(request, headers)) is not None:
            return same
        batch, _ = await asyncio.to_thread(density_of, _map_of(served), view, cells=asked["cells"])
        return Response(_one_batch(batch), media_type=ARROW_STREAM, headers=headers)

    async def get_point(request: Request) -> Response:
        asked = values_of((_POINT, RUN), request)
        served = await run_asked(discovery, asked["run"])
        headers = run_headers(request, run_id=served.run_id)
        if (same := not_modified(request, headers)) is not None:
            return same
        points = _map_of(served)
        place = await asyncio.to_thread(points.place_of_point, asked["point"])
        if place is None:
            raise Problem(
                404,
                "point-unknown",
                title="No such point",
                detail=f"run {served.run_id} has {points.num_points} points; none is number {asked['point']}",
                mend="a point's number is its `point` in GET /points of the same run",
            )
        row: dict[str, Any] = points.columns.slice(place, 1).to_pylist()[0]
        return json_response(PointAnswer(run_id=points.run_id, **row), headers=headers)

    problems = (404, 409)
    return [
        Endpoint(
            method="GET",
            path="/points",
            handler=get_points,
            summary="A run's points as an Arrow IPC stream, in order of rank",
            answer_media_type=ARROW_STREAM,
            statuses=(200, 304),
            parameters=(*_VIEW, _MAX_POINTS, _COLUMNS),
            problems=problems,
        ),
        Endpoint(
            method="GET",
            path="/points/density",
            handler=get_density,
            summary="How many points of each zone lie in each cell of a grid, as an Arrow IPC stream",
            answer_media_type=ARROW_STREAM,
            statuses=(200, 304),
            parameters=(*_VIEW, _CELLS),
            problems=problems,
        ),
        Endpoint(
            method="GET",
            path="/points/{point}",
            handler=get_point,
            summary="One point of a run",
            answer=PointAnswer,
            statuses=(200, 304),
            parameters=(_POINT, RUN),
            problems=problems,
        ),
    ]


def _map_of(served: Served) -> PointMap:
    if served.points is None:
        raise RuntimeError("a run with a bundle has its map")
    return served.points


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or len(set(names)) != len(names):
        raise query_invalid(f"columns={text[:100]}", f"each name once, of {', '.join(COLUMNS)}")
    return names


def _view(asked: dict[str, Any]) -> View:
    for low, high in (("x0", "x1"), ("y0", "y1")):
        if asked[low] is not None and asked[high] is not None and asked[low] >= asked[high]:
            raise query_invalid(f"{low}={asked[low]} and {high}={asked[high]}", f"{low} lies below {high}")
    start_us, end_us = (None, None) if asked["hour"] is None else hour_range(asked["hour"])
    return View(x0=asked["x0"], x1=asked["x1"], y0=asked["y0"], y1=asked["y1"], start_us=start_us, end_us=end_us)


def _one_batch(batch: pa.RecordBatch) -> bytes:
    return b"".join(stream_of(iter([batch])))
