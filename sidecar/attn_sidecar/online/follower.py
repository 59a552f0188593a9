"""The thread that follows commits: it takes points in, keeps the figures, and asks for an early run.

Ingest never waits for it. It rests nineteen times as long as it works, and takes an even sample of what came
meanwhile; what it leaves out is counted.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_core.baseline import FILE_NAME, Baseline, baseline_from_answers
from attn_core.classify import Classifier
from attn_core.early_run import EarlyRun
from attn_core.errors import BundleError
from attn_core.features import NUM_FEATURES
from attn_core.wire import vectors_from_rows
from attn_sidecar.discovery import Served
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import log_event, logger_named
from attn_sidecar.online.asking import Asker
from attn_sidecar.online.bounds import Bounds
from attn_sidecar.online.departure import MIN_GROUPS, NUM_GROUPS, Departure, Interval
from attn_sidecar.online.figures import OnlineFigures
from attn_sidecar.online.followed import FollowedCentres
from attn_sidecar.service_thread import ServiceThread
from attn_sidecar.store.jobs import Committed

_LOG = logger_named("online")
MAX_POINTS_A_TURN = 1024
MAX_POINTS_WAITING = 16_384
REST_PER_WORK = 19.0


class _Run:
    """What is kept of one run."""

    def __init__(self, served: Served | None) -> None:
        self.run_id = served.run_id if served else None
        self.baseline_missing: str | None = "no discovery run is served"
        baseline = baseline_from_answers(np.zeros((0, NUM_FEATURES)), np.zeros(0, int), cluster_ids=np.zeros(0, int))
        if served is not None and served.bundle is not None:
            ids = served.classifier.arrays.cluster_ids
            empty = baseline_from_answers(np.zeros((0, NUM_FEATURES)), np.zeros(0, int), cluster_ids=ids)
            baseline, self.baseline_missing = _baseline_of(served, empty)
        self.departure = Departure(baseline)
        self.followed = FollowedCentres(baseline)
        self.classifier = served.classifier if served else Classifier.without_run()
        self.num_points = 0
        self.num_passed_over = 0


def _baseline_of(served: Served, empty: Baseline) -> tuple[Baseline, str | None]:
    assert served.bundle is not None
    if FILE_NAME not in served.bundle.manifest["files"]:
        return empty, f"run {served.run_id} has no {FILE_NAME}: it was published by an older version"
    try:
        return Baseline.load(served.bundle.path / FILE_NAME), None
    except BundleError as error:
        return empty, str(error)


class OnlineFollower:
    """`committed` is called on the writing thread and returns at once; `figures` may be read from any thread."""

    def __init__(
        self,
        served: Callable[[], Served],
        *,
        folder: Path,
        health: HealthBoard,
        now_us: Callable[[], int],
        bounds: Bounds | None = None,
        on_ask: Callable[[EarlyRun], None] = lambda _: None,
    ) -> None:
        self._served = served
        self._bounds = bounds or Bounds()
        self._health = health
        self._asker = Asker(folder, health=health, now_us=now_us, on_ask=on_ask)
        self._changed = threading.Condition()
        self._waiting: list[Committed] = []
        self._num_waiting = 0
        self._num_passed_over = 0
        self._stopping = False
        self._run = _Run(None)
        self._figures = self._look()
        self.thread = ServiceThread("attn-online", part="online", run=self._follow, health=health, blocks=False)

    def start(self) -> None:
        """Begin to follow."""
        self.thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self.thread.join()

    def run_swapped(self) -> None:
        """Another run is served: wake up, so that the figures begin anew. Any thread may call."""
        with self._changed:
            self._changed.notify()

    def committed(self, commit: Committed) -> None:
        """Take note of one commit."""
        count = sum(rows.num_rows for _, rows, _ in commit.tokens)
        if commit.run_id is None or not count:
            return
        with self._changed:
            if self._num_waiting and self._num_waiting + count > MAX_POINTS_WAITING:
                self._num_passed_over += count
                return
            self._waiting.append(commit)
            self._num_waiting += count
            self._changed.notify()

    def figures(self) -> OnlineFigures:
        """The figures as of the last look."""
        return self._figures

    def _follow(self) -> None:
        rest_until_s = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                self._changed.wait_for(lambda: self._stopping, max(0.0, rest_until_s - time.monotonic()))
                if self._stopping:
                    return
                commits, self._waiting, self._num_waiting = self._waiting, [], 0
                passed_over, self._num_passed_over = self._num_passed_over, 0
            began_s = time.monotonic()
            with self.thread.turn():
                self._take(commits, passed_over=passed_over)
            ended_s = time.monotonic()
            rest_until_s = ended_s + REST_PER_WORK * (ended_s - began_s)

    def _has_work(self) -> bool:
        return self._stopping or bool(self._waiting) or self._served().run_id != self._run.run_id

    def _take(self, commits: list[Committed], *, passed_over: int) -> None:
        served = self._served()
        if served.run_id != self._run.run_id:
            self._run = _Run(served)
            passed_over = 0
            if served.run_id is not None:
                self._asker.serve(served.run_id)
            if self._run.baseline_missing:
                log_event(_LOG, logging.WARNING, "online.not_judged", reason=self._run.baseline_missing)
        run = self._run
        parts = [
            (model_id, rows, classified.cluster_id)
            for commit in commits
            if commit.run_id == run.run_id
            for model_id, rows, classified in commit.tokens
        ]
        run.num_passed_over += passed_over
        if parts:
            self._take_points(run, parts)
            if self._why_not_judged() is None and run.run_id is not None:
                departure = run.departure
                self._asker.judge(
                    run.run_id, novelty_excess=departure.novelty_excess(), drift=departure.drift(), bounds=self._bounds
                )
        self._figures = self._look()

    def _take_points(self, run: _Run, parts: list[tuple[str, pa.RecordBatch, npt.NDArray[np.int32]]]) -> None:
        total = sum(rows.num_rows for _, rows, _ in parts)
        stride = -(-total // MAX_POINTS_A_TURN)
        keep = 0.5 ** (-(-total // stride) / self._bounds.half_life_points)
        run.departure.forget(keep)
        run.followed.forget(keep)
        begin = 0
        for model_id, rows, cluster_ids in parts:
            chosen = np.arange(begin, rows.num_rows, stride)
            # The stride goes on over the borders of batches, so that small ones are not favoured.
            begin = (begin - rows.num_rows) % stride
            if not len(chosen):
                run.num_passed_over += rows.num_rows
                continue
            rows_taken = rows.take(pa.array(chosen))
            averages = run.classifier.averages(
                # A copy, as for classifying: Numba compiles anew for arrays that cannot be written to.
                vectors_from_rows(rows_taken).copy(),
                context_len=rows_taken.column("context_len").to_numpy(zero_copy_only=False),
                sink_mass=rows_taken.column("sink_mass").to_numpy(zero_copy_only=False),
                model_id=model_id,
            )
            ids = cluster_ids[chosen].astype(np.int64)
            run.departure.take(averages, cluster_ids=ids, group=groups_of(rows_taken.column("request_id")))
            run.followed.take(averages, cluster_ids=ids)
            run.num_points += len(chosen)
            run.num_passed_over += rows.num_rows - len(chosen)

    def _why_not_judged(self) -> str | None:
        run = self._run
        if run.baseline_missing:
            return run.baseline_missing
        if run.num_points < self._bounds.min_points:
            return f"{run.num_points} of the {self._bounds.min_points} points that are needed have come"
        if run.departure.num_groups < MIN_GROUPS:
            return "the points come from too few requests to tell chance from change"
        return None

    def _look(self) -> OnlineFigures:
        run, departure, standing = self._run, self._run.departure, self._asker.standing
        excess = departure.novelty_excess()
        drift = departure.drift()
        return OnlineFigures(
            run_id=run.run_id,
            num_points=run.num_points,
            num_passed_over=run.num_passed_over,
            novelty=_rounded(departure.novelty()),
            novelty_expected=_rounded(departure.expected_novelty()),
            novelty_excess=_rounded(excess.value if excess else None),
            novelty_excess_interval=_ends(excess),
            novelty_bound=self._bounds.novelty,
            drift=_rounded(drift.value if drift else None),
            drift_interval=_ends(drift),
            drift_bound=self._bounds.drift,
            followed_shift=_rounded(run.followed.shift()),
            half_life_points=self._bounds.half_life_points,
            min_points=self._bounds.min_points,
            not_judged=self._why_not_judged(),
            early_run_asked_at_us=standing.asked_at_us if standing else None,
            early_run_reason=standing.reason if standing else None,
        )


def groups_of(request_ids: pa.Array) -> npt.NDArray[np.int64]:
    """[m], the group of each point's request: the same for all its tokens, whenever they come."""
    encoded = request_ids.dictionary_encode()
    of_each = np.array([zlib.crc32(text.encode()) % NUM_GROUPS for text in encoded.dictionary.to_pylist()], np.int64)
    groups: npt.NDArray[np.int64] = of_each[encoded.indices.to_numpy(zero_copy_only=False)]
    return groups


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (round(interval.low, 4), round(interval.high, 4))
