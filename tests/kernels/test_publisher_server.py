"""The publisher inside the real server: its figures in SGLang's /metrics, and an end for every start."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from conftest import Server, Sink

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
