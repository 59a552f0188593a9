"""How many HTTP requests came, how they ended and how long they took: one layer around everything, with the door."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attn_sidecar.durations import Durations

OTHER = "other"
"""Route of the explorer's pages and of paths that are none; callers cannot make new ones."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_LEFT = 499
"""Status of what was never answered."""


class HttpTimes:
    """Counts, written on the event loop alone and read from there."""

    def __init__(self) -> None:
        self.num_by_outcome: dict[tuple[str, str, int], int] = {}
        """By (method, route, status)."""
        self.durations: dict[tuple[str, str], Durations] = {}
        """By (method, route)."""
        self._route_by_endpoint: Mapping[Any, str] = {}
        self._paths: frozenset[str] = frozenset()

    def know(self, route_by_endpoint: Mapping[Any, str]) -> None:
        """The routes that have a name of their own, by what Starlette calls their endpoint."""
        self._route_by_endpoint = dict(route_by_endpoint)
        self._paths = frozenset(path for path in route_by_endpoint.values() if "{" not in path)

    def around(self, inside: ASGIApp) -> ASGIApp:
        """`inside`, counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await inside(scope, receive, send)
                return
            status = CLIENT_LEFT

            async def noting(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            began_s = time.perf_counter()
            try:
                await inside(scope, receive, noting)
            finally:
                self._note(scope, status, time.perf_counter() - began_s)

        return counted

    def _note(self, scope: Scope, status: int, duration_s: float) -> None:
        method, path = scope["method"], scope["path"]
        if path not in self._paths:
            path = self._route_by_endpoint.get(scope.get("endpoint"), OTHER)
        if method not in _METHODS:
            method = OTHER
        outcome = method, path, status
        self.num_by_outcome[outcome] = self.num_by_outcome.get(outcome, 0) + 1
        durations = self.durations.get((method, path))
        if durations is None:
            durations = self.durations[method, path] = Durations()
        durations.add(duration_s)
