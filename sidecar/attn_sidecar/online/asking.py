"""When an early run is asked for: bounds with hysteresis, and the file beside the bundles that says so.

Asked for once a run: the request stands until another run is served, or until what it was for has gone by itself. It
lies on disk, so that it outlives this process: who starts again finds it and does not ask twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from attn_core import early_run
from attn_core.early_run import DRIFT, NOVELTY, EarlyRun
from attn_core.errors import BundleError
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import log_event, logger_named
from attn_sidecar.online.bounds import Bounds
from attn_sidecar.online.departure import Interval

_LOG = logger_named("online")
PART = "online"
CLEARED_BELOW = 0.5
"""A request is taken back once both figures have fallen below this share of their bounds."""


def why_ask(*, novelty_excess: Interval | None, drift: Interval | None, bounds: Bounds) -> tuple[str, str] | None:
    """(reason, evidence) where a figure has passed its bound with its whole interval, else None."""
    if novelty_excess is not None and novelty_excess.low > bounds.novelty:
        return NOVELTY, (
            f"{novelty_excess.value:.3f} more of the points than expected belong to no cluster "
            f"({novelty_excess.low:.3f} to {novelty_excess.high:.3f}; bound {bounds.novelty})"
        )
    if drift is not None and drift.low > bounds.drift:
        return DRIFT, (
            f"the clusters' points have moved by {drift.value:.3f} of their radius "
            f"({drift.low:.3f} to {drift.high:.3f}; bound {bounds.drift})"
        )
    return None


def has_cleared(*, novelty_excess: Interval | None, drift: Interval | None, bounds: Bounds) -> bool:
    """Whether both figures lie well below their bounds; a figure that cannot be told clears nothing."""
    if novelty_excess is None or novelty_excess.value >= CLEARED_BELOW * bounds.novelty:
        return False
    return drift is None or drift.value < CLEARED_BELOW * bounds.drift


class Asker:
    """Keeps the request in the discovery folder as it should be. Used on one thread."""

    def __init__(
        self,
        folder: Path,
        *,
        health: HealthBoard,
        now_us: Callable[[], int],
        on_ask: Callable[[EarlyRun], None] = lambda _: None,
    ) -> None:
        self._on_ask = on_ask
        self._folder = folder
        self._health = health
        self._now_us = now_us
        self.standing: EarlyRun | None = None
        """The request that stands for the run that is served."""

    def serve(self, run_id: str) -> None:
        """Another run is served from here on: a request for an older one is done with, one for this one stands."""
        self.standing = None
        try:
            found = early_run.asked(self._folder)
        except BundleError as error:
            log_event(_LOG, logging.WARNING, "online.request_unreadable", reason=error)
            self._try(lambda: early_run.withdraw(self._folder))
            return
        if found is not None and found.run_id == run_id:
            self.standing = found
        elif found is not None:
            self._try(lambda: early_run.withdraw(self._folder))

    def judge(self, run_id: str, *, novelty_excess: Interval | None, drift: Interval | None, bounds: Bounds) -> None:
        """Ask, take back or leave it, by these figures of this run."""
        if self.standing is not None:
            if has_cleared(novelty_excess=novelty_excess, drift=drift, bounds=bounds) and self._try(
                lambda: early_run.withdraw(self._folder)
            ):
                log_event(_LOG, logging.INFO, "online.early_run_withdrawn", run_id=run_id)
                self.standing = None
            return
        why = why_ask(novelty_excess=novelty_excess, drift=drift, bounds=bounds)
        if why is None:
            return
        reason, evidence = why
        request = EarlyRun(run_id=run_id, reason=reason, evidence=evidence, asked_at_us=self._now_us())
        if self._try(lambda: early_run.ask(self._folder, request)):
            log_event(_LOG, logging.WARNING, "online.early_run_asked", run_id=run_id, reason=reason, evidence=evidence)
            self.standing = request
            self._on_ask(request)

    def _try(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except OSError as error:
            reason = (
                f"{self._folder} cannot be written, so no early run can be asked for: {error}; let the sidecar's user "
                "write there, or run without --online"
            )
            if self._health.ail(PART, reason, blocks=False):
                log_event(_LOG, logging.ERROR, "online.cannot_ask", reason=reason)
            return False
        self._health.recover(PART)
        return True
