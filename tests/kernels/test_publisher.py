"""The publisher against a real ZMQ ROUTER: nothing is lost, nothing blocks, what must be dropped is counted."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq
from conftest import Sink, free_port

from attn_core.wire import SourceInfo
from attn_kernels import publisher as publisher_module
from attn_kernels.link import Link
from attn_kernels.outbox import Limits
from attn_kernels.publisher import Publisher
from attn_kernels.publisher_metrics import Figures
from attn_kernels.rows import RequestEvent, StepRows
from attn_kernels.token_text import TokenTexts

INFO = SourceInfo(model_id="demo", captured_layers=(0, 1, 2, 3, 4, 5, 6, 7), num_heads=2)
FAST = Limits(batch_interval_s=0.01, ack_timeout_s=0.3, reconnect_interval_ms=10, reconnect_interval_max_ms=20)


@pytest.fixture
def address() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture
def sinks() -> Iterator[list[Sink]]:
    """Receivers that the test opened, closed at its end."""
    opened: list[Sink] = []
    yield opened
    for sink in opened:
        sink.close()


def publisher(address: str, *, privacy: bool = False, limits: Limits = FAST) -> Publisher:
    return Publisher(address=address, info=INFO, text_of=lambda token: f"<{token}>", privacy=privacy, limits=limits)


def step(number: int, *, requests: int = 2) -> StepRows:
    """Step `number` of some requests, the first of which asked for its attention."""
    vector = np.zeros((requests, 20), np.float32)
    vector[:, [0, 4]] = 1
    return StepRows(
        request_ids=[f"r{i}" for i in range(requests)],
        steps=[number] * requests,
        token_ids=[100 + number] * requests,
        asked=[i == 0 for i in range(requests)],
        captured_at_us=number,
        context_lens=[number + 1] * requests,
        vectors=vector,
        companions=np.full((requests, 4), 0.25, np.float32),
        topk_positions=np.array([[0, 1, -1]] * requests, np.int32),
        topk_probs=np.array([[0.5, 0.25, 0.0]] * requests, np.float32),
    )


def steps_of(sinks: list[Sink], request_id: str = "r0") -> set[int]:
    return {number for sink in sinks for number in sink.steps(request_id)}


def test_rows_arrive_as_they_were(address: str, sinks: list[Sink]) -> None:
    sinks.append(Sink(address))
    publishing = publisher(address)
    ids = [5, 6]
    publishing.put(
        RequestEvent(
            request_id="r0", event="started", at_us=1, prompt_len=2, prompt_token_ids=ids, sampling_params={"n": 1}
        )
    )
    publishing.put(step(1))
    publishing.put(RequestEvent(request_id="r0", event="ended", at_us=2, prompt_len=2, finish_reason="stop"))
    assert publishing.close(5)
    asked, silent = sinks[0].rows("fingerprints")
    assert (asked["token_id"], asked["token_text"], asked["context_len"]) == (101, "<101>", 2)
    assert (asked["topk_positions"], asked["topk_probs"], asked["residual_mass"]) == ([0, 1], [0.5, 0.25], 0.25)
    assert (silent["topk_positions"], silent["topk_probs"], silent["residual_mass"]) == (None, None, None)
    started, ended = sinks[0].rows("requests")
    assert (started["prompt_token_ids"], started["prompt_token_texts"]) == ([5, 6], ["<5>", "<6>"])
    assert started["sampling_params"] == '{"n": 1}'
    assert (ended["prompt_token_ids"], ended["finish_reason"]) == (None, "stop")
    assert [batch.seq for batch in sinks[0].batches] == list(range(len(sinks[0].batches)))


def test_privacy_leaves_out_ids_text_and_positions(address: str, sinks: list[Sink]) -> None:
    sinks.append(Sink(address))
    publishing = publisher(address, privacy=True)
    params = {"temperature": 0.5, "stop": ["secret"]}
    publishing.put(
        RequestEvent(
            request_id="r0",
            event="started",
            at_us=1,
            prompt_len=2,
            prompt_token_ids=[5, 6],
            prompt_spans="[]",
            sampling_params=params,
        )
    )
    publishing.put(step(1))
    assert publishing.close(5)
    for row in sinks[0].rows("fingerprints"):
        hidden = ("token_id", "token_text", "topk_positions", "topk_probs", "residual_mass")
        assert [row[name] for name in hidden] == [None] * 5
        assert row["vector"][0] == 1
    (started,) = sinks[0].rows("requests")
    assert [started[n] for n in ("prompt_token_ids", "prompt_token_texts", "prompt_spans")] == [None] * 3
    assert started["prompt_len"] == 2
    assert started["sampling_params"] == '{"temperature": 0.5}'


def test_what_was_never_acknowledged_is_sent_to_the_next_receiver(address: str, sinks: list[Sink]) -> None:
    """A receiver takes batches, commits nothing and dies; the one after it gets all of them, in order."""
    dying = Sink(address, acknowledge=False)
    publishing = publisher(address)
    for number in range(20):
        publishing.put(step(number))
    dying.wait(lambda: len(set(dying.steps("r0"))) == 20)
    dying.close()
    for number in range(20, 40):
        publishing.put(step(number))
    sinks.append(Sink(address))
    assert publishing.close(10)
    assert sinks[0].steps("r0") == sorted(sinks[0].steps("r0"))
    for request_id in ("r0", "r1"):
        assert steps_of(sinks, request_id) == set(range(40))
    assert publishing.dropped == 0


def test_a_receiver_killed_again_and_again_loses_nothing(address: str, sinks: list[Sink]) -> None:
    publishing = publisher(address)
    dead: list[Sink] = []
    for life in range(4):
        for number in range(life * 10, life * 10 + 10):
            publishing.put(step(number))
        receiver = Sink(address)
        receiver.wait(lambda receiver=receiver, life=life: life * 10 in receiver.steps("r0"))
        receiver.close()
        dead.append(receiver)
    sinks.append(Sink(address))
    assert publishing.close(10)
    assert steps_of([*dead, *sinks]) == set(range(40))


def test_acknowledgements_that_stay_away_make_it_send_again(address: str, sinks: list[Sink]) -> None:
    sinks.append(Sink(address, acknowledge=False))
    publishing = publisher(address)
    publishing.put(step(0))
    sinks[0].wait(lambda: len(sinks[0].steps("r0")) >= 3)
    assert not publishing.close(0.1)
    assert {batch.seq for batch in sinks[0].batches} == {0}


def test_without_a_receiver_the_oldest_are_dropped_and_counted(
    address: str, sinks: list[Sink], caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(batch_interval_s=0.01, batch_rows=2, memory_bytes=40_000, reconnect_interval_ms=10)
    publishing = publisher(address, limits=limits)
    numbers = itertools.count()
    with caplog.at_level(logging.ERROR):
        # Nobody receives: a `put` that waited for room would never come back.
        while publishing.dropped < 3:
            publishing.put(step(newest := next(numbers)))
        sinks.append(Sink(address))
        assert publishing.close(30)
    assert max(batch.info.dropped for batch in sinks[0].batches) > 0
    assert "batches of fingerprints lost so far" in caplog.text
    kept = steps_of(sinks)
    assert newest in kept
    assert 0 not in kept


def test_an_image_s_padding_ids_take_nothing_else_away(address: str, sinks: list[Sink]) -> None:
    """SGLang pads an image with a hash: a million and 62 random bits, no int32 and nobody's token."""
    sinks.append(Sink(address))
    publishing = publisher(address)
    padding = [5, 10**6 + (1 << 61), -3, 7]
    publishing.put(RequestEvent(request_id="image", event="started", at_us=1, prompt_len=4, prompt_token_ids=padding))
    publishing.put(RequestEvent(request_id="plain", event="started", at_us=2, prompt_len=1, prompt_token_ids=[6]))
    publishing.put(step(1))
    assert publishing.close(5)
    assert (publishing.dropped, publishing.figures().items_refused) == (0, 0)
    image, plain = sinks[0].rows("requests")
    assert image["prompt_token_ids"] == [5, -1, -1, 7]
    assert image["prompt_token_texts"] == ["<5>", "", "", "<7>"]
    assert plain["prompt_token_ids"] == [6]
    assert sinks[0].steps("r0") == [1]


