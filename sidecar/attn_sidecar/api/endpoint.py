"""An endpoint as data: what the router needs and what OpenAPI says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_sidecar.api.problems import Problem

Handler = Callable[[Request], Awaitable[Response]]
Quick = Callable[[bytes], Awaitable[tuple[int, bytes]]]
"""From a body that came as JSON to status and JSON; raises what `problems.HANDLERS` know."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A path or query parameter."""

    name: str
    place: str
    """``path`` or ``query``."""
    kind: str
    """JSON type."""
    description: str


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    handler: Handler
    summary: str
    answer: type[msgspec.Struct] | None = None
    """None where the answer is not JSON."""
    answer_media_type: str = "application/json"
    statuses: tuple[int, ...] = (200,)
    body: type[msgspec.Struct] | None = None
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    quick: Quick | None = None
    """A way around the framework for what is asked most: `attn_sidecar.api.quick`."""


def json_response(answer: msgspec.Struct, *, status: int = 200) -> Response:
    """`answer` as JSON."""
    return Response(msgspec.json.encode(answer), status_code=status, media_type="application/json")


def int_from_query(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    """A whole number from the query; raises `Problem` 422 where it is none or out of range."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text) if len(text) <= 20 else most + 1
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise Problem(
            422,
            "query-invalid",
            title="A query parameter cannot be used",
            detail=f"{name}={text[:40]}",
            mend=f"{name} is a whole number from {least} to {most}",
        )
    return value
