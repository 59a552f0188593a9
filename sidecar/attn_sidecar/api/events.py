"""`/events`: the WebSocket that says what happens, resumable from a cursor."""

from __future__ import annotations

import anyio
import anyio.to_thread
import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from attn_core.bundle import SCHEMA_VERSION
from attn_core.errors import StoreError
from attn_sidecar.discovery import Discovery
from attn_sidecar.live import TOKENS_A_MESSAGE, LiveHub, Subscriber, notice_message, tokens_messages
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
        text, notice = socket.query_params.get("after"), socket.query_params.get("after_notice")
        for name, said in (("after", text), ("after_notice", notice)):
            if said is not None and not (said.isascii() and said.isdigit() and len(said) <= 18):
                await socket.close(POLICY_VIOLATION, f"{name} is a cursor: a whole number")
                return
        await socket.accept()
        subscriber = None if text is not None else self._live.subscribe()
        now = self._live.cursor
        # A cursor beyond ours is of another database: begin at the present.
        cursor = now if text is None else min(int(text), now)
        seen = self._live.notice if notice is None else int(notice)
        missed = [] if subscriber is None else self._live.notices_after(seen)
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                await _until_gone(socket)
                tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            await self._talk(socket, cursor=cursor, subscriber=subscriber, seen=seen, missed=missed)
            tasks.cancel_scope.cancel()

    async def _talk(
        self, socket: WebSocket, *, cursor: int, subscriber: Subscriber | None, seen: int, missed: list[bytes]
    ) -> None:
        try:
            run_id = self._discovery.served.run_id
            hello = {"kind": "hello", "cursor": cursor, "notice": seen, "run_id": run_id}
            await _send(socket, msgspec.json.encode({**hello, "schema_version": SCHEMA_VERSION}))
            if seen < self._live.began_at_us:
                for message in await self._before_the_start(seen):
                    await _send(socket, message)
            if subscriber is None:
                subscriber = await self._catch_up(socket, cursor)
                # In the same turn of the loop as the subscription: nothing comes between.
                missed = self._live.notices_after(seen)
            for message in missed:
                await _send(socket, message)
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
            for _, message in tokens_messages(tokens):
                await _send(socket, message)
            cursor = tokens[-1].id if tokens else up_to
        return self._live.subscribe()

    async def _before_the_start(self, seen: int) -> list[bytes]:
        """The runs that were published after this notice while no sidecar was there to say so, from their folder."""
        told = self._live.announced_runs()
        published = await anyio.to_thread.run_sync(self._discovery.published)
        found = [
            (int(manifest["published_at_us"]), run_id)
            for run_id, manifest in published.items()
            if seen < manifest["published_at_us"] <= self._live.began_at_us and run_id not in told
        ]
        return [notice_message({"kind": "run", "run_id": run_id}, notice=at_us) for at_us, run_id in sorted(found)]

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
