"""An endpoint as data: what the router needs and what OpenAPI says of it."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_sidecar.api.problems import Problem

Handler = Callable[[Request], Awaitable[Response]]
Quick = Callable[[bytes], Awaitable[tuple[int, bytes]]]
"""From a body that came as JSON to status and JSON; raises what `problems.HANDLERS` know."""
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
MAX_TEXT_CHARS = 512


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A path or query parameter: read, checked and described in one place."""

    name: str
    place: str = "query"
    """``path`` or ``query``."""
    kind: str
    """JSON type: ``integer``, ``number`` or ``string``."""
    description: str
    default: Any = None
    """None: there is none, and the handler says what its absence means."""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    """Of the whole text."""
    example: Any = None

    def value(self, request: Request) -> Any:
        """What the query or path says, typed; `default` where it is silent. Raises `Problem` 422."""
        texts = request.query_params.getlist(self.name) if self.place == "query" else [request.path_params[self.name]]
        if not texts:
            return self.default
        text = str(texts[0])
        found = self._parsed(text) if len(texts) == 1 else None
        if found is None:
            raise Problem(
                422,
                "query-invalid",
                title="A query parameter cannot be used",
                detail=f"{self.name}={text[:40]}" if len(texts) == 1 else f"{self.name} is given {len(texts)} times",
                mend=f"{self.name} is {self._valid()}",
            )
        return found

    def _parsed(self, text: str) -> Any:
        """The value, None where the text is none."""
        if self.kind == "string":
            fits = (
                len(text) <= MAX_TEXT_CHARS
                and (not self.choices or text in self.choices)
                and (self.pattern is None or re.fullmatch(self.pattern, text, re.ASCII) is not None)
            )
            return text if fits else None
        if not (_INTEGER if self.kind == "integer" else _NUMBER).fullmatch(text):
            return None
        number = int(text) if self.kind == "integer" else float(text)
        low, high = -math.inf if self.least is None else self.least, math.inf if self.most is None else self.most
        return number if math.isfinite(number) and low <= number <= high else None

    def _valid(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind == "string":
            return self.description
        whole = "a whole number" if self.kind == "integer" else "a number"
        if self.least is not None and self.most is not None:
            return f"{whole} from {self.least:.15g} to {self.most:.15g}"
        return whole

    def schema(self) -> dict[str, Any]:
        """The JSON schema of its value."""
        found: dict[str, Any] = {"type": self.kind}
        if self.kind == "string":
            found["maxLength"] = MAX_TEXT_CHARS
        for name, value in (
            ("minimum", self.least),
            ("maximum", self.most),
            ("enum", list(self.choices) or None),
            ("pattern", None if self.pattern is None else f"^{self.pattern}$"),
            ("default", self.default),
        ):
            if value is not None:
                found[name] = value
        return found


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
    also_answers: tuple[str, ...] = ()
    """Further media types, chosen by the Accept header."""
    statuses: tuple[int, ...] = (200,)
    body: type[msgspec.Struct] | None = None
    also_takes: tuple[str, ...] = ()
    """Further content types of the body."""
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    quick: Quick | None = None
    """A way around the framework for what is asked most: `attn_sidecar.api.quick`."""

    def __post_init__(self) -> None:
        if self.parameters and 422 not in self.problems:
            object.__setattr__(self, "problems", (*self.problems, 422))


def values_of(parameters: tuple[Parameter, ...], request: Request) -> dict[str, Any]:
    """Every parameter's value by name; raises `Problem` 422 at the first that cannot be used."""
    return {parameter.name: parameter.value(request) for parameter in parameters}


def json_response(answer: msgspec.Struct, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`answer` as JSON."""
    return Response(
        msgspec.json.encode(answer),
        status_code=status,
        media_type="application/json",
        headers=None if headers is None else dict(headers),
    )
