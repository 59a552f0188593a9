"""The composition root: which parts there are, who knows whom, and in which order they start and stop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from starlette.routing import Route, WebSocketRoute

from attn_core.classify import Classifier
from attn_sidecar import __version__
from attn_sidecar.api import (
    batch,
    classify,
    clusters,
    compare,
    discovery,
    fingerprint,
    health,
    metrics,
    points,
    requests,
    runs,
    stats,
)
from attn_sidecar.api import timeline as zones_timeline
from attn_sidecar.api.delivery import delivered
from attn_sidecar.api.endpoint import Endpoint
from attn_sidecar.api.events import Events
from attn_sidecar.api.explorer import Explorer
from attn_sidecar.api.openapi import openapi_document
from attn_sidecar.api.problems import HANDLERS
from attn_sidecar.api.quick import QuickApp
from attn_sidecar.classification import load_compiled_loops
from attn_sidecar.discovery import Discovery
from attn_sidecar.head_offers import HeadOffers
from attn_sidecar.health import HealthBoard
from attn_sidecar.http_door.door import Door
from attn_sidecar.http_door.prefix import prefixed
from attn_sidecar.http_times import HttpTimes
from attn_sidecar.ingest import Ingest
from attn_sidecar.live import LiveHub
from attn_sidecar.logs import log_event, logger_named
from attn_sidecar.online.follower import OnlineFollower
from attn_sidecar.settings import Settings
from attn_sidecar.store.integrity import IntegrityCheck
from attn_sidecar.store.jobs import ArrivedBatch, Committed
from attn_sidecar.store.reader import ReadPool
from attn_sidecar.store.retention import Retention
from attn_sidecar.store.writer import Writer
from attn_sidecar.zmq_door.guard import guard_for

_LOG = logger_named("app")
_SAY_AFTER_S = 2.0
STATIC_DIR = Path(__file__).parent / "static"
"""Where ``npm run build`` in ``ui/`` puts the explorer."""
_COMMIT_WITHIN_S = 1.5


def utc_now_us() -> int:
    """The present in UTC microseconds."""
    return time.time_ns() // 1000


class Sidecar:
    """All parts of one sidecar. `open` takes the database and the ZMQ address; `start` begins to work."""

    def __init__(self, settings: Settings, *, now_us: Callable[[], int] = utc_now_us) -> None:
        self.settings = settings
        self.now_us = now_us
        self.health = HealthBoard()
        self.live = LiveHub(
            settings.db, health=self.health, privacy=settings.privacy, classifier=self._served_classifier
        )
        self.discovery = Discovery(
            settings.discovery_dir,
            health=self.health,
            on_swap=self._on_swap,
            on_failure=lambda failure: self.live.announce({"kind": "failure", **asdict(failure)}),
            privacy=settings.privacy,
        )
        self.online = (
            OnlineFollower(
                lambda: self.discovery.served,
                folder=settings.discovery_dir,
                health=self.health,
                now_us=now_us,
                bounds=settings.online_bounds,
                on_ask=lambda request: self.live.announce({"kind": "drift", **asdict(request)}),
            )
            if settings.online
            else None
        )
        self.http_times = HttpTimes()
        self.readers = ReadPool(settings.db, privacy=settings.privacy, classifier=self._served_classifier)
        self.integrity = IntegrityCheck(settings.db, health=self.health)
        self.retention = Retention(hours=settings.retention_hours, max_db_bytes=settings.max_db_bytes, now_us=now_us)
        self.writer = Writer(
            settings.db,
            classifier=self._served_classifier,
            health=self.health,
            on_commit=self._on_commit,
            on_room=self._on_room,
            now_us=now_us,
            retention=self.retention,
        )
        self.ingest: Ingest | None = None
        self._is_open = False

    def _served_classifier(self) -> Classifier:
        return self.discovery.served.classifier

    def _on_commit(self, committed: Committed) -> None:
        self.live.committed(committed)
        if self.online is not None:
            self.online.committed(committed)

    def _on_swap(self, run_id: str | None) -> None:
        self.live.announce_run(run_id)
        if self.online is not None:
            self.online.run_swapped()

    def _on_room(self) -> None:
        if self.ingest is not None:
            self.ingest.ring()

    def _offer(self, job: ArrivedBatch) -> bool:
        return self.writer.offer(job)

    def open(self) -> None:
        """Open the database and bind ZMQ; raises `StoreError` or `AddressTaken`. Once is enough."""
        if self._is_open:
            return
        _load_classifier()
        self.writer.start()
        if self.settings.zmq_bind is not None:
            try:
                self.ingest = Ingest(
                    self.settings.zmq_bind,
                    offer=self._offer,
                    health=self.health,
                    guard=partial(guard_for, self.settings, health=self.health),
                    privacy=self.settings.privacy,
                    head_offers=HeadOffers(self.settings.discovery_dir),
                    now_us=self.now_us,
                )
            except BaseException:
                self.writer.stop(within_s=_COMMIT_WITHIN_S)
                raise
        self._is_open = True

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Load the served run, then take fingerprints in."""
        self.discovery.start()
        self.live.start(loop)
        self.integrity.start()
        if self.online is not None:
            self.online.start()
        if self.ingest is not None:
            self.ingest.start()

    def stop(self) -> None:
        """Take nothing more in, commit what waits, acknowledge it, end all threads. Not on the event loop."""
        if self.ingest is not None:
            self.ingest.stop_receiving()
        self.writer.stop(within_s=_COMMIT_WITHIN_S)
        if self.ingest is not None:
            self.ingest.close()
        self.discovery.stop()
        self.live.stop()
        self.integrity.stop()
        if self.online is not None:
            self.online.stop()
        self.readers.close()

    def endpoints(self) -> list[Endpoint]:
        """Every HTTP endpoint, over these parts."""
        return [
            *health.endpoints(self.health),
            *fingerprint.endpoints(self.writer, discovery=self.discovery, now_us=self.now_us),
            *classify.endpoints(self.discovery),
            *batch.endpoints(self.discovery, writer=self.writer, now_us=self.now_us),
            *discovery.endpoints(self.discovery),
            *stats.endpoints(
                readers=self.readers,
                discovery=self.discovery,
                writer=self.writer,
                live=self.live,
                ingest=lambda: self.ingest,
                online=self.online,
            ),
            *metrics.endpoints(
                metrics.Parts(
                    db=self.settings.db,
                    health=self.health,
                    discovery=self.discovery,
                    writer=self.writer,
                    live=self.live,
                    http=self.http_times,
                    ingest=lambda: self.ingest,
                    online=self.online,
                )
            ),
            *requests.endpoints(self.readers),
            *points.endpoints(self.discovery),
            *clusters.endpoints(self.discovery, readers=self.readers),
            *runs.endpoints(self.discovery, readers=self.readers),
            *zones_timeline.endpoints(self.readers),
            *compare.endpoints(self.discovery, readers=self.readers),
        ]


