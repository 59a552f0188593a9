"""``--attention-capture-budget``: what the capture costs, measured while it runs, and steps left out to keep it.

A bucket of seconds: work that is not ours pours its share in, the capture draws its own cost out. The first output
token of a request is always captured; requests that asked are while there is anything in the bucket; the others only
while it is more than half full. So the asking are thinned last, and over time the capture costs its share of the rest
(docs/decisions/0010-capture-budget.md).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from attn_kernels.sglang_plugin.plan import Plan

logger = logging.getLogger(__name__)

WINDOW_S = 10.0
"""The bucket holds the budget's share of this much work: so long may the capture run ahead of its budget."""
RESERVE = 0.5
"""Part of the bucket kept for requests that ask."""


class Stopwatch(Protocol):
    """Marks in time, whose distance may become known only later."""

    def mark(self) -> Any:
        """This moment."""
        ...

    def seconds(self, start: Any, end: Any) -> float | None:
        """Seconds between two marks, or None while they are not known yet. Never waits."""
        ...


class HostStopwatch:
    """The host's clock, for work that is done when a call returns."""

    def mark(self) -> float:
        """See `Stopwatch`."""
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        """See `Stopwatch`."""
        return end - start


class CudaStopwatch:
    """Events on the current stream, read when they have passed."""

    def mark(self) -> torch.cuda.Event:
        """See `Stopwatch`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float | None:
        """See `Stopwatch`."""
        return start.elapsed_time(end) / 1000 if end.query() else None


@dataclass(kw_only=True)
class _StepTimes:
    start: Any
    end: Any = None
    spans: list[list[Any]] = field(default_factory=list)
    whole: bool = True
    """Whether nothing was left out of it."""


class Budget:
    """Measures steps and thins their plans. `fraction` is the capture's time for each second of other work."""

    def __init__(self, *, fraction: float, stopwatch: Stopwatch) -> None:
        self._fraction = fraction
        self._stopwatch = stopwatch
        self._size_s = fraction * WINDOW_S
        self._level_s = self._size_s
        self._running: _StepTimes | None = None
        self._unread: deque[_StepTimes] = deque()
        self._whole_cost = 0.0
        self._quiet_s = WINDOW_S
        self._kept = self._seen = 0

    @property
    def is_thinning(self) -> bool:
        """Whether a step was thinned within the last `WINDOW_S` seconds of work."""
        return self._quiet_s < WINDOW_S

    def thinned(self, plan: Plan) -> Plan:
        """The plan with what the budget has no room for moved to its skipped rows."""
        self._read()
        first = [n == prompt for n, prompt in zip(plan.context_lens, plan.prompt_lens, strict=True)]
        for_asking = self._level_s > 0
        for_others = self._level_s > RESERVE * self._size_s
        left_out = [
            not is_first and not (for_asking if asked else for_others)
            for is_first, asked in zip(first, plan.asked, strict=True)
        ]
        if any(left_out):
            if not self.is_thinning:
                self._tell_begin()
            self._quiet_s = 0.0
        if self.is_thinning:
            self._seen += len(left_out)
            self._kept += len(left_out) - sum(left_out)
        return plan.without(left_out.__getitem__, thinned=self.is_thinning)

    def begin_step(self, plan: Plan) -> None:
        """A forward pass starts."""
        self._running = _StepTimes(start=self._stopwatch.mark(), whole=not plan.skipped)

    def begin_work(self) -> None:
        """The capture's own work starts, inside a step."""
        if self._running is not None:
            self._running.spans.append([self._stopwatch.mark(), None])

    def end_work(self) -> None:
        """The capture's own work rests, or is done."""
        if self._running is not None:
            self._running.spans[-1][1] = self._stopwatch.mark()

    def end_step(self) -> None:
        """The forward pass and its capture are done, or at least enqueued."""
        if self._running is not None:
            self._running.end = self._stopwatch.mark()
            self._unread.append(self._running)
            self._running = None

    def _read(self) -> None:
        """Count the steps whose times are known by now."""
        while self._unread:
            step = self._unread[0]
            total = self._stopwatch.seconds(step.start, step.end)
            spans = [self._stopwatch.seconds(start, end) for start, end in step.spans if end is not None]
            if total is None or any(span is None for span in spans):
                return
            self._unread.popleft()
            cost_s = sum(span for span in spans if span is not None)
            self._count(cost_s=cost_s, other_s=max(0.0, total - cost_s), whole=step.whole)

    def _count(self, *, cost_s: float, other_s: float, whole: bool) -> None:
        self._level_s = min(self._size_s, self._level_s + self._fraction * other_s - cost_s)
        if whole and cost_s > 0 and other_s > 0:
            self._whole_cost += 0.1 * (cost_s / other_s - self._whole_cost) if self._whole_cost else cost_s / other_s
        was_thinning = self.is_thinning
        self._quiet_s += other_s
        if was_thinning and not self.is_thinning:
            logger.info("Attention capture: thinning ended; %d of %d rows were kept.", self._kept, self._seen)
            self._kept = self._seen = 0

    def _tell_begin(self) -> None:
        logger.warning(
            "Attention capture: a whole step's capture costs %.1f%% of the step, the budget is %.1f%%: about %.0f%% of "
            "the steps are kept from now on, those of requests that ask first; tokens say sampled.",
            100 * self._whole_cost,
            100 * self._fraction,
            100 * min(1.0, self._fraction / self._whole_cost) if self._whole_cost else 100.0,
        )
