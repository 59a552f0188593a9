"""Ways of asking and of ending: grammar, aborts, streams that end early, requests that come and go."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Server, Sink, chat_body
from test_answers import ASK, check_tokens, streamed
from test_exactness import TOLERANCE, check_against_eager
from test_prompt_tokens import ASK_ALL, check_prompt, prompt_ids

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", "Bob"]}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_an_answer_held_to_a_json_schema(server: Server, sink: Sink) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    answer = server.chat("Describe a person.", max_tokens=48, response_format=form, **ASK)
    choice, usage = answer["choices"][0], answer["usage"]
    if choice["finish_reason"] == "stop":
        assert set(json.loads(choice["message"]["content"])) == {"name", "age"}
    tokens = choice["message"]["attention_tokens"]
    check_tokens(tokens, prompt_len=usage["prompt_tokens"], num_tokens=usage["completion_tokens"])
    assert check_against_eager(tokens, prompt_ids(sink, answer["id"])) <= TOLERANCE


def test_a_request_ended_by_abort_request_keeps_its_steps(server: Server, sink: Sink) -> None:
    rid = "aborted-by-name"
    native = {"rid": rid, "text": "Once upon a time", "sampling_params": {"max_new_tokens": 3000, "ignore_eos": True}}
    seen: list[dict[str, Any]] = []
    with server.client.stream("POST", "/generate", json={**native, "stream": True, **ASK}) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            seen += json.loads(line[len("data: ") :])["meta_info"].get("attention_tokens", [])
            if len(seen) == 3:
                assert server.client.post("/abort_request", json={"rid": rid}).status_code == 200
    assert sink.ended(rid)["finish_reason"] == "abort"
    steps = [token["step"] for token in seen]
    assert steps == list(range(len(steps)))
    assert sink.steps(rid)[: len(steps)] == steps
    assert len(sink.steps(rid)) < 3000


def mixed(server: Server, i: int) -> tuple[str, list[int], dict[str, Any]]:
    """One of eight requests that differ in what they ask, how they end and how long they are."""
    prompt = ("A list: " + ", ".join(f"thing {j}" for j in range(40)) + ". " if i % 2 else "") + f"Number {i}, please."
    ask: dict[str, Any] = [{}, ASK, ASK_ALL, ASK_ALL][i % 4]
    body = chat_body(prompt, max_tokens=6 + 3 * i, ignore_eos=True, **ask)
    if i < 4:
        answer = server.post("/v1/chat/completions", body)
        message = answer["choices"][0]["message"]
        return answer["id"], [t["step"] for t in message.get("attention_tokens", [])], message
    chunks = server.stream("/v1/chat/completions", body)
    found: dict[str, Any] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            found.update({k: v for k, v in choice["delta"].items() if k.startswith("prompt_attention")})
    return chunks[0]["id"], [t["step"] for t in streamed(chunks)[1]], found


def test_requests_that_come_and_go_each_get_what_they_asked(server: Server, sink: Sink) -> None:
    """The server takes requests back in between: prompts are computed again, and still come once."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: mixed(server, i), range(8)))
    for i, (request_id, steps, carried) in enumerate(found):
        assert sink.ended(request_id)["num_output_tokens"] == 6 + 3 * i
        assert sink.steps(request_id) == list(range(6 + 3 * i))
        assert steps == ([] if i % 4 == 0 else list(range(6 + 3 * i)))
        if i % 4 < 2:
            assert "prompt_attention_tokens" not in carried
        else:
            check_prompt(carried, prompt_ids(sink, request_id))


@pytest.mark.parametrize("prefill", ["last", "all"])
def test_a_client_that_leaves_at_once_leaves_nothing_behind(server: Server, sink: Sink, prefill: str) -> None:
    body = chat_body("Tell me a story " * 60, max_tokens=2000, ignore_eos=True, attention_tokens_prefill=prefill, **ASK)
    with server.client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        first = next(line for line in response.iter_lines() if line.startswith("data: {"))
    request_id = json.loads(first[len("data: ") :])["id"]
    assert sink.ended(request_id)["finish_reason"] == "abort"
    answer = server.chat("Still there?", max_tokens=3, **ASK)
    check_tokens(
        answer["choices"][0]["message"]["attention_tokens"], prompt_len=answer["usage"]["prompt_tokens"], num_tokens=3
    )
