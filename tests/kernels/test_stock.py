"""The flag changes nothing but what it adds: the same greedy text with and without, and no trace of it without."""

from __future__ import annotations

import pytest
from conftest import Server, chat_body

PROMPTS = ["What is 2+2?", "Write a haiku about rain.", 'Repair this JSON: {"a": 1, "b": [2, 3', "Count to twenty."]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_the_same(server: Server, stock_server: Server, prompt: str) -> None:
    asked = server.chat(prompt, max_tokens=40, logprobs=True, return_attention_tokens=True)["choices"][0]
    silent = server.chat(prompt, max_tokens=40)["choices"][0]
    stock = stock_server.chat(prompt, max_tokens=40, logprobs=True)["choices"][0]
    assert asked["message"]["content"] == silent["message"]["content"] == stock["message"]["content"]
    assert [t["token"] for t in asked["logprobs"]["content"]] == [t["token"] for t in stock["logprobs"]["content"]]


def test_without_the_flag_the_field_is_ignored(stock_server: Server) -> None:
    body = chat_body("Hello!", max_tokens=3, return_attention_tokens=True)
    assert "attention" not in str(stock_server.post("/v1/chat/completions", body))
    assert "attention" not in str(stock_server.stream("/v1/chat/completions", body))
    completion = {"model": "demo", "prompt": "Hello", "max_tokens": 3, "return_attention_tokens": True}
    assert "attention" not in str(stock_server.post("/v1/completions", completion))
    native = {"text": "Hello", "sampling_params": {"max_new_tokens": 3}, "return_attention_tokens": True}
    assert "attention" not in str(stock_server.post("/generate", native))


def test_without_the_flag_nothing_is_hooked(stock_server: Server) -> None:
    log = stock_server.log.read_text()
    assert "Attention capture" not in log
    applied = [line for line in log.splitlines() if "hook(s) to" in line]
    assert all("ServerArgs" in line for line in applied)


def test_the_substituted_backend_is_said_once(server: Server) -> None:
    assert server.log.read_text().count("'--attention-backend triton' is served by 'torch_native'") == 1
