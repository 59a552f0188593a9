"""How the publisher does, as figures, and as Prometheus metrics beside SGLang's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PREFIX = "attention_capture_"
COUNTERS = {
    "rows": "Output tokens and request events published.",
    "batches_sent": "Batches sent to the sidecar, repeats included.",
    "batches_acknowledged": "Batches that the sidecar has committed.",
    "batches_dropped": "Batches lost: beyond the bounds, refused, or not writable.",
    "items_refused": "Steps and request events that could not be written, each left out alone.",
    "errors": "Errors that the publisher's thread went on after.",
    "head_projections_taken": "Head projections that the sidecar offered and that are used since.",
    "head_projections_refused": "Head projections that the sidecar offered and that do not fit or cannot be kept.",
}
GAUGES = {
    "queue_items": "Steps and request events that the publisher has not looked at yet.",
    "memory_batches": "Unacknowledged batches in memory.",
    "memory_bytes": "Bytes of unacknowledged batches in memory.",
    "spool_batches": "Unacknowledged batches on disk.",
    "spool_bytes": "Bytes of the spool's files.",
    "last_acknowledgement_seconds": "Seconds since the sidecar last acknowledged something, or since the start.",
    "connected": "1 while there is a connection to the sidecar.",
    "alive": "1 while the publisher's thread runs; 0: nothing is published, restart the server and see its log.",
    "stalled_seconds": "Seconds since the publisher's thread last came round its loop; below 1 is usual.",
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How the publisher does, counted since its start."""

    rows: int
    """Tokens and request events made into batches."""
    batches_sent: int
    """Repeats included."""
    batches_acknowledged: int
    batches_dropped: int
    items_refused: int
    errors: int
    head_projections_taken: int
    head_projections_refused: int
    queue_items: int
    memory_batches: int
    memory_bytes: int
    spool_batches: int
    spool_bytes: int
    last_acknowledgement_seconds: float
    """Seconds since the sidecar last acknowledged something, or since the start."""
    connected: bool
    alive: bool
    stalled_seconds: float


class PublisherMetrics:
    """Sets Prometheus metrics from figures; made once a process, where SGLang serves ``/metrics``.

    `labels` are those of SGLang's own scheduler metrics, so that ranks can be told apart.
    """

    def __init__(self, *, labels: Mapping[str, Any], registry: CollectorRegistry | None = None) -> None:
        # Imported here: prometheus_client looks at PROMETHEUS_MULTIPROC_DIR, which SGLang sets, when it is imported.
        from prometheus_client import REGISTRY, Counter, Gauge

        names, where = list(labels), registry or REGISTRY
        self._counted = dict.fromkeys(COUNTERS, 0)
        self._counters = {
            name: Counter(f"{PREFIX}{name}", text, names, registry=where).labels(**labels)
            for name, text in COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(f"{PREFIX}{name}", text, names, registry=where, multiprocess_mode="mostrecent").labels(**labels)
            for name, text in GAUGES.items()
        }

    def __call__(self, figures: Figures) -> None:
        """Take these figures over."""
        for name, counter in self._counters.items():
            now = getattr(figures, name)
            counter.inc(now - self._counted[name])
            self._counted[name] = now
        for name, gauge in self._gauges.items():
            gauge.set(getattr(figures, name))
