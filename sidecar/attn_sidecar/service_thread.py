"""A long-lived thread: what one item does to its loop is logged, counted and shown, and the loop goes on.

`/health` shows a fault for `FAULT_SHOWN_S`, `/metrics` counts it for good. A thread that has ended though nobody asked
it to, or that has been busy with one item for over `STUCK_S`, is shown for as long as that lasts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attn_core.errors import AttnError
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import logger_named

_LOG = logger_named("thread")
STUCK_S = 60.0
FAULT_SHOWN_S = 300.0
_FAULTS_LOGGED = 10
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 2.0


class ServiceThread:
    """Runs `run` until it returns; where it raises, after a pause that grows, again.

    `run` works in turns (`turn`). It keeps its state on its own object, so that running it again goes on where it was.
    """

    def __init__(self, name: str, *, part: str, run: Callable[[], None], health: HealthBoard, blocks: bool) -> None:
        """`part` is the part of the sidecar that it works for, `blocks` whether nothing can be stored without it."""
        self.name = name
        self.num_errors = 0
        """Faults since start."""
        self._run = run
        self.blocks = blocks
        self.part = part
        self._fault: tuple[float, str] | None = None
        self._stopping = threading.Event()
        self._pause_s = _FIRST_PAUSE_S
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        health.watch(self)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stopping(self) -> None:
        """It will be asked to end: its end is no fault, and a pause after a fault is cut short."""
        self._stopping.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for its end, if it was ever started."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around the work on one item: how long it takes is watched."""
        self._busy_since_s = time.monotonic()
        try:
            yield
        finally:
            self._busy_since_s = None
        self._pause_s = _FIRST_PAUSE_S

    def beat(self) -> None:
        """Still at work on the same item, as it should be: it waits for something that is shown elsewhere."""
        self._busy_since_s = time.monotonic()

    def survived(self, error: Exception, *, doing: str) -> None:
        """Log, count and show a fault of one item that the loop itself has dealt with."""
        self.num_errors += 1
        # Not the words of just any error: they may quote what was sent.
        said = f": {str(error)[:200]}" if isinstance(error, AttnError | OSError) else ""
        reason = f"{self.name}, {doing}: {type(error).__name__}{said}"
        self._fault = time.monotonic(), reason
        # A fault at every item must not fill the disk: after the first ones each time their number has doubled.
        if self.num_errors <= _FAULTS_LOGGED or self.num_errors & (self.num_errors - 1) == 0:
            fields = {"fields": {"thread": self.name, "reason": reason, "faults": self.num_errors}}
            _LOG.error("thread.fault", exc_info=error, extra=fields)

    def why_unwell(self) -> str | None:
        """Why it does no work though it should, or what it survived lately; None where all is well."""
        if self._thread.ident is not None and not self._thread.is_alive() and not self._stopping.is_set():
            return f"{self.name} has ended: restart the sidecar, its log says why"
        now_s, since_s, fault = time.monotonic(), self._busy_since_s, self._fault
        if since_s is not None and now_s - since_s > STUCK_S:
            return f"{self.name} has been busy with one item for {now_s - since_s:.0f} s"
        if fault is not None and now_s - fault[0] < FAULT_SHOWN_S:
            return f"{fault[1]} ({self.num_errors} since the start); the log says where"
        return None

    def _main(self) -> None:
        while True:
            try:
                self._run()
                # It has done what it was for.
                self._stopping.set()
                return
            except Exception as error:
                self.survived(error, doing="its loop was begun again")
            if self._stopping.wait(self._pause_s):
                return
            self._pause_s = min(2 * self._pause_s, _LAST_PAUSE_S)
