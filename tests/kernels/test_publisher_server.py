"""The publisher inside the real server: its figures in SGLang's /metrics, and an end for every start."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import Server, Sink, free_port, launch, make_model, stop, wait_until_ready

LONG = "Here is a long list: " + ", ".join(f"thing {i}" for i in range(150)) + ". "


def published(server: Server) -> dict[str, float]:
    """Our metrics as /metrics gives them, by name without prefix and labels."""
    lines = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith("attention_capture_")]
    return {line.partition("{")[0].removeprefix("attention_capture_"): float(line.rpartition(" ")[2]) for line in lines}


def test_figures_are_in_sglangs_own_metrics(server: Server, sink: Sink) -> None:
    before = published(server).get("rows_total", 0.0)
    answer = server.chat("What is 2+2?", max_tokens=8, ignore_eos=True)
    sink.ended(answer["id"])
    give_up_at = time.monotonic() + 60
    found = published(server)
    while found["rows_total"] < before + 10:  # a start, eight tokens, an end; the figures are set once a second
        assert time.monotonic() < give_up_at, found
        found = published(server)
    assert found["batches_sent_total"] >= found["batches_acknowledged_total"] > 0
    assert found["batches_dropped_total"] == 0
    assert found["connected"] == 1
    assert found["last_acknowledgement_seconds"] < 600
    gauges = {"queue_items", "memory_batches", "memory_bytes", "spool_batches", "spool_bytes"}
    assert gauges <= found.keys()


def test_every_start_gets_an_end_however_the_request_ends(server: Server, sink: Sink) -> None:
    """Aborted all at once: while decoding, between two chunks of a prefill, taken back, or before anything was done."""

    def ask(i: int) -> None:
        sampling = {"max_new_tokens": 500, "ignore_eos": True}
        with httpx.Client(base_url=server.client.base_url, timeout=300) as client:
            client.post("/generate", json={"text": LONG + str(i), "rid": f"to-abort-{i}", "sampling_params": sampling})

    def ours(event: str) -> set[str]:
        rows = sink.rows("requests")
        return {r["request_id"] for r in rows if r["event"] == event and r["request_id"].startswith("to-abort-")}

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, i) for i in range(6)]
        sink.wait(lambda: len(ours("started")) >= 2, 120)
        assert server.client.post("/abort_request", json={"abort_all": True}).status_code == 200
        for one in asked:
            one.result()
    last = server.chat("And now?", max_tokens=2)  # what the scheduler said before this is published before it
    sink.ended(last["id"])
    assert ours("started") == ours("ended")
    ended = [r for r in sink.rows("requests") if r["event"] == "ended" and r["request_id"].startswith("to-abort-")]
    assert len(ended) == len(ours("ended"))
    assert {r["finish_reason"] for r in ended} == {"abort"}
    for row in ended:
        steps = sink.steps(row["request_id"])
        assert steps == list(range(len(steps)))


def test_server_info_says_that_the_publisher_runs(server: Server) -> None:
    (state,) = server.client.get("/server_info").json()["internal_states"]
    assert (state["attention_tokens"]["publisher"], state["attention_tokens"]["alive"]) == ("running", True)
    assert {"rows", "batches_dropped", "connected", "queue_items"} <= state["attention_tokens"].keys()


def test_a_stock_server_s_info_has_nothing_of_it(stock_server: Server) -> None:
    assert "attention_tokens" not in stock_server.client.get("/server_info").text


FAULTY = """
import threading
run = threading.Thread.run
def faulty(self):
    if self.name != "attention-publisher":
        run(self)
    elif {stuck}:
        threading.Event().wait()
threading.Thread.run = faulty
"""
"""A publisher's thread that ends at once, or that hangs. Python runs it at the start of each process."""


@pytest.fixture(scope="module")
def faulty_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """A server with a dead publisher and one with a stuck one, started side by side."""
    make_model()
    with contextlib.ExitStack() as stack:
        started = {}
        for state in ("dead", "stuck"):
            folder = tmp_path_factory.mktemp(state)
            (folder / "sitecustomize.py").write_text(FAULTY.format(stuck=state == "stuck"))
            args = ["--return-attention-tokens", "--enable-metrics", "--attention-tokens-spool-dir", str(folder / "s")]
            args += ["--attention-tokens-publish", f"tcp://127.0.0.1:{free_port()}"]
            started[state] = launch(folder / "log", *args, PYTHONPATH=str(folder))
            stack.callback(stop, *started[state])
        for _, process in started.values():
            stack.callback(process.send_signal, signal.SIGTERM)
        for server, process in started.values():
            wait_until_ready(server, process)
        yield {state: server for state, (server, _) in started.items()}


@pytest.mark.parametrize("state", ["dead", "stuck"])
def test_a_publisher_that_does_nothing_any_more_shows(faulty_servers: dict[str, Server], state: str) -> None:
    server = faulty_servers[state]
    give_up_at = time.monotonic() + 60
    while (found := attention_state(server))["publisher"] != state:  # stuck is said after ten seconds
        assert time.monotonic() < give_up_at, found
    for _ in range(2):
        assert server.chat("What is 2+2?", max_tokens=4, ignore_eos=True)["usage"]["completion_tokens"] == 4
    assert server.client.get("/health").status_code == 200, "the model is as well as ever"
    assert attention_state(server)["queue_items"] > 0
    lines = [line for line in server.log.read_text().splitlines() if "Attention publisher: its thread" in line]
    assert len(lines) == 1
    assert "restart the server to publish again" in lines[0]
    figures = published(server)
    assert figures["alive"] == (state == "stuck")
    assert (figures["stalled_seconds"] > 10) or state == "dead"


def attention_state(server: Server) -> dict[str, object]:
    (state,) = server.client.get("/server_info").json()["internal_states"]
    found: dict[str, object] = state["attention_tokens"]
    return found