def _load_classifier() -> None:
    """Load the classifier's machine code; where it has to be made first, say so instead of seeming to hang."""
    note = "compiling the classifier: about 10 s, once after an installation or an update"
    late = threading.Timer(_SAY_AFTER_S, log_event, (_LOG, logging.INFO, "classifier.compiling"), {"note": note})
    late.daemon = True
    late.start()
    try:
        load_compiled_loops()
    finally:
        late.cancel()


def create_app(sidecar: Sidecar, *, static_dir: Path = STATIC_DIR) -> FastAPI:
    """The ASGI application of this sidecar; its lifespan starts and stops it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sidecar.open()
        sidecar.start(asyncio.get_running_loop())
        try:
            yield
        finally:
            await asyncio.to_thread(sidecar.stop)

    app = QuickApp(title="Attention Explorer sidecar", version=__version__, lifespan=lifespan)
    endpoints = sidecar.endpoints()
    events = Events(live=sidecar.live, readers=sidecar.readers, discovery=sidecar.discovery)
    prefix = sidecar.settings.root_path
    app.stand_behind(lambda inside: prefixed(sidecar.http_times.around(Door(sidecar.settings, inside)), prefix=prefix))
    app.go_around({e.path: e.quick for e in endpoints if e.quick is not None})
    # Plain Starlette routes: FastAPI's own would spend more on arguments than a classification costs.
    app.router.routes.extend(Route(e.path, delivered(e.handler), methods=[e.method]) for e in endpoints)
    sidecar.http_times.know({r.endpoint: r.path for r in app.router.routes if isinstance(r, Route)})
    app.router.routes.append(WebSocketRoute("/events", events.serve))
    app.router.redirect_slashes = False
    app.router.default = Explorer(static_dir)
    app.openapi = lambda: openapi_document(endpoints, root_path=prefix)  # type: ignore[method-assign]
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app
