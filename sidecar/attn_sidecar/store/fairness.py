"""The queue in front of the writer: each source has a lane of its own, and the lanes take turns."""

from __future__ import annotations

from collections import OrderedDict, deque

from attn_sidecar.store.jobs import ArrivedBatch, PostedFingerprint

Job = ArrivedBatch | PostedFingerprint
_HTTP = b""
"""The lane of what comes over HTTP."""


class FairQueue:
    """Jobs in lanes. Within a lane the order of arrival holds; a source that floods delays only itself.

    Not safe between threads by itself: the writer's lock guards it.
    """

    def __init__(self) -> None:
        self._lanes: OrderedDict[bytes, deque[Job]] = OrderedDict()
        self.num_rows = 0

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def push(self, job: Job) -> None:
        """Put a job at the end of its source's lane."""
        lane = job.batch.source_id if isinstance(job, ArrivedBatch) else _HTTP
        self._lanes.setdefault(lane, deque()).append(job)
        self.num_rows += num_rows_of(job)

    def take(self, *, most_rows: int) -> list[Job]:
        """Jobs of at least `most_rows` rows together where so many wait, one from each lane in turn."""
        taken: list[Job] = []
        num_rows = 0
        while self._lanes and num_rows < most_rows:
            source, lane = self._lanes.popitem(last=False)
            job = lane.popleft()
            if lane:
                self._lanes[source] = lane
            taken.append(job)
            num_rows += num_rows_of(job)
        self.num_rows -= num_rows
        return taken


def num_rows_of(job: Job) -> int:
    """How many rows a job writes."""
    return job.batch.rows.num_rows if isinstance(job, ArrivedBatch) else 1
