"""How answers travel: entity tags, gzip, and HEAD, in one place for every endpoint.

A published run never changes, so what is made of one run and one query is named by them: a strong entity tag, and with
``run=`` in the query a year of caching. Without ``run=`` the served run may change: the answer is asked for again, and
mostly answered with 304. JSON is compressed where the client takes gzip and there is enough to gain. Arrow is not: the
points' coordinates barely shrink, and a browser on the same machine would wait for nothing.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from functools import wraps

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from attn_sidecar.api.endpoint import Handler

GZIP_FROM_BYTES = 1024
_LEVEL = 1
"""Tenfold on JSON of numbers and names; higher levels gain a tenth more for thrice the time."""
_OWN_THREAD_FROM_BYTES = 65_536


def run_headers(request: Request, *, run_id: str | None, shape: int = 1) -> dict[str, str]:
    """ETag and Cache-Control of an answer made of one run and the query; `shape` is the answer's own version."""
    asked = f"{shape} {request.url.path}?{request.url.query} {request.headers.get('accept', '')}"
    tag = f"{run_id}-{hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()}"
    pinned = "run" in request.query_params
    return {
        "ETag": f'"{tag}"',
        "Cache-Control": "private, max-age=31536000, immutable" if pinned else "private, no-cache",
    }


def not_modified(request: Request, headers: dict[str, str]) -> Response | None:
    """304 where the client holds what these headers name."""
    held = request.headers.get("if-none-match")
    if held is None:
        return None
    tags = {tag.strip().removeprefix("W/").replace('-gzip"', '"') for tag in held.split(",")}
    return Response(status_code=304, headers=headers) if headers["ETag"] in tags or "*" in tags else None


def delivered(handler: Handler) -> Handler:
    """The handler, with its answers compressed where that is asked for, and without a body for HEAD."""

    @wraps(handler)
    async def deliver(request: Request) -> Response:
        response = await handler(request)
        if not isinstance(response, StreamingResponse):
            await _compress(request, response)
        if request.method == "HEAD":
            return await _without_body(response)
        return response

    return deliver


async def _compress(request: Request, response: Response) -> None:
    if response.headers.get("content-type") != "application/json" or len(response.body) < GZIP_FROM_BYTES:
        return
    response.headers["Vary"] = "Accept-Encoding"
    if not _takes_gzip(request.headers.get("accept-encoding", "")):
        return
    body = bytes(response.body)
    if len(body) >= _OWN_THREAD_FROM_BYTES:
        response.body = await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
    else:
        response.body = gzip.compress(body, _LEVEL, mtime=0)
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Content-Length"] = str(len(response.body))
    if "ETag" in response.headers:
        # Other bytes, another strong tag.
        response.headers["ETag"] = response.headers["ETag"][:-1] + '-gzip"'


def _takes_gzip(accept_encoding: str) -> bool:
    for part in accept_encoding.split(","):
        name, _, weight = part.partition(";")
        if name.strip().lower() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


async def _without_body(response: Response) -> Response:
    if isinstance(response, StreamingResponse):
        close = getattr(response.body_iterator, "aclose", None)
        if close is not None:
            await close()
    bare = Response(status_code=response.status_code)
    bare.raw_headers = response.raw_headers
    return bare
