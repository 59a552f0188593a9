"""The live fan-out: what was committed goes to every `/events` client, from a thread that reads the store.

Ingest only rings a bell. The live thread reads the new rows back by cursor (the row id), encodes each message once and
hands it to the event loop. So a resumed client and a live one read from the same place, and no client can slow ingest.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import pyarrow as pa

from attn_core.classify import Classifier
from attn_core.errors import StoreError
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import log_event, logger_named
from attn_sidecar.sequence_zones import SequenceZone
from attn_sidecar.service_thread import ServiceThread
from attn_sidecar.store.jobs import Committed
from attn_sidecar.store.reader import Reader
from attn_sidecar.store.records import Token, with_one_projection

_LOG = logger_named("live")
PART = "live"
_RETRY_S = 0.5
TOKENS_A_MESSAGE = 256
MAX_MESSAGE_BYTES = 256 << 10
"""Common clients hang up at a message of 1 MiB."""
MESSAGES_A_CLIENT = 64
"""Messages that wait for one client before it counts as too slow."""
MAX_LAG_TOKENS = 32_768
"""If the live thread falls this far behind ingest it skips to the present, and says so."""
_FULL_MESSAGES_A_S = 64
"""Reading tokens back costs the interpreter three times what taking them in does: nobody reads 16,384 tokens a second,
and ingest shall not wait for those who listen. What comes faster for longer is skipped, and said."""
MAX_REQUEST_BATCHES = 1024
"""Batches of request events kept for the live thread; the store has them all."""
_LOOP_TIMEOUT_S = 5.0
MAX_NOTICES = 1024
"""Notices (runs, drift) kept for clients that come back."""


@dataclass(eq=False)
class Subscriber:
    """One `/events` client. Lives on the event loop."""

    queue: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(MESSAGES_A_CLIENT))
    too_slow: asyncio.Event = field(default_factory=asyncio.Event)


def tokens_message(tokens: Sequence[Token]) -> bytes:
    """The `tokens` message of these tokens (at least one), which moves the cursor to the last."""
    head_projection, tokens = with_one_projection(tokens)
    message = {"kind": "tokens", "cursor": tokens[-1].id, "head_projection": head_projection, "tokens": tokens}
    return msgspec.json.encode(message)


def tokens_messages(tokens: Sequence[Token]) -> list[tuple[int, bytes]]:
    """(cursor, message) of messages of at most `MAX_MESSAGE_BYTES` that hold these tokens in order.

    A single token that is larger goes without its top-k; `/requests/{id}` has it.
    """
    if not tokens:
        return []
    message = tokens_message(tokens)
    if len(message) <= MAX_MESSAGE_BYTES:
        return [(tokens[-1].id, message)]
    if len(tokens) == 1:
        bare = msgspec.structs.replace(tokens[0], topk_positions=None, topk_probs=None)
        return [(tokens[0].id, tokens_message([bare]))]
    half = len(tokens) // 2
    return [*tokens_messages(tokens[:half]), *tokens_messages(tokens[half:])]


def request_messages(model_id: str, rows: pa.RecordBatch, zones: Mapping[str, SequenceZone]) -> list[bytes]:
    """A `request` message for each row of request events.

    `zones` holds the zones, by request id, of the requests that ended in the same transaction; an end whose request
    has no stored tokens, and every start, says null.
    """
    messages = []
    for row in rows.to_pylist():
        spans = row["prompt_spans"]
        zone = zones.get(row["request_id"]) if row["event"] == "ended" else None
        message = {
            "kind": "request",
            "request_id": row["request_id"],
            "event": row["event"],
            "model_id": model_id,
            "at_us": row["at_us"],
            "prompt_len": row["prompt_len"],
            "prompt_token_texts": row["prompt_token_texts"],
            "prompt_spans": msgspec.Raw(spans.encode()) if spans is not None else None,
            "finish_reason": row["finish_reason"],
            "num_output_tokens": row["num_output_tokens"],
            "zone": None if zone is None else zone.zone,
            "zone_confidence": None if zone is None else zone.confidence,
        }
        encoded = msgspec.json.encode({**message, "prompt_left_out": False})
        if len(encoded) > MAX_MESSAGE_BYTES:
            # A long prompt is for who asks: `/requests/{id}` has it.
            left_out = {"prompt_token_texts": None, "prompt_spans": None, "prompt_left_out": True}
            encoded = msgspec.json.encode({**message, **left_out})
        messages.append(encoded)
    return messages


def notice_message(message: dict[str, object], *, notice: int) -> bytes:
    """A notice as it is sent: the message and its number."""
    return msgspec.json.encode({**message, "notice": notice})


class LiveHub:
    """Fans commits out to subscribers. Loop-side state (`cursor`, subscribers) is touched on the event loop only."""

    def __init__(
        self,
        path: Path,
        *,
        health: HealthBoard | None = None,
        privacy: bool = False,
        classifier: Callable[[], Classifier] = Classifier.without_run,
    ) -> None:
        self._open = partial(Reader, path, privacy=privacy, classifier=classifier)
        self._health = health or HealthBoard()
        self._at = 0
        self._subscribers: set[Subscriber] = set()
        self._bell = threading.Condition()
        self._newest_id = 0
        self._requests: list[tuple[str, pa.RecordBatch, Mapping[str, SequenceZone]]] = []
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.thread = ServiceThread("attn-live", part="live", run=self._run, health=self._health, blocks=False)
        self.cursor = 0
        """The id up to which every subscriber has been given everything."""
        self.num_dropped_clients = 0
        self._notices: deque[tuple[int, str | None, bytes]] = deque(maxlen=MAX_NOTICES)
        self.notice = self.began_at_us = time.time_ns() // 1000
        """The newest notice's number: UTC microseconds, so that it goes on growing over restarts."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin at the store's newest token, or at the first if the store cannot be read now."""
        with suppress(StoreError):
            reader = self._open()
            self.cursor = self._at = self._newest_id = reader.newest_id()
            reader.close()
        self._loop = loop
        self.thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._bell:
            self._stopping = True
            self._bell.notify()
        self.thread.join()

    @property
    def num_clients(self) -> int:
        """Clients that are listening now."""
        return len(self._subscribers)

    def committed(self, commit: Committed) -> None:
        """Ring: called on the writing thread after each commit; does no work there."""
        with self._bell:
            if commit.newest_id < self._newest_id:
                # Another file took the place of the one that was followed: its ids begin again.
                self._at = min(self._at, commit.newest_id - commit.num_new)
            self._newest_id = commit.newest_id
            if self._subscribers:
                arrived = [(model_id, rows, commit.request_zones) for model_id, rows in commit.requests]
                self._requests = [*self._requests, *arrived][-MAX_REQUEST_BATCHES:]
            self._bell.notify()

    def subscribe(self) -> Subscriber:
        """A subscriber that gets everything after `cursor`, as `cursor` is at this moment."""
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Give this client nothing more."""
        self._subscribers.discard(subscriber)

    def broadcast(self, message: bytes) -> None:
        """Queue a message for everyone; who has no room left is dropped. On the event loop."""
        for subscriber in tuple(self._subscribers):
            try:
                subscriber.queue.put_nowait(message)
            except asyncio.QueueFull:
                self._subscribers.discard(subscriber)
                self.num_dropped_clients += 1
                subscriber.too_slow.set()

    def announce_run(self, run_id: str | None) -> None:
        """Tell everyone that another run is served. Any thread may call."""
        self.announce({"kind": "run", "run_id": run_id})

    def announce(self, message: dict[str, object]) -> None:
        """Tell everyone, and keep it for those who come back. Any thread may call."""

        def tell() -> None:
            self.notice = max(self.notice + 1, time.time_ns() // 1000)
            run_id = message.get("run_id") if message["kind"] == "run" else None
            body = notice_message(message, notice=self.notice)
            self._notices.append((self.notice, None if run_id is None else str(run_id), body))
            self.broadcast(body)

        self._on_loop(tell)

    def notices_after(self, notice: int) -> list[bytes]:
        """What was announced after this number, oldest first. On the event loop."""
        return [body for number, _, body in self._notices if number > notice]

    def announced_runs(self) -> set[str]:
        """The runs among the notices that are kept. On the event loop."""
        return {run_id for _, run_id, _ in self._notices if run_id is not None}

    def _run(self) -> None:
        while not self._stopping:
            try:
                reader = self._open()
                try:
                    self._follow(reader)
                finally:
                    reader.close()
            except StoreError as error:
                # Nothing is lost by waiting: what was committed meanwhile is read later, from the same place.
                if self._health.ail(PART, f"{error}; `/events` waits for it", blocks=False):
                    log_event(_LOG, logging.ERROR, "live.waiting", reason=error)
                with self._bell:
                    self._bell.wait_for(lambda: self._stopping, _RETRY_S)

    def _follow(self, reader: Reader) -> None:
        while reader.is_current():
            with self._bell:
                while self._newest_id <= self._at and not self._requests and not self._stopping:
                    self._bell.wait()
                if self._stopping:
                    return
                newest, requests, self._requests = self._newest_id, self._requests, []
            for model_id, rows, zones in requests:
                with self.thread.turn():
                    self._tell_of_requests(model_id, rows, zones)
            while self._at < newest and not self._stopping and reader.is_current():
                began_s, before = time.monotonic(), self._at
                with self.thread.turn():
                    self._at = self._advance_surely(reader, at=before, newest=newest)
                self._health.recover(PART)
                if self._subscribers and self._at - before >= TOKENS_A_MESSAGE:
                    self._pause(until_s=began_s + 1 / _FULL_MESSAGES_A_S)

    def _tell_of_requests(self, model_id: str, rows: pa.RecordBatch, zones: Mapping[str, SequenceZone]) -> None:
        try:
            for message in request_messages(model_id, rows, zones):
                self._deliver(message, cursor=None)
        except Exception as error:
            self.thread.survived(error, doing="request events were left out")

    def _pause(self, *, until_s: float) -> None:
        with self._bell:
            self._bell.wait_for(lambda: self._stopping, max(0.0, until_s - time.monotonic()))

    def _advance_surely(self, reader: Reader, *, at: int, newest: int) -> int:
        """Deliver the next tokens after `at`; one that cannot be shown is left out, and said."""
        try:
            return self._advance(reader, at=at, newest=newest, most=TOKENS_A_MESSAGE)
        except StoreError:
            raise
        except Exception as error:
            self.thread.survived(error, doing="tokens are read one by one")
        for _ in range(TOKENS_A_MESSAGE):
            if at >= newest or self._stopping:
                break
            try:
                at = self._advance(reader, at=at, newest=newest, most=1)
            except StoreError:
                raise
            except Exception:
                bad = reader.next_id(at)
                gap = {"kind": "gap", "cursor": bad, "skipped_after": at, "num_skipped": 1}
                self._deliver(msgspec.json.encode(gap), cursor=bad)
                at = bad
        return at

    def _advance(self, reader: Reader, *, at: int, newest: int, most: int) -> int:
        """Deliver at most so many of the next tokens after `at`; returns the new place."""
        if not self._subscribers:
            # A client may come just now: then the loop refuses the leap and the rows are read after all.
            return newest if self._leap(newest) else at
        if newest - at > MAX_LAG_TOKENS:
            gap = {"kind": "gap", "cursor": newest, "skipped_after": at, "num_skipped": newest - at}
            self._deliver(msgspec.json.encode(gap), cursor=newest)
            return newest
        tokens = reader.tokens_between(after_id=at, up_to_id=newest, limit=most)
        if not tokens:
            # Rows in between were deleted by hand: there is nothing to say, only to move on.
            self._on_loop(lambda: setattr(self, "cursor", newest))
            return newest
        for cursor, message in tokens_messages(tokens):
            self._deliver(message, cursor=cursor)
        return tokens[-1].id

    def _leap(self, newest: int) -> bool:
        leapt = False

        def leap() -> None:
            nonlocal leapt
            if not self._subscribers:
                self.cursor, leapt = newest, True

        return self._on_loop(leap) and leapt

    def _deliver(self, message: bytes, *, cursor: int | None) -> None:
        def deliver() -> None:
            self.broadcast(message)
            if cursor is not None:
                self.cursor = cursor

        self._on_loop(deliver)

    def _on_loop(self, action: Callable[[], None]) -> bool:
        """Run `action` on the event loop and wait for it, so that a busy loop paces this thread."""
        done = threading.Event()

        def run() -> None:
            action()
            done.set()

        if self._loop is None or self._loop.is_closed():
            return False
        self._loop.call_soon_threadsafe(run)
        while not done.wait(_LOOP_TIMEOUT_S):
            if self._stopping:
                return False
        return True
