"""The door of the HTTP side: one ASGI layer around everything, the short way included.

In this order: size of the head, rate of the client, Host, Origin, preflight, token, time limits. What is refused never
reaches a handler.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attn_sidecar.api.problems import Problem
from attn_sidecar.http_door import refusals
from attn_sidecar.http_door.origins import Names
from attn_sidecar.http_door.rate import DEFAULT_WIDE_PER_S, RateLimit
from attn_sidecar.http_door.token import is_token, token_from_authorization, token_from_subprotocols, tokens_from
from attn_sidecar.http_door.watch import Watch
from attn_sidecar.settings import Settings

MAX_HEADERS = 100
MAX_HEAD_BYTES = 32_768
ADMITTED = "attn.admitted"
"""Key of the scope: whether the caller showed what the sidecar asks for. False only at `/health`."""
SUBPROTOCOL = "attention-explorer"
"""What a browser offers beside ``bearer.TOKEN``, so that the answer need not repeat the token."""
_PAGES = frozenset({"/", "/live", "/map", "/index.html", "/favicon.svg"})
_PAGES_BELOW = ("/assets/", "/views/")
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_ALLOWED_HEADERS = b"authorization, content-type, if-none-match"
_SHOWN_HEADERS = b"etag, retry-after, www-authenticate"


class Door:
    """Lets in whom `settings` let in; `inside` is the application. Raises `SettingsError` where a token is too weak."""

    def __init__(self, settings: Settings, inside: ASGIApp) -> None:
        self._inside = inside
        self._tokens = tokens_from(settings)
        self._names = Names(bound=settings.host, hosts=settings.allowed_host, origins=settings.cors_origin)
        self._shares = bool(settings.cors_origin)
        per_s = DEFAULT_WIDE_PER_S if settings.rate_limit is None else settings.rate_limit
        self._rate = RateLimit(per_s, spares_loopback=settings.rate_limit is None) if per_s > 0 else None
        self._watch = Watch(body_limit_s=settings.body_time_limit_s, answer_limit_s=settings.answer_time_limit_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._inside(scope, receive, send)
            return
        try:
            origin, is_preflight = self._look(scope)
        except _Refused as refused:
            if refused.origin is not None:
                send = _sharing(send, refused.origin)
            response = refusals.as_page(refused.problem) if refused.for_a_person else refused.problem.response()
            await response(scope, receive, send)
            return
        if origin is not None:
            send = _sharing(send, origin)
        if is_preflight:
            await _answer_preflight(send)
        elif kind == "websocket":
            await self._inside(scope, receive, _choosing_subprotocol(scope, send))
        else:
            await self._watched(scope, receive, send)

    def _look(self, scope: Scope) -> tuple[bytes | None, bool]:
        """The origin to share the answer with, where there is one, and whether this is a preflight; or `_Refused`."""
        headers = scope["headers"]
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        host = origin = authorization = asked_method = forwarded_host = accept = b""
        repeated = ""
        for name, value in headers:
            size += len(name) + len(value)
            if name == b"host":
                repeated = "host" if host else repeated
                host = value
            elif name == b"origin":
                repeated = "origin" if origin else repeated
                origin = value
            elif name == b"authorization":
                repeated = "authorization" if authorization else repeated
                authorization = value
            elif name == b"access-control-request-method":
                asked_method = value
            elif name == b"x-forwarded-host":
                forwarded_host = value
            elif name == b"accept":
                accept = value
        if size > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS:
            raise _Refused(
                refusals.head_too_large(num_headers=len(headers), most_headers=MAX_HEADERS, most_bytes=MAX_HEAD_BYTES)
            )
        client = scope.get("client")
        if self._rate is not None and client is not None:
            wait_s = self._rate.wait_s(client[0], now_s=asyncio.get_running_loop().time())
            if wait_s:
                raise _Refused(refusals.too_many_requests(wait_s=wait_s), self._readable(origin))
        if repeated:
            raise _Refused(refusals.ambiguous_head(repeated))
        server = scope.get("server")
        if not self._names.is_ours(host, reached=server[0] if server else ""):
            raise _Refused(refusals.not_our_host(host), for_a_person=b"text/html" in accept)
        shared = self._readable(origin)
        method = scope.get("method", "GET")
        if origin:
            changes = scope["type"] == "websocket" or method not in _READS or asked_method
            if changes and shared is None and not self._names.may_ask(origin, host=host, forwarded_host=forwarded_host):
                raise _Refused(refusals.not_our_page(origin))
            if method == "OPTIONS" and asked_method and shared is not None:
                return shared, True
        if self._tokens is not None:
            self._ask_for_token(scope, authorization, shared=shared)
        return shared, False

    def _readable(self, origin: bytes) -> bytes | None:
        return origin if self._shares and self._names.may_read(origin) else None

    def _ask_for_token(self, scope: Scope, authorization: bytes, *, shared: bytes | None) -> None:
        assert self._tokens is not None
        given = token_from_authorization(authorization)
        if not given and scope["type"] == "websocket":
            given = token_from_subprotocols(scope["subprotocols"])
        if self._tokens.opens(given):
            return
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            path = scope["path"]
            if path in _PAGES or path.startswith(_PAGES_BELOW):
                return
            if path == "/health":
                scope[ADMITTED] = False
                return
        raise _Refused(refusals.unauthorized(given=bool(given or authorization)), shared)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = self._watch.enter(receive=receive, send=send)
        try:
            await self._inside(scope, visit.receive, visit.send)
        except asyncio.CancelledError:
            if not visit.is_late or visit.answering:
                raise
            # It was the watch that cancelled: the request ends here, with a word of why, and the task goes on.
            if visit.task is not None:
                visit.task.uncancel()
            problem = (
                refusals.body_too_slow(limit_s=self._watch.body_limit_s)
                if visit.reading
                else refusals.answer_too_slow(limit_s=self._watch.answer_limit_s)
            )
            await problem.response()(scope, receive, send)
        finally:
            self._watch.leave(visit)


class _Refused(Exception):
    """Not let in; `origin` is the page that may read why. `for_a_person`: a browser shows what is answered."""

    def __init__(self, problem: Problem, origin: bytes | None = None, *, for_a_person: bool = False) -> None:
        super().__init__(problem.body.type)
        self.problem = problem
        self.origin = origin
        self.for_a_person = for_a_person


def _sharing(send: Send, origin: bytes) -> Send:
    """`send`, telling the browser that a page of this origin may read the answer."""
    extra = [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _SHOWN_HEADERS),
        (b"vary", b"Origin"),
    ]

    async def shared(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return shared


async def _answer_preflight(send: Send) -> None:
    headers = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", _ALLOWED_HEADERS),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _choosing_subprotocol(scope: Scope, send: Send) -> Send:
    """`send`, accepting one of the offered subprotocols: a browser hangs up where none of its offers is taken."""
    offered = scope["subprotocols"]
    chosen = SUBPROTOCOL if SUBPROTOCOL in offered else next(filter(is_token, offered), None)
    if chosen is None:
        return send

    async def choosing(message: Message) -> None:
        if message["type"] == "websocket.accept" and message.get("subprotocol") is None:
            message = {**message, "subprotocol": chosen}
        await send(message)

    return choosing
