"""The journal of requests: whatever started ends once, by whichever of SGLang's ways out it leaves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from attn_kernels.rows import RequestEvent

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # SGLang's and torch's own, at their import
    from attn_kernels.sglang_plugin import scheduler
    from attn_kernels.sglang_plugin.committed import Journal


class Request(SimpleNamespace):
    """What the journal reads of SGLang's `Req`."""

    def finished(self) -> bool:
        return self.finished_reason is not None

    def finish(self, kind: str) -> None:
        self.finished_reason = SimpleNamespace(to_json=lambda: {"type": kind})


def request(rid: str = "r") -> Request:
    params = SimpleNamespace(custom_params=None, stop_strs=None, temperature=1.0)
    return Request(
        rid=rid,
        origin_input_ids=[1, 2, 3],
        output_ids_through_stop=[4, 5],
        sampling_params=params,
        finished_reason=None,
    )


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RequestEvent]]:
    """What reached the publisher, through the journal that the hooks find."""
    events: list[RequestEvent] = []
    journal: Any = Journal(SimpleNamespace(put=events.append))  # type: ignore[arg-type]
    monkeypatch.setattr(Journal, "current", journal)
    return events


def started(req: Request) -> None:
    assert Journal.current is not None
    Journal.current.started(req)


def told(events: list[RequestEvent]) -> list[tuple[str, str | None]]:
    return [(event.event, event.finish_reason) for event in events]


def test_a_request_that_finishes_in_a_step_ends_once(put: list[RequestEvent]) -> None:
    req = request()
    started(req)
    scheduler.after_stream_output(None, None, [req], False)
    req.finish("stop")
    for _ in range(2):  # the overlap scheduler streams a finished request's batch once more
        scheduler.after_stream_output(None, None, [req], False)
    assert told(put) == [("started", None), ("ended", "stop")]
    assert put[1].num_output_tokens == 2


def test_a_started_request_that_is_given_up_while_it_waits_ends_as_aborted(put: list[RequestEvent]) -> None:
    """Taken back for want of room and then aborted, in the queue or between two chunks of its second prefill."""
    req = request()
    started(req)
    scheduler.after_send_abort_output(None, None, SimpleNamespace(rid="r"), req)
    req.finish("abort")
    scheduler.after_stream_output(None, None, [req], False)
    assert told(put) == [("started", None), ("ended", "abort")]


def test_what_never_started_never_ends(put: list[RequestEvent]) -> None:
    req = request()
    scheduler.after_send_abort_output(None, None, SimpleNamespace(rid="r"), req)
    req.finish("length")
    scheduler.after_stream_output(None, None, [req], False)
    assert put == []