def test_what_cannot_be_written_is_left_out_alone(
    address: str, sinks: list[Sink], caplog: pytest.LogCaptureFixture
) -> None:
    """One event with parameters that are no JSON, one row of a step without a request id: their neighbours arrive."""
    sinks.append(Sink(address))
    publishing = publisher(address)
    for name, params in (("a", {"n": 1}), ("odd", {"n": object()}), ("b", {"n": 2})):
        publishing.put(RequestEvent(request_id=name, event="started", at_us=1, prompt_len=1, sampling_params=params))
    publishing.put(replace(step(1, requests=3), request_ids=["r0", 17, "r2"]))
    assert publishing.close(5)
    assert [row["request_id"] for row in sinks[0].rows("requests")] == ["a", "b"]
    assert (sinks[0].steps("r0"), sinks[0].steps("r2")) == ([1], [1])
    assert publishing.figures().items_refused == 2
    assert "requests of request odd left out" in caplog.text
    assert "fingerprints of request 17 left out" in caplog.text


@pytest.mark.parametrize("error", [KeyError(1), IndexError("list"), AttributeError("decode"), RuntimeError("panicked")])
def test_a_tokenizer_that_raises_costs_texts_and_nothing_else(
    address: str, sinks: list[Sink], error: Exception
) -> None:
    class Odd:
        def decode(self, ids: list[int]) -> str:
            if ids == [101]:
                raise error
            return f"<{ids[0]}>"  # and no convert_ids_to_tokens, as SGLang's TiktokenTokenizer

    sinks.append(Sink(address))
    publishing = Publisher(address=address, info=INFO, text_of=TokenTexts(Odd()), limits=FAST)
    publishing.put(step(1, requests=1))
    publishing.put(step(2, requests=1))
    assert publishing.close(5)
    assert [row["token_text"] for row in sinks[0].rows("fingerprints")] == ["\ufffd", "<102>"]
    assert publishing.figures().errors == 0


