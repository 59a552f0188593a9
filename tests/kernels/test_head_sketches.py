"""The single heads of the real server's tokens: raw figures as float64 has them, and the sketch that a matrix makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import SERVED_MODEL, Server, Sink
from test_exactness import LAYERS, eager_attention
from test_prompt_tokens import prompt_ids

from attn_core.head_projection import NUM_COLUMNS, NUM_HEAD_FIGURES, NUM_SKETCH, HeadProjection
from attn_kernels import reference

NUM_HEADS = 9
TOLERANCE = 5e-5
"""A single head's entropy is no mean over heads, in which the float32 of the eager pass would even out."""
SKETCH_TOLERANCE = 2e-3
"""Of numbers of about 1: half a unit of float16's last place is a quarter of it."""
PROMPT = "Here is a list of words: " + ", ".join(f"item {i}" for i in range(60)) + ". Count them."
ASKED = {"max_tokens": 8, "ignore_eos": True}


def make_projection(seed: int, *, layers: tuple[int, ...] = LAYERS) -> HeadProjection:
    draw = np.random.default_rng(seed)
    rows = len(layers) * NUM_HEADS * NUM_HEAD_FIGURES
    return HeadProjection(
        model=SERVED_MODEL,
        layers=layers,
        num_heads=NUM_HEADS,
        matrix=draw.normal(scale=0.02, size=(rows, NUM_COLUMNS)).astype(np.float32),
        offset=draw.normal(size=NUM_COLUMNS).astype(np.float32),
    )


def rows_of(server: Server, sink: Sink, prompt: str = PROMPT) -> tuple[str, list[dict[str, Any]]]:
    """A request's id, and the rows that were published of it."""
    request_id = server.chat(prompt, **ASKED)["id"]
    sink.ended(request_id)
    return request_id, [row for row in sink.rows("fingerprints") if row["request_id"] == request_id]


def sketch_of(row: dict[str, Any]) -> npt.NDArray[np.float64]:
    return np.array([*row["head_sketch"], *row["zone_evidence"]], np.float64)


def state(server: Server) -> dict[str, Any]:
    (found,) = server.client.get("/server_info").json()["internal_states"]
    attention: dict[str, Any] = found["attention_tokens"]
    return attention


@pytest.fixture(scope="module")
def before(server: Server, sink: Sink) -> tuple[str, list[dict[str, Any]]]:
    """The request, before the server has a matrix: it gives the figures of every token of a request that is alone."""
    assert state(server)["head_projection"] is None
    return rows_of(server, sink)


@pytest.fixture(scope="module")
def matrix(server: Server, sink: Sink, before: tuple[str, list[dict[str, Any]]]) -> HeadProjection:
    """A matrix that the sidecar has offered, once it is used."""
    projection = make_projection(1)
    sink.offer(projection.to_bytes())
    for _ in range(50):
        rows_of(server, sink, "Hello")
        if state(server)["head_projection"] is not None:
            return projection
    pytest.fail(f"not taken: {state(server)}")


def test_raw_figures_are_those_of_an_eager_pass(sink: Sink, before: tuple[str, list[dict[str, Any]]]) -> None:
    request_id, rows = before
    assert [row["step"] for row in rows] == list(range(8))
    ids = prompt_ids(sink, request_id)
    attention = eager_attention(ids + [row["token_id"] for row in rows])[list(LAYERS)]
    for row in rows:
        assert (row["head_sketch"], row["zone_evidence"]) == (None, None)
        i = len(ids) + row["step"] - 1
        want = reference.head_figures(attention[:, :, i, : i + 1])
        assert want.shape == (len(LAYERS), NUM_HEADS, NUM_HEAD_FIGURES)
        np.testing.assert_allclose(row["head_figures"], want.reshape(-1), rtol=0, atol=TOLERANCE)


def test_a_sketch_is_the_figures_times_the_matrix(
    server: Server, sink: Sink, before: tuple[str, list[dict[str, Any]]], matrix: HeadProjection
) -> None:
    """The same greedy request again: its tokens are those whose figures are known."""
    _, rows = rows_of(server, sink)
    assert [row["token_id"] for row in rows] == [row["token_id"] for row in before[1]]
    wanted = matrix.project(np.array([row["head_figures"] for row in before[1]]))
    assert abs(wanted[:, :NUM_SKETCH]).max() > 0.5, "numbers that a wrong sketch would not be near"
    for row, want in zip(rows, wanted, strict=True):
        np.testing.assert_allclose(sketch_of(row), want, rtol=0, atol=SKETCH_TOLERANCE)
    named = {b.info.head_projection for b in sink.batches if b.kind == "fingerprints" and has(b, rows[-1])}
    assert named == {matrix.sha256}
    assert {b.info.head_projection for b in sink.batches if b.kind == "requests"} == {None}
    assert state(server)["head_projection"] == matrix.sha256


def has(batch: Any, row: dict[str, Any]) -> bool:
    return row["request_id"] in batch.rows.column("request_id").to_pylist()


def test_every_token_has_a_sketch_whatever_its_request_asks(server: Server, sink: Sink, matrix: HeadProjection) -> None:
    ask = {"return_attention_tokens": True, "attention_tokens_prefill": "all"}
    answer = server.chat(PROMPT + " And then?", **ASKED, **ask)
    sink.ended(answer["id"])
    rows = [row for row in sink.rows("fingerprints") if row["request_id"] == answer["id"]]
    assert [row["step"] for row in rows] == list(range(8))
    assert all(np.isfinite(sketch_of(row)).all() for row in rows)
    assert "head_sketch" not in answer["choices"][0]["message"]["attention_tokens"][0]


def test_what_does_not_fit_is_refused_and_the_matrix_stays(server: Server, sink: Sink, matrix: HeadProjection) -> None:
    earlier = state(server)["head_projections_refused"]
    sink.offer(make_projection(2, layers=(0, 1)).to_bytes())
    for _ in range(50):
        rows_of(server, sink, "Hello again")
        if state(server)["head_projections_refused"] == earlier + 1:
            break
    else:
        pytest.fail(f"not refused: {state(server)}")
    _, rows = rows_of(server, sink, "Hello again")
    assert all(row["head_sketch"] for row in rows)
    assert state(server)["head_projection"] == matrix.sha256
    assert "does not fit: it is made for layers [0, 1]" in server.log.read_text()
