"""Behind a proxy that passes the path on with its prefix: the prefix is taken off before anything looks at the path.

A proxy that takes it off itself needs nothing: the explorer asks for everything relative to the page.
"""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class PathPrefix:
    """Passes ``/attn/health`` on as ``/health``, and what comes without the prefix as it is."""

    def __init__(self, inside: ASGIApp, *, prefix: str) -> None:
        """`prefix` begins with a slash and does not end with one."""
        self._inside = inside
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if scope["type"] == "http" and path == self._prefix:
            # Without the slash the browser would look for everything beside the prefix, not below it.
            await RedirectResponse(f"{self._prefix}/")(scope, receive, send)
            return
        if path.startswith(f"{self._prefix}/"):
            raw: bytes = scope.get("raw_path") or path.encode()
            scope = {**scope, "path": path[len(self._prefix) :], "raw_path": raw.removeprefix(self._prefix.encode())}
        await self._inside(scope, receive, send)


def prefixed(inside: ASGIApp, *, prefix: str) -> ASGIApp:
    """`inside` behind this prefix; `inside` itself where there is none."""
    return PathPrefix(inside, prefix=prefix) if prefix else inside