def test_an_error_in_the_loop_is_counted_and_gone_on_after(
    address: str, sinks: list[Sink], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever raises there: here the first exchange with the sidecar, and the first connection that is made anew."""
    exchange, opened, raised = Link.exchange, Link.__init__, threading.Event()

    def broken_once(self: Link, *arguments: Any, **options: Any) -> None:
        if not raised.is_set():
            raised.set()
            raise RuntimeError("no such thing was foreseen")
        exchange(self, *arguments, **options)

    made = itertools.count()

    def refused_once(self: Link, *arguments: Any, **options: Any) -> None:
        if next(made) == 1:
            raise zmq.ZMQError(zmq.EMFILE)
        opened(self, *arguments, **options)

    monkeypatch.setattr(Link, "exchange", broken_once)
    monkeypatch.setattr(Link, "__init__", refused_once)
    sinks.append(Sink(address))
    publishing = publisher(address)
    publishing.put(step(1))
    sinks[0].wait(lambda: sinks[0].steps("r0") == [1])
    figures = publishing.figures()
    assert (figures.errors, figures.alive) == (2, True)
    assert "no such thing was foreseen" in caplog.text
    assert publishing.close(5)


def test_a_dead_or_stuck_thread_is_reported_from_the_scheduler_s(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Figures] = []
    monkeypatch.setattr(publisher_module, "_REPORT_INTERVAL_S", 0.0)
    monkeypatch.setattr(Publisher, "_serve", lambda self, context: None)  # ends at once
    publishing = Publisher(address=address, info=INFO, text_of=str, limits=FAST, report=told.append)
    publishing._thread.join(10)
    told.clear()
    publishing.put(step(1))
    assert [one.alive for one in told] == [False]
    assert "its thread has ended" in caplog.text

    held = threading.Event()
    monkeypatch.setattr(Publisher, "_serve", lambda self, context: held.wait(30))  # never comes round
    monkeypatch.setattr(publisher_module, "_STALLED_S", -1.0)
    stuck = Publisher(address=address, info=INFO, text_of=str, limits=FAST, report=told.append)
    told.clear()
    stuck.put(step(1))
    assert [one.alive for one in told] == [True]
    assert told[0].stalled_seconds >= 0
    assert "has not come round" in caplog.text
    held.set()
    stuck.close(1)


def test_a_full_queue_drops_and_counts(address: str) -> None:
    publishing = publisher(address, limits=Limits(queue_items=1, batch_interval_s=10, batch_rows=10**9))
    for number in range(50_000):
        publishing.put(step(number, requests=1))
    assert publishing.dropped > 0
    publishing.close(0.1)
