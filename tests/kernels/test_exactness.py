"""Every captured number against an independent Hugging Face eager forward pass over the same tokens."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import MODEL, Server, Sink

from attn_core.fingerprint import captured_layers
from attn_kernels import reference

LAYERS = (0, 4, 8, 12, 17, 21, 25, 29)
TOLERANCE = 1e-5
PROMPTS = {
    "short": "What is 2+2?",
    "table": "Write a table of three fruits and their colours, one a line.",
    "longer than three chunks": "Here is a list of words: "
    + ", ".join(f"item {i}" for i in range(90))
    + ". Count them.",
}


@functools.cache
def eager_model() -> Any:
    """The demo model in transformers, float32, attention computed the plain way."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL, attn_implementation="eager", dtype=torch.float32).eval()


def eager_attention(token_ids: list[int]) -> npt.NDArray[np.float64]:
    """float64 [layers, heads, n, n] of all 30 layers."""
    with torch.no_grad():
        output = eager_model()(torch.tensor([token_ids]), output_attentions=True)
    assert len(output.attentions) == 30
    return torch.stack([layer[0] for layer in output.attentions]).double().numpy()


def check_against_eager(tokens: list[dict[str, Any]], prompt_ids: list[int]) -> float:
    """Compare each step's capture with the eager pass; the largest difference found."""
    attention = eager_attention(prompt_ids + [t["token_id"] for t in tokens])[list(LAYERS)]
    worst = 0.0
    for token in tokens:
        i = len(prompt_ids) + token["step"] - 1
        want = reference.fingerprint(
            attention[:, :, i, : i + 1], prompt_len=len(prompt_ids), k=len(token["topk_positions"])
        )
        mean = attention[:, :, i, : i + 1].mean(axis=(0, 1))
        pairs = [
            (token["fingerprint"], want.vector),
            (token["topk_probs"], want.topk_probs),
            (token["topk_probs"], mean[token["topk_positions"]]),
            (token["sink_mass"], want.sink_mass),
            (token["prompt_mass"], want.prompt_mass),
            (token["periodicity"], want.periodicity),
            (token["residual_mass"], want.residual_mass),
        ]
        worst = max([worst, *(float(np.abs(np.asarray(a) - b).max()) for a, b in pairs)])
        assert token["context_len"] == want.context_len
        assert len(set(token["topk_positions"])) == len(token["topk_positions"])
    return worst


def test_the_captured_layers_are_those_of_the_contract() -> None:
    assert captured_layers(list(range(30))) == LAYERS


@pytest.mark.parametrize("name", PROMPTS)
def test_capture_agrees_with_an_eager_pass(server: Server, sink: Sink, name: str) -> None:
    answer = server.chat(PROMPTS[name], max_tokens=24, return_attention_tokens=True)
    sink.ended(answer["id"])
    started = next(r for r in sink.rows("requests") if r["request_id"] == answer["id"])
    tokens = answer["choices"][0]["message"]["attention_tokens"]
    assert len(tokens) == answer["usage"]["completion_tokens"]
    worst = check_against_eager(tokens, started["prompt_token_ids"])
    print(f"{name}: {len(tokens)} steps of up to {tokens[-1]['context_len']} positions, max abs error {worst:.2g}")
    assert worst <= TOLERANCE
    assert {batch.info.captured_layers for batch in sink.batches} == {LAYERS}
