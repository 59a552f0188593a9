"""SGLang's real Triton backend in Triton's interpreter, its kernels storing their scores: torch's attention again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL, Server, Sink, free_port, launch, make_model, stop, wait_until_ready
from tiny_model import NUM_HEADS, NUM_LAYERS, make_tiny_model

from attn_core.head_projection import NUM_COLUMNS, NUM_HEAD_FIGURES, HeadProjection, put_projection

NUM_TOKENS = 3
COMMON = ["--attention-backend", "triton", "--max-total-tokens", "2048", "--max-running-requests", "4"]
COMMON += ["--context-length", "256", "--skip-server-warmup"]
CAPTURING = ["--return-attention-tokens", "--attention-tokens-top-k", "8", "--attention-tokens-spool-bytes", "0"]
CAPTURING += ["--attention-head-sample", "1"]
PROMPT_LENS = (5, 70)


@pytest.fixture(scope="module")
def sinks() -> Iterator[tuple[Sink, Sink]]:
    """Where the two publish."""
    opened = tuple(Sink(f"tcp://127.0.0.1:{free_port()}") for _ in range(2))
    yield opened  # type: ignore[misc]
    for sink in opened:
        sink.close()


@pytest.fixture(scope="module")
def heads_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both look for their head projection."""
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def tiny_servers(
    tmp_path_factory: pytest.TempPathFactory, sinks: tuple[Sink, Sink], heads_folder: Path
) -> Iterator[tuple[Server, Server]]:
    """The Triton backend in the interpreter, and torch_native; both capture."""
    make_model()
    folder = tmp_path_factory.mktemp("tiny")
    model = make_tiny_model(folder / "model", tokenizer_from=MODEL)
    arguments = ["--model", str(model), *COMMON, *CAPTURING, "--attention-head-projection-dir", str(heads_folder)]
    with contextlib.ExitStack() as stack:
        started = [
            launch(
                folder / "triton.log",
                *[*arguments, "--attention-tokens-publish", sinks[0].address],
                *["--triton-attention-num-kv-splits", "2"],
                TRITON_INTERPRET="1",
            ),
            launch(folder / "native.log", *arguments, "--attention-tokens-publish", sinks[1].address),
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


def published(server: Server, sink: Sink) -> dict[tuple[int, int], dict[str, Any]]:
    """The rows of the two requests, asked side by side, by number and step."""
    found = {}
    for number, answer in enumerate(answers(server)):
        request_id = answer["meta_info"]["id"]
        sink.ended(request_id)
        rows = [row for row in sink.rows("fingerprints") if row["request_id"] == request_id]
        assert [row["step"] for row in rows] == list(range(NUM_TOKENS))
        found |= {(number, row["step"]): row for row in rows}
    return found


def sampled(server: Server, sink: Sink, *, at_least: set[tuple[int, int]]) -> dict[tuple[int, int], list[float]]:
    """Raw figures by request and step: one of two rows a step gives them, so the requests are asked until all have."""
    figures: dict[tuple[int, int], list[float]] = {}
    for _ in range(30):
        rows = published(server, sink)
        assert all((row["head_sketch"], row["zone_evidence"]) == (None, None) for row in rows.values())
        given = {place: row["head_figures"] for place, row in rows.items() if row["head_figures"] is not None}
        assert given, "with one token in one, every step gives a row's"
        figures |= given
        if at_least <= figures.keys():
            return figures
    pytest.fail(f"no figures of {at_least - figures.keys()}")


def test_single_heads_are_those_that_torch_gives_and_a_matrix_is_used_without_a_restart(
    tiny_servers: tuple[Server, Server], sinks: tuple[Sink, Sink], heads_folder: Path
) -> None:
    everything = {(number, step) for number in range(len(PROMPT_LENS)) for step in range(NUM_TOKENS)}
    native = sampled(tiny_servers[1], sinks[1], at_least=everything)
    # Prefill and decode of the interpreter take seconds: a prefill's row and a decode's are enough.
    first = published(tiny_servers[0], sinks[0])
    triton = {place: row["head_figures"] for place, row in first.items() if row["head_figures"] is not None}
    assert {step == 0 for _, step in triton} == {True, False}
    for place, figures in triton.items():
        np.testing.assert_allclose(figures, native[place], rtol=0, atol=1e-5)
    draw = np.random.default_rng(3)
    rows = NUM_LAYERS * NUM_HEADS * NUM_HEAD_FIGURES
    matrix = HeadProjection(
        model="model",
        layers=tuple(range(NUM_LAYERS)),
        num_heads=NUM_HEADS,
        matrix=draw.normal(scale=0.1, size=(rows, NUM_COLUMNS)).astype(np.float32),
        offset=draw.normal(size=NUM_COLUMNS).astype(np.float32),
    )
    put_projection(heads_folder, matrix)
    for server, sink in zip(tiny_servers, sinks, strict=True):
        found = published(server, sink)
        for place, row in found.items():
            sketch = [*row["head_sketch"], *row["zone_evidence"]]
            np.testing.assert_allclose(sketch, matrix.project(np.array(native[place]))[0], rtol=0, atol=2e-3)
        names = [b.info.head_projection for b in sink.batches if b.kind == "fingerprints"]
        assert names[-1] == matrix.sha256
