"""Errors over HTTP: RFC 9457 ``application/problem+json``, with a stable `type` and how to mend it.

Problem
├── raised by handlers for what a caller sent
├── made of Starlette's 404 and 405
├── made of InvalidFingerprint: 422, naming the invariant
├── made of StoreError: 503, the store cannot answer now
├── made of QueryTooLong: 503, the question would have to read too much
└── made of anything else: 500, without a word of what was inside
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from attn_core.errors import InvalidFingerprint, QueryTooLong, StoreError
from attn_core.fingerprint import DIM, SUM_TOLERANCE
from attn_sidecar.logs import log_event, logger_named

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:attention-explorer:problem:"
_LOG = logger_named("http")


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every error."""

    type: str
    title: str
    status: int
    detail: str
    mend: str
    what_to_do: list[str] | None = None


class Problem(Exception):
    """An error that a caller can understand; `kind` is the last part of its `type`."""

    def __init__(
        self,
        status: int,
        kind: str,
        *,
        title: str,
        detail: str,
        mend: str,
        what_to_do: list[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.headers = headers
        self.body = ProblemBody(
            type=TYPE_PREFIX + kind, title=title, status=status, detail=detail, mend=mend, what_to_do=what_to_do
        )

    def response(self) -> Response:
        """This problem as an answer."""
        return Response(
            msgspec.json.encode(self.body),
            status_code=self.body.status,
            headers=dict(self.headers or {}),
            media_type=MEDIA_TYPE,
        )


def unknown_route(path: str) -> Problem:
    """404: nothing is served at this path."""
    return Problem(
        404,
        "not-found",
        title="Nothing is here",
        detail=f"no endpoint or page at {path[:200]}",
        mend="GET /openapi.json lists every endpoint",
    )


def vector_problem(reason: str) -> Problem:
    """422: the vector breaks this invariant."""
    return Problem(
        422,
        "vector-invalid",
        title="The vector is no fingerprint",
        detail=reason,
        mend=f"{DIM} finite numbers: masses (0-2) and histogram (4-11) each sum to 1 within {SUM_TOLERANCE}, entropies "
        "(3, 12-19) in nats, at least 0 and at most ln(context_len), or ln(2^24) where context_len is not known",
    )


async def on_invalid_fingerprint(_: Request, error: Exception) -> Response:
    """A vector that broke an invariant."""
    return vector_problem(str(error)).response()


async def on_problem(_: Request, error: Exception) -> Response:
    """A `Problem` raised by a handler."""
    assert isinstance(error, Problem)
    return error.response()


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own errors: 405, and whatever else its parts raise."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return unknown_route(request.url.path).response()
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return Problem(
            405,
            "method-not-allowed",
            title="Method not allowed",
            detail=f"{request.url.path} does not answer {request.method}",
            mend=f"use {allowed}",
            headers=error.headers,
        ).response()
    return Problem(
        error.status_code,
        "request",
        title="The request cannot be answered",
        detail=str(error.detail),
        mend="GET /openapi.json says what each endpoint takes",
        headers=error.headers,
    ).response()


async def on_store_error(_: Request, error: Exception) -> Response:
    """The database cannot be read or written now."""
    return Problem(
        503,
        "store-unavailable",
        title="The store is not available",
        detail=str(error),
        mend="see GET /health for the reason; send it again once that is mended",
        headers={"Retry-After": "2"},
    ).response()


async def on_query_too_long(_: Request, error: Exception) -> Response:
    """A question over more rows than can be read in time."""
    return Problem(
        503,
        "query-too-long",
        title="The answer takes too long",
        detail=str(error),
        mend="ask for less: a shorter range, one hour, one model, no zone",
    ).response()


async def on_unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours: logged with its traceback, told without it."""
    log_event(_LOG, logging.ERROR, "http.fault", path=request.url.path, error=type(error).__name__)
    return Problem(
        500,
        "internal",
        title="The sidecar has a fault",
        detail="an error that was not foreseen; the sidecar's log has it",
        mend="please report it with the log's traceback",
    ).response()


async def on_disconnect(_: Request, __: Exception) -> Response:
    """The caller went away while sending: nobody reads this answer."""
    return Response(status_code=499)


HANDLERS = {
    Problem: on_problem,
    HTTPException: on_http_exception,
    InvalidFingerprint: on_invalid_fingerprint,
    QueryTooLong: on_query_too_long,
    StoreError: on_store_error,
    ClientDisconnect: on_disconnect,
    Exception: on_unexpected,
}
