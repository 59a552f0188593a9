"""Time limits on requests, for next to nothing: one timer looks at all that are under way."""

from __future__ import annotations

import asyncio
import math

from starlette.types import Message, Receive, Send

SWEEP_S = 0.25
"""How much later than its limit a request may be ended."""


class Visit:
    """One request under way: wraps its `receive` and `send` to know what it waits for."""

    __slots__ = ("_receive", "_send", "_watch", "answering", "body_read", "deadline_s", "is_late", "reading", "task")

    def __init__(self, watch: Watch, *, receive: Receive, send: Send, now_s: float) -> None:
        self._watch = watch
        self._receive = receive
        self._send = send
        self.task = asyncio.current_task()
        self.deadline_s = now_s + watch.answer_limit_s
        self.reading = self.body_read = self.answering = self.is_late = False

    async def receive(self) -> Message:
        """The next message of the client; until the body is complete, the body's limit holds."""
        if self.body_read:
            return await self._receive()
        if not self.reading:
            self.reading = True
            self.deadline_s += self._watch.body_limit_s - self._watch.answer_limit_s
        message = await self._receive()
        if not message.get("more_body", False):
            self.reading, self.body_read = False, True
            if not self.answering:
                self.deadline_s = asyncio.get_running_loop().time() + self._watch.answer_limit_s
        return message

    async def send(self, message: Message) -> None:
        """Pass on a message; an answer that has begun may take as long as it takes."""
        if not self.answering:
            self.answering, self.deadline_s = True, math.inf
        await self._send(message)


class Watch:
    """All requests under way on one event loop."""

    def __init__(self, *, body_limit_s: float, answer_limit_s: float) -> None:
        self.body_limit_s = body_limit_s
        self.answer_limit_s = answer_limit_s
        self._visits: dict[Visit, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, *, receive: Receive, send: Send) -> Visit:
        """Begin to watch the request that the current task answers."""
        loop = asyncio.get_running_loop()
        visit = Visit(self, receive=receive, send=send, now_s=loop.time())
        self._visits[visit] = None
        if self._timer is None:
            self._timer = loop.call_later(SWEEP_S, self._sweep, loop)
        return visit

    def leave(self, visit: Visit) -> None:
        """The request is answered, or its client has gone."""
        self._visits.pop(visit, None)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        for visit in [visit for visit in self._visits if visit.deadline_s < now_s]:
            del self._visits[visit]
            if visit.task is not None:
                visit.is_late = True
                visit.task.cancel()
        # An idle sidecar has no timer; a busy one looks four times a second.
        self._timer = loop.call_later(SWEEP_S, self._sweep, loop) if self._visits else None
