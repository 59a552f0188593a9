"""What discovery published, as it is served: verified, loaded whole, and swapped in one assignment.

A bundle that is missing, torn or of another version changes nothing: what is served stays, and `/discovery/status` and
`/health` say why.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from attn_core.bundle import LATEST, MANIFEST, Bundle, latest_run_id, open_bundle
from attn_core.classify import Classifier
from attn_core.errors import BundleError
from attn_core.zones import ZONES
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import log_event, logger_named

_LOG = logger_named("discovery")
PART = "discovery"
POLL_S = 1.0

POINTS = pa.schema(
    [
        pa.field("x", pa.float32()),
        pa.field("y", pa.float32()),
        pa.field("cluster_id", pa.int32()),
        pa.field("zone", pa.dictionary(pa.int8(), pa.utf8())),
        pa.field("confidence", pa.float32()),
        pa.field("request_id", pa.utf8()),
        pa.field("step", pa.int32()),
        pa.field("token_text", pa.utf8()),
    ]
)
"""The columns of `GET /points`."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """One run, as every request sees it from beginning to end. Without a bundle: the zone rules."""

    classifier: Classifier
    bundle: Bundle | None
    clusters: list[dict[str, Any]]
    points: bytes
    """Arrow IPC stream of `POINTS`."""
    num_points: int

    @property
    def run_id(self) -> str | None:
        """The run served, None before the first."""
        return self.classifier.run_id


def rules_only() -> Served:
    """What is served before the first discovery run."""
    return Served(classifier=Classifier.rules(), bundle=None, clusters=[], points=b"", num_points=0)


def served_from_bundle(bundle: Bundle) -> Served:
    """Load all that the sidecar serves from a verified bundle; raises `BundleError`."""
    classifier = Classifier.from_bundle(bundle)
    try:
        points = _points_from_embeddings(bundle.table("embeddings"))
        clusters = bundle.table("clusters").to_pylist()
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise BundleError(f"bundle {bundle.run_id}: its tables cannot be served: {error}") from error
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, POINTS.with_metadata({"run_id": bundle.run_id})) as writer:
        writer.write_table(points)
    return Served(
        classifier=classifier,
        bundle=bundle,
        clusters=clusters,
        points=bytes(sink.getvalue()),
        num_points=points.num_rows,
    )


def _points_from_embeddings(embeddings: pa.Table) -> pa.Table:
    # One dictionary for the whole answer, in the order of ZONES, so that a zone's code is the same in every run.
    code_by_zone = {zone: code for code, zone in enumerate(ZONES)}
    codes = pa.array([code_by_zone[zone] for zone in embeddings.column("zone").to_pylist()], type=pa.int8())
    zone = pa.DictionaryArray.from_arrays(codes, pa.array(ZONES))
    columns = [zone if field.name == "zone" else embeddings.column(field.name).cast(field.type) for field in POINTS]
    return pa.Table.from_arrays(columns, schema=POINTS)


class Discovery:
    """Follows `latest` in the discovery folder. `served` is replaced whole: read it once a request."""

    def __init__(self, folder: Path, *, health: HealthBoard, on_swap: Callable[[str | None], None]) -> None:
        self.folder = folder
        self.served = rules_only()
        self.problem: str | None = None
        """Why the newest bundle is not the one served; None where all is well."""
        self._health = health
        self._on_swap = on_swap
        self._loading = threading.Lock()
        self._seen: tuple[str, int] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="attn-discovery", daemon=True)

    def start(self) -> None:
        """Load what is there, then watch for more."""
        self.reload()
        self._thread.start()

    def stop(self) -> None:
        """End the watching thread."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_S):
            if self._latest() != self._seen:
                self.reload()

    def _latest(self) -> tuple[str, int] | None:
        """Which bundle `latest` means, and whether its manifest was rewritten: a readlink and a stat."""
        run_id = latest_run_id(self.folder)
        if run_id is None:
            return None
        try:
            return run_id, (self.folder / LATEST / MANIFEST).stat().st_mtime_ns
        except OSError:
            return run_id, 0

    def reload(self) -> bool:
        """Verify and load `latest`, whichever it is now; whether it is the run served from here on."""
        with self._loading:
            self._seen = self._latest()
            if self._seen is None:
                # A vanished symlink is no reason to forget a run that was good.
                return self.served.bundle is not None
            try:
                served = served_from_bundle(open_bundle(self.folder / LATEST))
            except BundleError as error:
                self.problem = str(error)
                self._health.ail(PART, f"{error}; still serving {self.served.run_id or 'the zone rules'}", blocks=False)
                log_event(_LOG, logging.ERROR, "discovery.refused", reason=error, serving=self.served.run_id)
                return False
            changed = served.run_id != self.served.run_id
            self.served, self.problem = served, None
            self._health.recover(PART)
        if changed:
            num_clusters = len(served.clusters)
            log_event(_LOG, logging.INFO, "discovery.swapped", run_id=served.run_id, num_clusters=num_clusters)
            self._on_swap(served.run_id)
        return True
