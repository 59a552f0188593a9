"""Grounding: bounds that always hold the truth, and sentences that are the answer in order."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidecar_tools import random_rows, request_row, with_column

from attn_sidecar.admission import Span
from attn_sidecar.api.requests import MAX_FIGURES
from attn_sidecar.grounding import grounding, parts_of
from attn_sidecar.sentences import sentence_ranges
from attn_sidecar.store.records import Token

ROUNDING = 3e-6


def token_from_attention(attention, *, step, prompt_len, top_k, text=" a", companions=True):
    """What is stored of a token whose attention over all positions is `attention`."""
    order = np.argsort(-attention, kind="stable")[:top_k]
    return Token(
        id=step + 1, request_id="r", step=step, captured_at_us=0, model_id=None, token_id=None, token_text=text,
        zone=None, confidence=None, cluster_id=None, classified_run_id=None, context_len=len(attention),
        sink_mass=float(attention[:4].sum()) if companions else None,
        prompt_mass=float(attention[4:prompt_len].sum()) if companions else None,
        periodicity=None, vector=[],
        topk_positions=order.tolist() if top_k else None,
        topk_probs=attention[order].tolist() if top_k else None,
        residual_mass=float(1 - attention[order].sum()) if top_k else None,
        head_sketch=None, zone_evidence=None, head_projection=None,
        characteristic=None,
    )  # fmt: skip


@st.composite
def answers(draw):
    prompt_len = draw(st.integers(1, 60))
    edges = sorted(draw(st.lists(st.integers(0, prompt_len), min_size=2, max_size=6, unique=True)) or [0])
    spans = [
        Span(message=number, role="user", start=start, end=end)
        for number, (start, end) in enumerate(pairwise(edges))
        if draw(st.booleans())
    ]
    seed, num_tokens = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 5))
    sharpness, top_k = draw(st.sampled_from([0.05, 0.5, 5.0])), draw(st.integers(0, 40))
    rng = np.random.default_rng(seed)
    attention = [rng.dirichlet(np.full(prompt_len + step, sharpness)) for step in range(num_tokens)]
    return prompt_len, spans, attention, top_k, draw(st.booleans())


@given(answers())
def test_the_truth_lies_within_the_bounds(case):
    prompt_len, spans, attention, top_k, companions = case
    tokens = [
        token_from_attention(p, step=step, prompt_len=prompt_len, top_k=top_k, companions=companions)
        for step, p in enumerate(attention)
    ]
    found = grounding(tokens, prompt_len=prompt_len, spans=spans)
    for token, p in zip(found.tokens, attention, strict=True):
        truth = [sum(p[start:end].sum() for start, end in part.ranges) for part in found.parts]
        assert np.isclose(sum(truth), 1)
        for low, mass, high in zip(token.low, truth, token.high, strict=True):
            assert low - ROUNDING <= mass <= high + ROUNDING
        shown = np.sort(p)[::-1][:top_k].sum() if top_k else 0.0
        assert token.mass_not_shown == pytest.approx(1 - shown, abs=ROUNDING)
        if top_k >= len(p):
            assert np.allclose(token.low, token.high, atol=ROUNDING)
    for sentence in found.sentences:
        members = [one for one in found.tokens if sentence.first_step <= one.step < sentence.end_step]
        assert np.allclose(sentence.low, np.mean([one.low for one in members], axis=0), atol=ROUNDING)
        assert np.allclose(sentence.high, np.mean([one.high for one in members], axis=0), atol=ROUNDING)


@given(answers())
def test_every_position_lies_in_exactly_one_part(case):
    prompt_len, spans, *_ = case
    parts = parts_of(prompt_len=prompt_len, spans=spans)
    for position in range(prompt_len + 5):
        assert sum(start <= position < end for part in parts for start, end in part.ranges) == 1


@given(
    prompt_len=st.integers(0, 40),
    ends=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8),
)
def test_parts_are_those_of_asking_each_position(prompt_len, ends):
    """Overlapping, empty, turned and out of the prompt: a position belongs to the first span over it."""
    spans = [Span(message=k, role="user", start=start, end=end) for k, (start, end) in enumerate(ends)]
    parts = parts_of(prompt_len=prompt_len, spans=spans)
    for position in range(min(4, prompt_len), prompt_len):
        owner = next((k for k, span in enumerate(spans) if span.start <= position < span.end), len(spans))
        [found] = [k for k, part in enumerate(parts) if any(a <= position < b for a, b in part.ranges)]
        assert found == owner + 1
    for part in parts:
        assert all(a < b for a, b in part.ranges)
        assert sum(len(one.ranges) for one in parts) <= 2 * len(spans) + 3


def test_a_request_of_many_messages_is_answered_in_bounded_pages(client, sender):
    """Two such requests stopped all reads: 9 s each. Now a page holds a bounded number of figures."""
    spans = [{"message": k, "role": "user", "start": k, "end": k + 1} for k in range(1000)]
    started = with_column(request_row("started", request_id="chat"), "prompt_spans", [json.dumps(spans)])
    sender.send(with_column(started, "prompt_len", [1000]), kind="requests")
    sender.send(random_rows(500, request_id="chat"))
    sender.hear_all()
    steps, from_step, pages = [], 0, 0
    while from_step is not None:
        page = client.get(f"/requests/chat?from_step={from_step}").json()
        figures = len(page["tokens"]) * len(page["grounding"]["parts"])
        assert figures <= MAX_FIGURES
        assert page["prompt_token_texts"] is not None
        steps += [one["step"] for one in page["grounding"]["tokens"]]
        from_step, pages = page["next_step"], pages + 1
    assert steps == list(range(500))
    assert pages == 4
    assert client.get("/requests/chat?prompt=no").json()["prompt_token_texts"] is None


def test_a_message_is_told_apart_from_the_sink_and_the_template():
    spans = [
        Span(message=0, role="system", start=0, end=6),
        Span(message=1, role="user", start=8, end=10),
    ]
    attention = np.array([0.3, 0.1, 0, 0, 0.05, 0.05, 0.02, 0.03, 0.2, 0.15, 0.06, 0.04])
    token = token_from_attention(attention, step=1, prompt_len=11, top_k=4)
    found = grounding([token], prompt_len=11, spans=spans)
    assert [(part.kind, part.role) for part in found.parts] == [
        ("sink", None), ("message", "system"), ("message", "user"), ("template", None), ("answer", None),
    ]  # fmt: skip
    [one] = found.tokens
    # Shown are 0.3, 0.2, 0.15 and 0.1. Of the prompt beyond the sink 0.56 is known to lie there, and 0.35 is shown.
    assert one.low == [0.4, 0.0, 0.35, 0.0, 0.04]
    assert one.high == pytest.approx([0.4, 0.2, 0.35, 0.21, 0.04], abs=1e-6)
    assert one.mass_not_shown == pytest.approx(0.25)


def test_without_a_top_k_only_what_was_stored_exactly_is_known():
    attention = np.full(20, 0.05)
    token = token_from_attention(attention, step=0, prompt_len=20, top_k=0)
    [one] = grounding([token], prompt_len=20, spans=[Span(message=0, role="user", start=0, end=12)]).tokens
    assert one.low == pytest.approx([0.2, 0.0, 0.0, 0.0])
    assert one.high == pytest.approx([0.2, 0.8, 0.8, 0.0])
    assert one.mass_not_shown == 1


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["It", " is", " 4", ".", " Yes", "!"], [(0, 4), (4, 6)]),
        (["Pi", " is", " 3", ".", "14", "."], [(0, 6)]),
        (["a", "\n\n", "b"], [(0, 2), (2, 3)]),
        (["Sure", ".\n", "-", " one", "\n", "-", " two"], [(0, 2), (2, 5), (5, 7)]),
        (["好", "。", "是"], [(0, 2), (2, 3)]),
        (["He said \"no.\" ", "Then", " left."], [(0, 1), (1, 3)]),
        ([None, None], [(0, 2)]),
        ([], []),
    ],
)  # fmt: skip
def test_sentences(texts, expected):
    assert sentence_ranges(texts) == expected


@given(st.lists(st.one_of(st.none(), st.text(alphabet=' .!?\na1。"', max_size=4)), max_size=30))
def test_sentences_are_the_answer_in_order(texts):
    ranges = sentence_ranges(texts)
    assert [k for start, end in ranges for k in range(start, end)] == list(range(len(texts)))
