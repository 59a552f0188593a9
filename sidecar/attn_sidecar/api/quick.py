"""The short way for the two endpoints that are asked thousands of times a second.

FastAPI's and Starlette's layers cost as much as an empty answer does; a POST to a path named in `QuickApp.quick` goes
around them: headers and body are read here, bounded as everywhere, and the answer is sent as bytes. Errors become the
same problems as on the long way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attn_sidecar.api.endpoint import Handler, Quick
from attn_sidecar.api.problems import HANDLERS, Problem

MAX_BODY_BYTES = 1 << 20
JSON_HINT = "send JSON with the header content-type: application/json"


_KNOWN: tuple[type[Exception], ...] = tuple(kind for kind in HANDLERS if kind is not Exception)


class QuickApp(FastAPI):
    """The application, with a short way for `quick`: POST paths and what answers them."""

    quick: Mapping[str, Quick]
    _on_quick: ASGIApp
    _door: ASGIApp

    def stand_behind(self, door: Callable[[ASGIApp], ASGIApp]) -> None:
        """Let in only what `door`, made around the application, lets in."""
        self._door = door(self._inside)

    def go_around(self, quick: Mapping[str, Quick]) -> None:
        """Answer these POST paths on the short way from now on."""
        self.quick = quick
        # What nobody foresaw becomes a 500 and a traceback in the log, as on the long way.
        self._on_quick = ServerErrorMiddleware(self._answer, handler=HANDLERS[Exception])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door(scope, receive, send)

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self.quick:
            await self._on_quick(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, body = await self.quick[scope["path"]](await read_json(scope["headers"], receive))
        except _KNOWN as error:
            kind = next(kind for kind in type(error).__mro__ if kind in HANDLERS)
            response = await HANDLERS[kind](Request(scope), error)
            await response(scope, receive, send)
            return
        length = str(len(body)).encode()
        headers = [(b"content-length", length), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def on_the_long_way(quick: Quick, *, name: str) -> Handler:
    """The same endpoint as a handler of a route; `name` is its operation id."""

    async def handler(request: Request) -> Response:
        status, body = await quick(await read_json(request.scope["headers"], request.receive))
        return Response(body, status_code=status, media_type="application/json")

    handler.__name__ = name
    return handler


async def read_json(headers: Iterable[tuple[bytes, bytes]], receive: Callable[[], Awaitable[Message]]) -> bytes:
    """The body, not empty and said to be JSON; raises `Problem` 400, 413 or 415, or `ClientDisconnect`."""
    return (await read_body(headers, receive, also=(), most=MAX_BODY_BYTES))[0]


async def read_body(
    headers: Iterable[tuple[bytes, bytes]],
    receive: Callable[[], Awaitable[Message]],
    *,
    also: tuple[str, ...],
    most: int,
) -> tuple[bytes, str]:
    """The body and its content type, JSON or one of `also`, of at most so many bytes; raises as `read_json`."""
    kind = "application/json"
    content_type = said = b""
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            said = value
    if content_type != b"application/json":
        kind = _checked_type(content_type.decode("latin-1"), also=also)
    if said.isdigit() and int(said) > most:
        raise _too_large(f"content-length says {int(said)} bytes", most)
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            raise _too_large(f"more than {most} bytes were sent", most)
    if not body:
        raise Problem(400, "empty-body", title="The body is empty", detail="no byte was sent", mend=JSON_HINT)
    return bytes(body), kind


def _checked_type(content_type: str, *, also: tuple[str, ...]) -> str:
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and kind not in also:
        raise Problem(
            415,
            "content-type",
            title="Not JSON by its content type",
            detail=f"content-type is {content_type[:100]!r}" if content_type else "there is no content-type header",
            mend=JSON_HINT if not also else f"{JSON_HINT}, or one of {', '.join(also)}",
        )
    return kind


def _too_large(detail: str, most: int) -> Problem:
    return Problem(
        413,
        "body-too-large",
        title="The body is too large",
        detail=detail,
        mend=f"a body has at most {most} bytes; one fingerprint needs about 400 as JSON, 100 as Arrow",
    )
