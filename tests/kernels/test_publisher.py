"""The publisher against a real ZMQ ROUTER: nothing is lost, nothing blocks, what must be dropped is counted."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import Sink, free_port

from attn_core.wire import SourceInfo
from attn_kernels.outbox import Limits
from attn_kernels.publisher import Publisher
from attn_kernels.rows import RequestEvent, StepRows

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
    slowest_s = 0.0
    with caplog.at_level(logging.ERROR):
        while publishing.dropped < 3:
            begin = time.perf_counter()
            publishing.put(step(newest := next(numbers)))
            slowest_s = max(slowest_s, time.perf_counter() - begin)
        sinks.append(Sink(address))
        assert publishing.close(30)
    assert slowest_s < 0.5
    assert max(batch.info.dropped for batch in sinks[0].batches) > 0
    assert "batches of fingerprints lost so far" in caplog.text
    kept = steps_of(sinks)
    assert newest in kept
    assert 0 not in kept


def test_a_batch_that_cannot_be_written_is_dropped_alone(address: str, sinks: list[Sink]) -> None:
    sinks.append(Sink(address))
    publishing = publisher(address)
    odd = [1 << 40]
    publishing.put(RequestEvent(request_id="odd", event="started", at_us=1, prompt_len=1, prompt_token_ids=odd))
    publishing.put(step(1))
    assert publishing.close(5)
    assert publishing.dropped == 1
    assert sinks[0].steps("r0") == [1]


def test_a_full_queue_drops_and_counts(address: str) -> None:
    publishing = publisher(address, limits=Limits(queue_items=1, batch_interval_s=10, batch_rows=10**9))
    for number in range(50_000):
        publishing.put(step(number, requests=1))
    assert publishing.dropped > 0
    publishing.close(0.1)
