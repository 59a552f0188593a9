"""What a client of the capturing server gets: each output token's attention exactly once, on every way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Server, Sink, chat_body
from openai import OpenAI

from attn_core.fingerprint import valid_rows

FIELDS = {
    "index",
    "step",
    "token_id",
    "fingerprint",
    "context_len",
    "sink_mass",
    "prompt_mass",
    "periodicity",
    "topk_positions",
    "topk_probs",
    "residual_mass",
}
ASK = {"return_attention_tokens": True}


def check_tokens(tokens: list[dict[str, Any]], *, prompt_len: int, num_tokens: int, top_k: int = 16) -> None:
    """Every step once and in order, each one a valid fingerprint of the right context."""
    assert [t["step"] for t in tokens] == [t["index"] for t in tokens] == list(range(num_tokens))
    assert all(set(t) == FIELDS for t in tokens)
    lens = np.array([t["context_len"] for t in tokens])
    assert lens.tolist() == [prompt_len + step for step in range(num_tokens)]
    assert valid_rows(np.array([t["fingerprint"] for t in tokens], dtype=np.float32), lens).all()
    for token in tokens:
        assert len(token["topk_positions"]) == len(token["topk_probs"]) == min(top_k, token["context_len"])
        assert sorted(token["topk_probs"], reverse=True) == token["topk_probs"]
        assert sum(token["topk_probs"]) + token["residual_mass"] == pytest.approx(1, abs=1e-5)


def check_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """The same tokens with the same attention; another batch or cached prefix moves the last bits of a float."""
    assert [t["token_id"] for t in found] == [t["token_id"] for t in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert a["fingerprint"] == pytest.approx(b["fingerprint"], abs=1e-4)
        assert a["topk_probs"] == pytest.approx(b["topk_probs"], abs=1e-5)


def streamed(chunks: list[dict[str, Any]], *, index: int = 0) -> tuple[str, list[dict[str, Any]]]:
    """The text and the attention of one choice of a streamed chat."""
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"] and c["choices"][0]["index"] == index]
    text = "".join(delta.get("content") or "" for delta in deltas)
    return text, [token for delta in deltas for token in delta.get("attention_tokens", [])]


def test_a_whole_chat_answer_carries_them(server: Server) -> None:
    answer = server.chat("What is 2+2?", max_tokens=12, **ASK)
    tokens = answer["choices"][0]["message"]["attention_tokens"]
    usage = answer["usage"]
    check_tokens(tokens, prompt_len=usage["prompt_tokens"], num_tokens=usage["completion_tokens"])


def test_each_delta_carries_its_own(server: Server) -> None:
    whole = server.chat("Name three rivers.", max_tokens=16, **ASK)["choices"][0]["message"]
    chunks = server.stream("/v1/chat/completions", chat_body("Name three rivers.", max_tokens=16, **ASK))
    text, tokens = streamed(chunks)
    assert text == whole["content"]
    check_same(tokens, whole["attention_tokens"])
    carried = [
        c["choices"][0]["delta"].get("attention_tokens") for c in chunks if c["choices"][0]["delta"].get("content")
    ]
    assert all(carried)
    assert len(carried) > 8


def test_completions_and_generate_agree_with_one_another(server: Server) -> None:
    prompt = "The capital of France is"
    body = {"model": "demo", "prompt": prompt, "max_tokens": 8, "temperature": 0, **ASK}
    choice = server.post("/v1/completions", body)["choices"][0]
    check_tokens(choice["attention_tokens"], prompt_len=5, num_tokens=8)
    chunks = server.stream("/v1/completions", body)
    check_same([t for c in chunks for t in c["choices"][0].get("attention_tokens", [])], choice["attention_tokens"])
    native = {"text": prompt, "sampling_params": {"max_new_tokens": 8, "temperature": 0}, **ASK}
    answer = server.post("/generate", native)
    assert answer["text"] == choice["text"]
    check_same(answer["meta_info"]["attention_tokens"], choice["attention_tokens"])
    parts = server.stream("/generate", native)
    check_same([t for part in parts for t in part["meta_info"]["attention_tokens"]], choice["attention_tokens"])


def test_a_list_of_prompts_gets_a_list_of_answers(server: Server) -> None:
    prompts = ["The capital of France is", "One, two, three,"]
    native = {"text": prompts, "sampling_params": {"max_new_tokens": 4, "temperature": 0}, **ASK}
    answers = server.post("/generate", native)
    for answer in answers:
        meta = answer["meta_info"]  # type: ignore[index]
        check_tokens(meta["attention_tokens"], prompt_len=meta["prompt_tokens"], num_tokens=4)


@pytest.mark.parametrize("pattern", ["Hi", "🦊🍉", "日本"])
def test_tokens_without_text_are_not_lost(server: Server, pattern: str) -> None:
    """The grammar forces the text, half characters among its tokens, and then the end-of-sequence token."""
    body = chat_body("Say it.", max_tokens=24, regex=pattern, **ASK)
    answer = server.post("/v1/chat/completions", body)
    choice, usage = answer["choices"][0], answer["usage"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (pattern, "stop")
    tokens = choice["message"]["attention_tokens"]
    check_tokens(tokens, prompt_len=usage["prompt_tokens"], num_tokens=usage["completion_tokens"])
    assert tokens[-1]["token_id"] == 2
    text, in_deltas = streamed(server.stream("/v1/chat/completions", body))
    assert text == pattern
    check_same(in_deltas, tokens)


def test_a_stop_string_ends_the_attention_with_the_text(server: Server) -> None:
    prompt = "Count from one to ten in words."
    text = server.chat(prompt, max_tokens=24)["choices"][0]["message"]["content"]
    stop = text[len(text) // 2 :][:6]
    body = chat_body(prompt, max_tokens=24, stop=[stop], **ASK)
    answer = server.post("/v1/chat/completions", body)
    assert answer["choices"][0]["finish_reason"] == "stop"
    tokens = answer["choices"][0]["message"]["attention_tokens"]
    check_tokens(tokens, prompt_len=answer["usage"]["prompt_tokens"], num_tokens=answer["usage"]["completion_tokens"])
    text, in_deltas = streamed(server.stream("/v1/chat/completions", body))
    assert text == answer["choices"][0]["message"]["content"]
    check_same(in_deltas, tokens)


def test_several_choices_each_carry_their_own(server: Server) -> None:
    body = chat_body("Tell me something.", max_tokens=6, n=3, temperature=0.9, ignore_eos=True, **ASK)
    answer = server.post("/v1/chat/completions", body)
    for choice in answer["choices"]:
        check_tokens(choice["message"]["attention_tokens"], prompt_len=answer["usage"]["prompt_tokens"], num_tokens=6)
    chunks = server.stream("/v1/chat/completions", body)
    for index in range(3):
        check_tokens(streamed(chunks, index=index)[1], prompt_len=answer["usage"]["prompt_tokens"], num_tokens=6)


def test_who_does_not_ask_gets_none(server: Server) -> None:
    assert "attention_tokens" not in str(server.chat("Hello!", max_tokens=4))
    assert "attention_tokens" not in str(server.stream("/v1/chat/completions", chat_body("Hello!", max_tokens=4)))
    assert "attention_tokens" not in str(
        server.post("/generate", {"text": "Hi", "sampling_params": {"max_new_tokens": 2}})
    )


def test_log_probabilities_travel_beside_them(server: Server) -> None:
    choice = server.chat("Hello!", max_tokens=4, logprobs=True, top_logprobs=2, **ASK)["choices"][0]
    assert len(choice["logprobs"]["content"]) == len(choice["message"]["attention_tokens"]) == 4


def test_the_answer_s_id_is_the_published_one(server: Server, sink: Sink) -> None:
    answer = server.chat("What is a cat?", max_tokens=5, **ASK)
    ended = sink.ended(answer["id"])
    assert (ended["finish_reason"], ended["num_output_tokens"]) == ("length", 5)
    assert sink.steps(answer["id"]) == list(range(5))
    rows = [row for row in sink.rows("fingerprints") if row["request_id"] == answer["id"]]
    tokens = answer["choices"][0]["message"]["attention_tokens"]
    assert [row["topk_positions"] for row in rows] == [t["topk_positions"] for t in tokens]
    assert [row["vector"] for row in rows] == [pytest.approx(t["fingerprint"]) for t in tokens]
    assert "".join(row["token_text"] for row in rows) == answer["choices"][0]["message"]["content"]
    started = next(r for r in sink.rows("requests") if r["request_id"] == answer["id"] and r["event"] == "started")
    assert len(started["prompt_token_ids"]) == started["prompt_len"] == answer["usage"]["prompt_tokens"]
    assert "What is a cat?" in "".join(started["prompt_token_texts"])


def test_who_does_not_ask_is_published_without_positions(server: Server, sink: Sink) -> None:
    answer = server.chat("What is a dog?", max_tokens=3)
    sink.ended(answer["id"])
    rows = [row for row in sink.rows("fingerprints") if row["request_id"] == answer["id"]]
    assert len(rows) == 3
    assert all(row["topk_positions"] is None and row["residual_mass"] is None for row in rows)


def test_the_server_s_own_warm_up_is_not_published(server: Server, sink: Sink) -> None:
    answer = server.chat("Anything.", max_tokens=1)
    sink.ended(answer["id"])
    assert all("capital city of France" not in "".join(r["prompt_token_texts"] or []) for r in sink.rows("requests"))


@pytest.mark.parametrize("options", [{}, {"logprobs": True, "top_logprobs": 2}])
def test_the_stream_helper_of_the_openai_sdk_puts_the_tokens_together(server: Server, options: dict[str, Any]) -> None:
    """It joins lists in deltas by the `index` of their entries, and raises where there is none.

    A stop string ends the answers: the helper raises on an answer that its length cut off. Not with several choices: it
    also raises where the first chunk is not that of the first choice, whatever the chunk holds.
    """
    client = OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")
    messages: Any = [{"role": "user", "content": "Name three colours."}]
    with client.chat.completions.stream(
        model="demo", messages=messages, max_tokens=200, stop=[",", ".", "\n"], extra_body=ASK, **options
    ) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    assert len(answer.choices) == 1
    for choice in answer.choices:
        tokens = (choice.message.model_extra or {})["attention_tokens"]
        assert [token["step"] for token in tokens] == list(range(len(tokens)))
        assert len(tokens) >= 1
        assert all(len(token["fingerprint"]) == 20 for token in tokens)
