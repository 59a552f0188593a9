"""What discovery published, as it is served: verified, its points memory-mapped, and swapped in one assignment.

A bundle that is missing, torn or of another version changes nothing: what is served stays, and `/discovery/status` and
`/health` say why.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_core import run_failure
from attn_core.bundle import LATEST, MANIFEST, Bundle, is_run_id, latest_run_id, open_bundle
from attn_core.classify import Classifier
from attn_core.errors import BundleError
from attn_core.run_failure import RunFailure
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import log_event, logger_named
from attn_sidecar.map.cluster_rows import Cluster, clusters_from_table
from attn_sidecar.map.points import PointMap
from attn_sidecar.service_thread import ServiceThread

_LOG = logger_named("discovery")
PART = "discovery"
POLL_S = 1.0

KEPT_RUNS = 2
"""Runs beside the served one that stay in memory after someone asked for them."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """One run, as every request sees it from beginning to end. Without a bundle: zones by the shipped formula."""

    classifier: Classifier
    bundle: Bundle | None
    clusters: list[Cluster]
    points: PointMap | None

    @property
    def num_points(self) -> int:
        """Points on the map."""
        return self.points.num_points if self.points is not None else 0

    @property
    def run_id(self) -> str | None:
        """The run served, None before the first."""
        return self.classifier.run_id


class RunUnknown(BundleError):
    """No run of this id is published here."""


def without_run() -> Served:
    """What is served before the first discovery run."""
    return Served(classifier=Classifier.without_run(), bundle=None, clusters=[], points=None)


def served_from_bundle(bundle: Bundle, *, privacy: bool = False) -> Served:
    """Load all that the sidecar serves from a verified bundle, in privacy mode without texts; raises `BundleError`."""
    try:
        classifier = Classifier.from_bundle(bundle)
        points = PointMap.load(bundle.path, run_id=bundle.run_id)
        if privacy:
            points = points.without_texts()
        clusters = clusters_from_table(bundle.table("clusters"))
    except BundleError:
        raise
    except Exception as error:
        # Whatever a table holds that none of ours does: the bundle is refused, and what is served stays.
        raise BundleError(
            f"bundle {bundle.run_id}: it cannot be served: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    return Served(classifier=classifier, bundle=bundle, clusters=clusters, points=points)


class Discovery:
    """Follows `latest` in the discovery folder. `served` is replaced whole: read it once a request."""

    def __init__(
        self,
        folder: Path,
        *,
        health: HealthBoard,
        on_swap: Callable[[str | None], None],
        on_failure: Callable[[RunFailure], None] = lambda _: None,
        privacy: bool = False,
    ) -> None:
        self.folder = folder
        self._privacy = privacy
        self.served = without_run()
        self.problem: str | None = None
        """Why the newest bundle is not the one served; None where all is well."""
        self._health = health
        self._on_swap = on_swap
        self._on_failure = on_failure
        self._failure_problem = ""
        self.failure: RunFailure | None = None
        """The discovery run that failed since the last one was published."""
        self._loading = threading.Lock()
        self._kept: OrderedDict[str, Served] = OrderedDict()
        self._keeping = threading.Lock()
        self._manifests: dict[str, tuple[int, Any]] = {}
        self._seen: tuple[str, int] | None = None
        self._stopping = threading.Event()
        self.thread = ServiceThread("attn-discovery", part="discovery", run=self._watch, health=health, blocks=False)

    def start(self) -> None:
        """Load what is there, then watch for more."""
        self.reload()
        # One that stood already was told by the sidecar before this one.
        self.failure = self._failure()
        self.thread.start()

    def stop(self) -> None:
        """End the watching thread."""
        self._stopping.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_S):
            with self.thread.turn():
                if self._latest() != self._seen:
                    self.reload()
                failure = self._failure()
                if failure != self.failure:
                    self.failure = failure
                    if failure is not None:
                        log_event(
                            _LOG, logging.ERROR, "discovery.run_failed", run_id=failure.run_id, stage=failure.stage
                        )
                        self._on_failure(failure)

    def _failure(self) -> RunFailure | None:
        try:
            return run_failure.told(self.folder)
        except BundleError as error:
            if str(error) != self._failure_problem:
                self._failure_problem = str(error)
                log_event(_LOG, logging.WARNING, "discovery.failure_unreadable", reason=error)
            return None

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
                served = served_from_bundle(open_bundle(self.folder / LATEST), privacy=self._privacy)
            except BundleError as error:
                self.problem = str(error)
                self._health.ail(
                    PART, f"{error}; still serving {self.served.run_id or 'zones without a run'}", blocks=False
                )
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

    def run(self, run_id: str) -> Served:
        """A published run of this folder, verified, the served one or another; raises `RunUnknown` or `BundleError`.

        Reads and checks files where the run is not in memory: not for the event loop.
        """
        served = self.served
        if served.run_id == run_id:
            return served
        if not is_run_id(run_id) or not (self.folder / run_id / MANIFEST).is_file():
            raise RunUnknown(f"no run {run_id} in {self.folder}")
        # One at a time: two who ask for the same large run read it once.
        with self._keeping:
            kept = self._kept.get(run_id)
            if kept is None:
                kept = self._kept[run_id] = served_from_bundle(open_bundle(self.folder / run_id), privacy=self._privacy)
            self._kept.move_to_end(run_id)
            while len(self._kept) > KEPT_RUNS:
                self._kept.popitem(last=False)
        return kept

    def published(self) -> dict[str, dict[str, Any]]:
        """The manifest of every run in the folder by run id, oldest first, read and not verified."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob(f"*/{MANIFEST}")):
            run_id = path.parent.name
            if path.parent.is_symlink() or not is_run_id(run_id):
                continue
            try:
                stamp = path.stat().st_mtime_ns
                held = self._manifests.get(run_id)
                if held is None or held[0] != stamp:
                    held = self._manifests[run_id] = (stamp, json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError):
                # Being removed, or damaged: `run` says so to whoever asks for it.
                continue
            if isinstance(held[1], dict):
                found[run_id] = {**held[1], "published_at_us": held[0] // 1000}
        return found
