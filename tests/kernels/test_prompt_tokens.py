"""The attention of a prompt's own positions: every one, once, exact, over chunks, cached prefixes and choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Server, Sink, chat_body
from test_answers import ASK, FIELDS, check_tokens
from test_exactness import LAYERS, TOLERANCE, eager_attention

from attn_core.fingerprint import valid_rows
from attn_kernels import reference

ASK_ALL = {**ASK, "attention_tokens_prefill": "all"}
PROMPT = "Here is a list of birds: " + ", ".join(f"bird number {i}" for i in range(30)) + ". Which one sings?"


def prompt_ids(sink: Sink, request_id: str) -> list[int]:
    sink.ended(request_id)
    started = next(r for r in sink.rows("requests") if r["request_id"] == request_id and r["event"] == "started")
    ids: list[int] = started["prompt_token_ids"]
    return ids


def check_prompt(found: dict[str, Any], ids: list[int]) -> None:
    """Every position of the prompt once and in order, each with its token and a valid fingerprint."""
    rows = found["prompt_attention_tokens"]
    assert found["prompt_attention_missing"] == []
    assert [row["position"] for row in rows] == list(range(len(ids)))
    assert [row["token_id"] for row in rows] == ids
    assert all(set(row) == FIELDS - {"step"} | {"position"} for row in rows)
    lens = np.array([row["context_len"] for row in rows])
    assert lens.tolist() == list(range(1, len(ids) + 1))
    assert valid_rows(np.array([row["fingerprint"] for row in rows], dtype=np.float32), lens).all()


def check_exact(rows: list[dict[str, Any]], ids: list[int]) -> float:
    attention = eager_attention(ids)[list(LAYERS)]
    worst = 0.0
    for row in rows:
        i = row["position"]
        want = reference.fingerprint(attention[:, :, i, : i + 1], prompt_len=len(ids), k=len(row["topk_positions"]))
        pairs = [
            (row["fingerprint"], want.vector),
            (row["topk_probs"], want.topk_probs),
            (row["sink_mass"], want.sink_mass),
            (row["prompt_mass"], want.prompt_mass),
            (row["periodicity"], want.periodicity),
            (row["residual_mass"], want.residual_mass),
        ]
        worst = max([worst, *(float(np.abs(np.asarray(a) - b).max()) for a, b in pairs)])
    return worst


def test_every_position_of_a_prompt_in_chunks_agrees_with_an_eager_pass(server: Server, sink: Sink) -> None:
    for _ in range(2):  # the second time the whole prompt lies in the prefix cache
        answer = server.chat(PROMPT, max_tokens=3, **ASK_ALL)
        ids = prompt_ids(sink, answer["id"])
        assert len(ids) > 2 * 64
        message = answer["choices"][0]["message"]
        check_prompt(message, ids)
        check_tokens(message["attention_tokens"], prompt_len=len(ids), num_tokens=3)
        last, first = message["prompt_attention_tokens"][-1], message["attention_tokens"][0]
        assert last["fingerprint"] == pytest.approx(first["fingerprint"], abs=1e-5)
    worst = check_exact(message["prompt_attention_tokens"], ids)
    print(f"{len(ids)} positions, max abs error {worst:.2g}")
    assert worst <= TOLERANCE
    assert sink.steps(answer["id"]) == [0, 1, 2]


def test_a_stream_carries_the_prompt_once_and_first(server: Server, sink: Sink) -> None:
    body = chat_body("Name a river.", max_tokens=6, **ASK_ALL)
    chunks = server.stream("/v1/chat/completions", body)
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    carrying = [delta for delta in deltas if "prompt_attention_tokens" in delta]
    assert len(carrying) == 1
    check_prompt(carrying[0], prompt_ids(sink, chunks[0]["id"]))
    assert carrying[0]["attention_tokens"][0]["step"] == 0


def test_completions_and_generate_carry_the_prompt(server: Server) -> None:
    prompt = "The capital of France is"
    body = {"model": "demo", "prompt": prompt, "max_tokens": 4, "temperature": 0, **ASK_ALL}
    choice = server.post("/v1/completions", body)["choices"][0]
    ids = [row["token_id"] for row in choice["prompt_attention_tokens"]]
    assert len(ids) == 5
    check_prompt(choice, ids)
    carrying = [c["choices"][0] for c in server.stream("/v1/completions", body) if c["choices"]]
    carrying = [choice for choice in carrying if "prompt_attention_tokens" in choice]
    assert len(carrying) == 1
    check_prompt(carrying[0], ids)
    native = {"text": prompt, "sampling_params": {"max_new_tokens": 4, "temperature": 0}, **ASK_ALL}
    check_prompt(server.post("/generate", native)["meta_info"], ids)
    parts = [part["meta_info"] for part in server.stream("/generate", native)]
    carrying = [meta for meta in parts if "prompt_attention_tokens" in meta]
    assert len(carrying) == 1
    check_prompt(carrying[0], ids)


def test_each_of_several_choices_carries_the_prompt(server: Server) -> None:
    answer = server.chat("Tell me a word.", max_tokens=2, n=2, temperature=0.9, **ASK_ALL)
    for choice in answer["choices"]:
        rows = choice["message"]["prompt_attention_tokens"]
        check_prompt(choice["message"], [row["token_id"] for row in rows])
        assert len(rows) == answer["usage"]["prompt_tokens"]


def test_who_asks_for_the_last_position_only_gets_no_prompt(server: Server) -> None:
    answer = server.chat("Hello!", max_tokens=2, **ASK, attention_tokens_prefill="last")
    assert "prompt_attention" not in str(answer)
    assert len(answer["choices"][0]["message"]["attention_tokens"]) == 2


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({**ASK, "attention_tokens_prefill": "some"}, "'last' or 'all'"),
        ({"attention_tokens_prefill": "all"}, "needs return_attention_tokens true"),
    ],
)
def test_what_makes_no_sense_is_the_client_s_error(server: Server, fields: dict[str, Any], named: str) -> None:
    bodies = {
        "/v1/chat/completions": chat_body("Hello!", max_tokens=2, **fields),
        "/v1/completions": {"model": "demo", "prompt": "Hello", "max_tokens": 2, **fields},
        "/generate": {"text": "Hello", "sampling_params": {"max_new_tokens": 2}, **fields},
    }
    for path, body in bodies.items():
        response = server.client.post(path, json=body)
        assert response.status_code in (400, 422), path
        assert named in response.text
