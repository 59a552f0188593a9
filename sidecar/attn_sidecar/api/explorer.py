"""The built explorer, served for every path that is no endpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from attn_sidecar.api.problems import unknown_route

_NOT_BUILT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Attention Explorer</title>
<h1>The explorer is not built</h1>
<p>The sidecar is running. To see it here, build the explorer once:</p>
<pre>cd ui
npm install
npm run build</pre>
<p>or run <code>npm run dev</code> in <code>ui/</code> and open its address.
The endpoints are listed at <a href="openapi.json">openapi.json</a>.</p>
</html>
"""


class Explorer:
    """An ASGI app: files of the build, its index for the explorer's own paths, 404 for the rest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = StaticFiles(directory=folder, check_dir=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose(1008, "the only WebSocket is /events")(scope, receive, send)
            return
        response = await self._response(Request(scope))
        await response(scope, receive, send)

    async def _response(self, request: Request) -> Response:
        path = request.url.path
        if request.method not in ("GET", "HEAD"):
            return unknown_route(path).response()
        is_page = not PurePosixPath(path).suffix and "text/html" in request.headers.get("accept", "")
        if path == "/" or is_page:
            return await self._index(request)
        try:
            response = await self._files.get_response(path.lstrip("/"), request.scope)
        except HTTPException:
            return unknown_route(path).response()
        # Vite names these files by their content.
        response.headers["Cache-Control"] = (
            "public, max-age=31536000, immutable" if path.startswith("/assets/") else "no-cache"
        )
        return response

    async def _index(self, request: Request) -> Response:
        try:
            text = await asyncio.to_thread((self._folder / "index.html").read_text, encoding="utf-8")
        except OSError:
            return HTMLResponse(_NOT_BUILT)
        # Relative, so that it is right below any prefix that a proxy takes off: how far the page lies below the root.
        base = "../" * (request.url.path.count("/") - 1) or "./"
        page = text.replace("<head>", f'<head><base href="{base}">', 1)
        return HTMLResponse(page, headers={"Cache-Control": "no-cache"})
