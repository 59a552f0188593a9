"""`GET /points` (Arrow) and `GET /clusters` (JSON): the map that the served run drew."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_sidecar.api.discovery import not_available
from attn_sidecar.api.endpoint import Endpoint, json_response
from attn_sidecar.discovery import Discovery, Served

ARROW_STREAM = "application/vnd.apache.arrow.stream"


class ClustersAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Each cluster as the bundle's ``clusters.parquet`` has it."""

    run_id: str | None
    clusters: list[dict[str, Any]]


def endpoints(discovery: Discovery) -> list[Endpoint]:
    """The endpoints over the served run."""

    def served_or_404() -> Served:
        served = discovery.served
        if served.bundle is None:
            raise not_available(discovery)
        return served

    async def get_points(request: Request) -> Response:
        served = served_or_404()
        # A run never changes, so its id is all that a cache needs to know.
        headers = {"ETag": f'"{served.run_id}"', "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(served.points, media_type=ARROW_STREAM, headers=headers)

    async def get_clusters(_: Request) -> Response:
        served = served_or_404()
        return json_response(ClustersAnswer(run_id=served.run_id, clusters=served.clusters))

    return [
        Endpoint(
            method="GET",
            path="/points",
            handler=get_points,
            summary="The map's points as an Arrow IPC stream",
            answer_media_type=ARROW_STREAM,
            statuses=(200, 304),
            problems=(404,),
        ),
        Endpoint(
            method="GET",
            path="/clusters",
            handler=get_clusters,
            summary="The clusters of the served run",
            answer=ClustersAnswer,
            problems=(404,),
        ),
    ]
