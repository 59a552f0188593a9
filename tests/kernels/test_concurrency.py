"""Many requests at once: asking and silent, streamed and whole, cached prefixes, long prompts, clients that leave."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conftest import Server, Sink, chat_body
from test_answers import ASK, check_tokens, streamed
from test_exactness import TOLERANCE, check_against_eager

LONG = "Here is a long list: " + ", ".join(f"thing {i}" for i in range(60)) + ". "


def ask(server: Server, i: int) -> tuple[str, dict[str, Any] | None, list[dict[str, Any]] | None]:
    """One of the mixed requests: id, usage where it has one, attention where it was asked for."""
    prompt = (LONG if i % 3 == 0 else "") + f"Write something about the number {i}."
    body = chat_body(prompt, max_tokens=10 + i, ignore_eos=True)
    if i % 4 == 3:
        return server.post("/v1/chat/completions", body)["id"], None, None
    if i % 2:
        answer = server.post("/v1/chat/completions", {**body, **ASK})
        return answer["id"], answer["usage"], answer["choices"][0]["message"]["attention_tokens"]
    chunks = server.stream("/v1/chat/completions", {**body, **ASK, "stream_options": {"include_usage": True}})
    return chunks[0]["id"], chunks[-1]["usage"], streamed(chunks)[1]


def test_eight_mixed_requests_at_once(server: Server, sink: Sink) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: ask(server, i), range(8)))
    for i, (request_id, usage, tokens) in enumerate(found):
        assert sink.ended(request_id)["num_output_tokens"] == 10 + i
        assert sink.steps(request_id) == list(range(10 + i))
        if usage is not None and tokens is not None:
            check_tokens(tokens, prompt_len=usage["prompt_tokens"], num_tokens=10 + i)
    assert "Testing retraction. #retracted_reqs: 1" in server.log.read_text()
    request_id, _, tokens = found[6]
    assert tokens is not None
    started = next(r for r in sink.rows("requests") if r["request_id"] == request_id)
    assert check_against_eager(tokens, started["prompt_token_ids"]) <= TOLERANCE


def test_a_cached_prefix_changes_nothing(server: Server, sink: Sink) -> None:
    answers = [server.chat(LONG + "How many?", max_tokens=6, **ASK) for _ in range(2)]
    for answer in answers:
        sink.ended(answer["id"])
        started = next(r for r in sink.rows("requests") if r["request_id"] == answer["id"])
        tokens = answer["choices"][0]["message"]["attention_tokens"]
        assert check_against_eager(tokens, started["prompt_token_ids"]) <= TOLERANCE


def test_a_client_that_leaves_ends_its_request(server: Server, sink: Sink) -> None:
    body = {**chat_body("Tell me a very long story.", max_tokens=2000, ignore_eos=True, **ASK), "stream": True}
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = (line for line in response.iter_lines() if "attention_tokens" in line)
        request_id = json.loads(next(lines)[len("data: ") :])["id"]
    ended = sink.ended(request_id)
    assert ended["finish_reason"] == "abort"
    steps = sink.steps(request_id)
    assert steps == list(range(len(steps)))
    assert len(steps) < 2000
