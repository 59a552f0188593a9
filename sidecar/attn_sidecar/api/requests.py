"""`GET /requests` and `GET /requests/{id}`: what was asked, every token of an answer, and its grounding."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_core.zones import ZONES
from attn_sidecar.api.asked import FROM_US, MODEL, TO_US, query_invalid
from attn_sidecar.api.endpoint import Endpoint, Parameter, json_response, values_of
from attn_sidecar.api.problems import Problem
from attn_sidecar.grounding import Grounding, grounding
from attn_sidecar.store.reader import ReadPool
from attn_sidecar.store.records import RequestDetail, RequestFilter, RequestSummary

DEFAULT_LIMIT, MAX_LIMIT = 50, 1000
MAX_TOKENS = 8192
MAX_FIGURES = 131_072
"""Of the grounding's tokens times parts in one answer: a long chat has many messages, and gets fewer tokens a page."""
_LIMIT = Parameter(
    name="limit", kind="integer", least=1, most=MAX_LIMIT, default=DEFAULT_LIMIT, description="requests an answer"
)
_CURSOR = Parameter(name="cursor", kind="string", description="`next_cursor` of the answer before this one")
_ZONE = Parameter(name="zone", kind="string", choices=ZONES, description="with at least one token of this zone")
_REQUEST_ZONE = Parameter(
    name="request_zone", kind="string", choices=ZONES, description="that ended, and whose whole answer has this zone"
)
_RESPONSE_ID = Parameter(
    name="response_id", kind="string", description="the id that an OpenAI answer carries: all requests that used it"
)
_FILTERS = (_LIMIT, _CURSOR, MODEL, FROM_US, TO_US, _ZONE, _REQUEST_ZONE, _RESPONSE_ID)
_ID = Parameter(name="request_id", place="path", kind="string", description="the answer's id", example="chatcmpl-1")
_FROM_STEP = Parameter(
    name="from_step", kind="integer", least=0, most=2**31 - 1, default=0, description="first step to give"
)
_MAX_TOKENS = Parameter(
    name="max_tokens",
    kind="integer",
    least=1,
    most=MAX_TOKENS,
    default=MAX_TOKENS,
    description="tokens an answer at most; of a request of many messages come fewer (`next_step` says where to go on)",
)
_PROMPT = Parameter(
    name="prompt", kind="string", choices=("yes", "no"), default="yes",
    description="no: without the prompt's ids and texts, which every page would repeat",
)  # fmt: skip
_PARTS_BESIDE_MESSAGES = 3
"""Sink, template and answer."""


class RequestsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first by `started_at_us`; requests whose start was not reported come last."""

    requests: list[RequestSummary]
    next_cursor: str | None
    """Ask with ``cursor=`` this for the next; null where these are the last."""


class RequestAnswer(RequestDetail, frozen=True, kw_only=True):
    """The request, and what its tokens leaned on: null where the prompt's length is not known."""

    grounding: Grounding | None


def cursor_from(summary: RequestSummary) -> str:
    """A cursor that stands after this request."""
    text = json.dumps([summary.started_at_us, summary.request_id], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def place_from_cursor(cursor: str) -> tuple[int | None, str]:
    """The inverse; raises `Problem` 422."""
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        started_at_us, request_id = place
        fits = isinstance(request_id, str) and (started_at_us is None or abs(int(started_at_us)) < 2**62)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        fits = False
    if not fits or isinstance(started_at_us, (bool, float, str)):
        raise query_invalid(f"cursor={cursor[:40]}", "cursor is a `next_cursor` as it was given; leave it out to begin")
    return started_at_us, request_id


def endpoints(readers: ReadPool) -> list[Endpoint]:
    """The endpoints over this store."""

    async def list_requests(request: Request) -> Response:
        asked = values_of(_FILTERS, request)
        limit: int = asked["limit"]
        wanted = RequestFilter(
            after=None if asked["cursor"] is None else place_from_cursor(asked["cursor"]),
            model_id=asked["model"],
            from_us=asked["from_us"],
            to_us=asked["to_us"],
            zone=asked["zone"],
            request_zone=asked["request_zone"],
            response_id=asked["response_id"],
        )
        # One more than asked for tells whether there is more.
        found = await readers.ask(lambda reader: reader.requests(wanted, limit=limit + 1))
        shown = found[:limit]
        more = cursor_from(shown[-1]) if len(found) > limit else None
        return json_response(RequestsAnswer(requests=shown, next_cursor=more))

    async def get_request(request: Request) -> Response:
        asked = values_of((_ID, _FROM_STEP, _MAX_TOKENS, _PROMPT), request)
        answer = await readers.ask(lambda reader: _answer(reader, asked))
        if answer is None:
            raise Problem(
                404,
                "request-unknown",
                title="No such request",
                detail=f"nothing is stored under request_id {asked['request_id'][:200]!r}",
                mend="GET /requests lists the newest; an answer's id is the one that the OpenAI client sees",
            )
        return json_response(answer)

    return [
        Endpoint(
            method="GET",
            path="/requests",
            handler=list_requests,
            summary="Requests, newest first, by pages",
            answer=RequestsAnswer,
            parameters=_FILTERS,
            problems=(503,),
        ),
        Endpoint(
            method="GET",
            path="/requests/{request_id:path}",
            handler=get_request,
            summary="One request: its prompt, its tokens and what they leaned on",
            answer=RequestAnswer,
            parameters=(_ID, _FROM_STEP, _MAX_TOKENS, _PROMPT),
            problems=(404, 503),
        ),
    ]


def _answer(reader: Any, asked: dict[str, Any]) -> RequestAnswer | None:
    """On a reading thread, for the bounds of thousands of tokens take a while."""
    num_parts = reader.num_spans(asked["request_id"]) + _PARTS_BESIDE_MESSAGES
    detail: RequestDetail | None = reader.request(
        asked["request_id"],
        from_step=asked["from_step"],
        max_tokens=max(1, min(asked["max_tokens"], MAX_FIGURES // num_parts)),
    )
    if detail is None:
        return None
    if asked["prompt"] == "no":
        detail = msgspec.structs.replace(detail, prompt_token_ids=None, prompt_token_texts=None)
    found = None
    if detail.prompt_len is not None:
        found = grounding(detail.tokens, prompt_len=detail.prompt_len, spans=detail.prompt_spans or [])
    return RequestAnswer(**{name: getattr(detail, name) for name in detail.__struct_fields__}, grounding=found)
