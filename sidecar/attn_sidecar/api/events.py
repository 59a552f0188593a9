"""`/events`: the WebSocket that says what happens, resumable from a cursor."""

from __future__ import annotations

import anyio
import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from attn_core.bundle import SCHEMA_VERSION
from attn_core.errors import StoreError
from attn_sidecar.discovery import Discovery
from attn_sidecar.live import TOKENS_A_MESSAGE, LiveHub, Subscriber, tokens_message
from attn_sidecar.store.reader import ReadPool

POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
_FAREWELL_S = 1.0
_GONE = (WebSocketDisconnect, RuntimeError)
"""What Starlette raises when the client left while we were sending."""


class Events:
    """The WebSocket endpoint: `serve` is one client's whole life."""

    def __init__(self, *, live: LiveHub, readers: ReadPool, discovery: Discovery) -> None:
        self._live = live
        self._readers = readers
        self._discovery = discovery

    async def serve(self, socket: WebSocket) -> None:
        """Say hello, send what came after the cursor, then whatever comes."""
        text = socket.query_params.get("after")
        if text is not None and not (text.isascii() and text.isdigit() and len(text) <= 18):
            await socket.close(POLICY_VIOLATION, "after is a cursor: a whole number")
            return
        await socket.accept()
        subscriber = None if text is not None else self._live.subscribe()
        now = self._live.cursor
        # A cursor beyond ours is of another database: begin at the present.
        cursor = now if text is None else min(int(text), now)
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                await _until_gone(socket)
                tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            await self._talk(socket, cursor=cursor, subscriber=subscriber)
            tasks.cancel_scope.cancel()

    async def _talk(self, socket: WebSocket, *, cursor: int, subscriber: Subscriber | None) -> None:
        try:
            run_id = self._discovery.served.run_id
            hello = {"kind": "hello", "cursor": cursor, "run_id": run_id, "schema_version": SCHEMA_VERSION}
            await _send(socket, msgspec.json.encode(hello))
            if subscriber is None:
                subscriber = await self._catch_up(socket, cursor)
            await self._relay(socket, subscriber)
        except StoreError as error:
            await socket.close(TRY_AGAIN_LATER, str(error)[:120])
        except _GONE:
            return
        finally:
            if subscriber is not None:
                self._live.unsubscribe(subscriber)

    async def _catch_up(self, socket: WebSocket, cursor: int) -> Subscriber:
        """Send from the store until the client is where the hub is, then subscribe without letting anything between."""
        while cursor < self._live.cursor:
            up_to = self._live.cursor
            tokens = await self._readers.ask(
                lambda reader, after=cursor, up_to=up_to: reader.tokens_between(  # type: ignore[misc]
                    after_id=after, up_to_id=up_to, limit=TOKENS_A_MESSAGE
                )
            )
            if tokens:
                await _send(socket, tokens_message(tokens))
            cursor = tokens[-1].id if tokens else up_to
        return self._live.subscribe()

    async def _relay(self, socket: WebSocket, subscriber: Subscriber) -> None:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await subscriber.too_slow.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await _send_queue(socket, subscriber)
            tasks.cancel_scope.cancel()
        if subscriber.too_slow.is_set():
            # It may not even take the farewell; then the connection is dropped.
            with anyio.move_on_after(_FAREWELL_S):
                await socket.close(TRY_AGAIN_LATER, "too slow: come back with ?after=CURSOR of your last message")


async def _send(socket: WebSocket, message: bytes) -> None:
    await socket.send_text(message.decode())


async def _send_queue(socket: WebSocket, subscriber: Subscriber) -> None:
    try:
        while True:
            await _send(socket, await subscriber.queue.get())
    except _GONE:
        return


async def _until_gone(socket: WebSocket) -> None:
    """Read and ignore what the client says, to learn when it leaves."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
