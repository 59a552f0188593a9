"""`GET /requests` and `GET /requests/{id}`: what was asked of the model and every token of one answer."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_sidecar.api.endpoint import Endpoint, Parameter, int_from_query, json_response
from attn_sidecar.api.problems import Problem
from attn_sidecar.store.reader import ReadPool
from attn_sidecar.store.records import RequestDetail, RequestSummary

DEFAULT_LIMIT, MAX_LIMIT = 50, 1000


class RequestsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    requests: list[RequestSummary]


def endpoints(readers: ReadPool) -> list[Endpoint]:
    """The endpoints over this store."""

    async def list_requests(request: Request) -> Response:
        limit = int_from_query(request, "limit", default=DEFAULT_LIMIT, least=1, most=MAX_LIMIT)
        return json_response(RequestsAnswer(requests=await readers.ask(lambda reader: reader.requests(limit=limit))))

    async def get_request(request: Request) -> Response:
        request_id: str = request.path_params["request_id"]
        detail = await readers.ask(lambda reader: reader.request(request_id))
        if detail is None:
            raise Problem(
                404,
                "request-unknown",
                title="No such request",
                detail=f"nothing is stored under request_id {request_id[:200]!r}",
                mend="GET /requests lists the newest; an answer's id is the one that the OpenAI client sees",
            )
        return json_response(detail)

    return [
        Endpoint(
            method="GET",
            path="/requests",
            handler=list_requests,
            summary="The newest requests",
            answer=RequestsAnswer,
            parameters=(
                Parameter(name="limit", place="query", kind="integer", description=f"1 to {MAX_LIMIT}, default 50"),
            ),
            problems=(422, 503),
        ),
        Endpoint(
            method="GET",
            path="/requests/{request_id:path}",
            handler=get_request,
            summary="One request, its prompt and its tokens",
            answer=RequestDetail,
            parameters=(Parameter(name="request_id", place="path", kind="string", description="The answer's id"),),
            problems=(404, 503),
        ),
    ]
