"""Progress of a run: one state, told to the console as lines and to WebSocket listeners as JSON.

A message on the socket is one JSON object:

| field     | meaning                                                                                |
|-----------|----------------------------------------------------------------------------------------|
| run_id    | the run                                                                                |
| stage     | asset in hand, then `published`, `failed` or `interrupted`                             |
| done      | rows of the stage that are done                                                        |
| total     | rows of the stage; 0 while unknown                                                     |
| percent   | 100 done / total; 0 while unknown                                                      |
| rows_per_s | rows of the stage that are done in a second; null while unknown                       |
| eta_s     | seconds until the stage is done at that rate; null while unknown                       |
| rss_bytes | memory of the process in RAM                                                           |
| peak_rss_bytes | the most it had so far                                                            |
| message   | why it failed; else null                                                               |
| result    | what was published: path, num_fingerprints, num_clusters, noise_share, metrics; else null |

docs/discovery.md has it as a JSON schema.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TextIO

from attn_assets.defs.resources import Progress
from attn_assets.measure import peak_bytes, resident_bytes

LINE_INTERVAL_S = 1.0
HEARTBEAT_S = 2.0
QUIET_S = 10.0
"""The console hears from a stage at least this often."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What a listener is told; the fields are those of the table above."""

    run_id: str
    stage: str = "starting"
    done: int = 0
    total: int = 0
    percent: float = 0.0
    rows_per_s: float | None = None
    eta_s: float | None = None
    rss_bytes: int = 0
    peak_rss_bytes: int = 0
    message: str | None = None
    result: Mapping[str, object] | None = None

    def to_dict(self) -> dict[str, object]:
        """As JSON wants it."""
        return asdict(self)


class LiveProgress(Progress):
    """Keeps the state and passes each change on; lines go to `stream`, events to `listener`."""

    def __init__(
        self, run_id: str, *, stream: TextIO | None = None, listener: Callable[[Event], None] | None = None
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._listener = listener
        self._lock = threading.Lock()
        self._event = Event(run_id=run_id)
        self._stage_started = time.monotonic()
        self._first_done = 0
        self._line_at = 0.0
        self._stop = threading.Event()
        self._publishing = threading.Lock()
        threading.Thread(target=self._beat, name="progress", daemon=True).start()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce the stage, and how long it took."""
        self.report(name, 0, 0)
        started = time.monotonic()
        yield
        self._line(f"{name:18s} done in {time.monotonic() - started:.1f} s")

    def report(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` rows of the stage."""
        now = time.monotonic()
        with self._lock:
            fresh = stage != self._event.stage
            if fresh:
                self._stage_started, self._first_done = now, done
            moved, spent = done - self._first_done, now - self._stage_started
            known = moved > 0 and total > 0 and spent > 0
            rows_per_s = round(moved / spent, 1) if known else None
            eta_s = round(spent * (total - done) / moved, 1) if known else None
            percent = round(100.0 * done / total, 1) if total else 0.0
            self._event = replace(
                self._event, stage=stage, done=done, total=total, percent=percent, eta_s=eta_s,
                rows_per_s=rows_per_s, rss_bytes=resident_bytes(), peak_rss_bytes=peak_bytes(),
            )  # fmt: skip
            event = self._event
            speak = fresh or now - self._line_at >= LINE_INTERVAL_S
        if speak:
            self._say(event)
        self._tell(event)

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Held off by `forbid_publishing`."""
        with self._publishing:
            yield

    def forbid_publishing(self) -> None:
        """From now on nothing is published: a thread that comes to it waits until the process ends.

        Waits for a publication in hand, so that who asks afterwards whether the run is published hears the truth.
        """
        self._publishing.acquire()

    def end(self, stage: str, *, message: str | None = None, result: Mapping[str, object] | None = None) -> None:
        """The last word: `published` with its result, `failed` with why, or `interrupted`."""
        self._stop.set()
        with self._lock:
            done = self._event.total if stage == "published" else self._event.done
            percent = 100.0 if stage == "published" else self._event.percent
            self._event = replace(
                self._event, stage=stage, done=done, percent=percent, eta_s=None, rows_per_s=None,
                rss_bytes=resident_bytes(), peak_rss_bytes=peak_bytes(), message=message, result=result,
            )  # fmt: skip
            event = self._event
        self._tell(event)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with self._lock:
                self._event = replace(self._event, rss_bytes=resident_bytes(), peak_rss_bytes=peak_bytes())
                event, quiet = self._event, time.monotonic() - self._line_at >= QUIET_S
            self._tell(event)
            if quiet:
                self._say(event)

    def _tell(self, event: Event) -> None:
        if self._listener is not None:
            self._listener(event)

    def _say(self, event: Event) -> None:
        rate = f", {event.rows_per_s:,.0f} a s" if event.rows_per_s else ""
        of = f"{event.percent:5.1f}%  {event.done:,} of {event.total:,} rows" if event.total else "..."
        left = f", {event.eta_s:.0f} s left" if event.eta_s is not None and event.done < event.total else ""
        self._line(f"{event.stage:18s} {of}{rate}{left}  ({event.rss_bytes / 1e6:,.0f} MB)")

    def _line(self, text: str) -> None:
        self._line_at = time.monotonic()
        print(text, file=self._stream, flush=True)
