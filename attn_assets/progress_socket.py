"""Progress over a WebSocket on the loopback interface: every event, and to a late joiner the newest one at once."""

from __future__ import annotations

import asyncio
import json
import threading

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from attn_assets.progress import Event
from attn_core.errors import SettingsError

HOST = "127.0.0.1"


class ProgressSocket:
    """A WebSocket server in a thread of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        """Where it listens; after `start` the real one, where 0 was asked for."""
        self._loop = asyncio.new_event_loop()
        self._listeners: set[ServerConnection] = set()
        self._last: str | None = None
        self._bound = threading.Event()
        self._failure: OSError | None = None
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="progress-socket", daemon=True)

    def start(self) -> None:
        """Listen; raises `SettingsError` where the port cannot be had."""
        self._thread.start()
        self._bound.wait()
        if self._failure is not None:
            raise SettingsError(
                f"--websocket-port {self.port} cannot be had on {HOST}: {self._failure.strerror}. "
                "Name another, or stop what listens there"
            ) from self._failure

    def tell(self, event: Event) -> None:
        """Send an event to everyone who listens; may be called from any thread."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._send, json.dumps(event.to_dict()))

    def close(self) -> None:
        """Say goodbye to the listeners, once they have what was sent."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(timeout=5.0)

    def _send(self, text: str) -> None:
        self._last = text
        broadcast(self._listeners, text)

    async def _listen(self, connection: ServerConnection) -> None:
        if self._last is not None:
            await connection.send(self._last)
        self._listeners.add(connection)
        try:
            await connection.wait_closed()
        finally:
            self._listeners.discard(connection)

    async def _serve(self) -> None:
        try:
            async with serve(self._quietly, HOST, self.port) as server:
                self.port = server.sockets[0].getsockname()[1]
                self._bound.set()
                await self._closing.wait()
        except OSError as error:
            self._failure = error
            self._bound.set()

    async def _quietly(self, connection: ServerConnection) -> None:
        try:
            await self._listen(connection)
        except ConnectionClosed:
            # The listener left while it was greeted: its own business.
            return

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()
