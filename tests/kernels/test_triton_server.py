"""SGLang's real Triton backend in Triton's interpreter, its kernels storing their scores: torch's attention again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import MODEL, Server, launch, make_model, stop, wait_until_ready
from tiny_model import make_tiny_model

NUM_TOKENS = 3
COMMON = ["--attention-backend", "triton", "--max-total-tokens", "2048", "--max-running-requests", "4"]
COMMON += ["--context-length", "256", "--skip-server-warmup"]
CAPTURING = ["--return-attention-tokens", "--attention-tokens-publish", "off", "--attention-tokens-top-k", "8"]
PROMPT_LENS = (5, 70)


@pytest.fixture(scope="module")
def tiny_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """The Triton backend in the interpreter, and torch_native; both capture."""
    make_model()
    folder = tmp_path_factory.mktemp("tiny")
    model = make_tiny_model(folder / "model", tokenizer_from=MODEL)
    arguments = ["--model", str(model), *COMMON, *CAPTURING]
    with contextlib.ExitStack() as stack:
        started = [
            launch(folder / "triton.log", *arguments, "--triton-attention-num-kv-splits", "2", TRITON_INTERPRET="1"),
            launch(folder / "native.log", *arguments),
        ]
        for server, process in started:
            stack.callback(stop, server, process)
        for server, process in started:
            wait_until_ready(server, process)
        yield started[0][0], started[1][0]


def answers(server: Server) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    body = {
        "input_ids": [draw.integers(1_000, 40_000, n).tolist() for n in PROMPT_LENS],
        "sampling_params": {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True},
        "return_attention_tokens": True,
    }
    found: list[dict[str, Any]] = server.post("/generate", body)  # type: ignore[assignment]
    return found


def test_the_triton_backend_gives_the_attention_that_torch_gives(tiny_servers: tuple[Server, Server]) -> None:
    triton, native = tiny_servers
    log = triton.log.read_text()
    # What the buffers take was set aside from the KV cache's budget before.
    set_aside = float(re.search(r"Attention capture: ([\d.]+) of the KV cache's", log)[1])  # type: ignore[index]
    taken = float(re.search(r"attention capture: ([\d.]+) MiB on the device", log)[1])  # type: ignore[index]
    assert 0 < taken <= set_aside
    for ours, theirs, prompt_len in zip(answers(triton), answers(native), PROMPT_LENS, strict=True):
        assert ours["output_ids"] == theirs["output_ids"]
        tokens, expected = ours["meta_info"]["attention_tokens"], theirs["meta_info"]["attention_tokens"]
        assert [token["step"] for token in tokens] == list(range(NUM_TOKENS))
        for token, other in zip(tokens, expected, strict=True):
            assert token["context_len"] == other["context_len"] == prompt_len + token["step"]
            assert token["topk_positions"] == other["topk_positions"]
            for name in ("fingerprint", "topk_probs", "sink_mass", "prompt_mass", "periodicity", "residual_mass"):
                np.testing.assert_allclose(token[name], other[name], rtol=0, atol=1e-5, err_msg=name)
