"""What the door says to those it does not let in: problems with a stable `type`, without a word of what lies behind."""

from __future__ import annotations

import re
from html import escape
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse, Response

from attn_sidecar.api.problems import Problem

_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9._\[\]:-]{1,260}")
_CLOSE = {"Connection": "close"}


def unauthorized(*, given: bool) -> Problem:
    """401: no token, or one that is not ours."""
    return Problem(
        401,
        "token-wrong" if given else "token-missing",
        title="This token does not open the sidecar" if given else "A token is needed",
        detail="the bearer token is not the sidecar's" if given else "there is no Authorization header with a token",
        mend="send the header Authorization: Bearer TOKEN (a WebSocket of a browser: the subprotocol bearer.TOKEN), "
        "with the token of the sidecar's --token-file",
        headers={"WWW-Authenticate": 'Bearer realm="attention-explorer"' + (', error="invalid_token"' * given)},
    )


def too_many_requests(*, wait_s: int) -> Problem:
    """429: this client asks more often than --rate-limit admits."""
    return Problem(
        429,
        "rate-limit",
        title="Too many requests",
        detail="this client asks more often than the sidecar admits",
        mend=f"wait {wait_s} s; the sidecar's --rate-limit sets the bound, and the batch forms ask more at once",
        headers={"Retry-After": str(wait_s)},
    )


def not_our_host(host: bytes) -> Problem:
    """421: the Host header names someone else (DNS rebinding)."""
    try:
        name = urlsplit(f"//{host.decode('latin-1')}").hostname or ""
    except ValueError:
        name = ""
    return Problem(
        421,
        "host-not-allowed",
        title="This is another host",
        detail=f"the Host header names {host.decode('latin-1')[:100]!r}",
        mend="use http://localhost and the port, or start the sidecar with --allowed-host "
        f"{name if _NAME.fullmatch(name) else 'NAME'}",
    )


def not_our_page(origin: bytes) -> Problem:
    """403: a page of another site asks."""
    text = origin.decode("latin-1")
    return Problem(
        403,
        "origin-not-allowed",
        title="Pages of this origin may not ask",
        detail=f"the Origin header names {text[:100]!r}",
        mend=f"start the sidecar with --cors-origin {text if _ORIGIN.fullmatch(text) else 'ORIGIN'} to allow it",
    )


def head_too_large(*, num_headers: int, most_headers: int, most_bytes: int) -> Problem:
    """431: too many headers, or too long."""
    return Problem(
        431,
        "headers-too-large",
        title="The request's head is too large",
        detail=f"{num_headers} headers",
        mend=f"a request has at most {most_headers} headers, and {most_bytes} bytes of them and its address",
        headers=_CLOSE,
    )


def ambiguous_head(name: str) -> Problem:
    """400: a header that decides who is asked, or who asks, stands there twice."""
    return Problem(
        400,
        "header-repeated",
        title="A header is repeated",
        detail=f"{name} stands there more than once",
        mend=f"send {name} once",
    )


def body_too_slow(*, limit_s: float) -> Problem:
    """408: the body did not come in time."""
    return Problem(
        408,
        "body-too-slow",
        title="The body did not come in time",
        detail=f"a body is read for {limit_s:g} s",
        mend="send it again, in one go",
        headers=_CLOSE,
    )


def answer_too_slow(*, limit_s: float) -> Problem:
    """503: no answer was ready in time."""
    return Problem(
        503,
        "too-slow",
        title="The answer took too long",
        detail=f"no answer within {limit_s:g} s",
        mend="ask for less (a smaller limit or window), or again later; GET /health says what ails",
        headers={"Retry-After": "5"},
    )


def as_page(problem: Problem) -> Response:
    """The same for a person in front of a browser: one line that says what to do."""
    body = problem.body
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(body.title)}</title>'
        f"<h1>Attention Explorer: {escape(body.title)}</h1><p>{escape(body.detail)}.</p>"
        f"<p>What to do: {escape(body.mend)}.</p></html>",
        status_code=body.status,
        headers=dict(problem.headers or {}),
    )
