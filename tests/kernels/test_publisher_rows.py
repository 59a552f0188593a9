"""Steps of any shape become the wire's columns: each row is what its step held."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_core.wire import FINGERPRINTS
from attn_kernels.rows import StepRows, fingerprint_batch, with_texts
from attn_kernels.token_text import RequestTexts, Separate, TokenTexts


@st.composite
def steps(draw: st.DrawFn) -> StepRows:
    """A step of up to five requests, its top-k at times wider than a context."""
    num_rows, k = draw(st.integers(0, 5)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    each = st.lists(st.integers(1, 9), min_size=num_rows, max_size=num_rows)
    return StepRows(
        request_ids=[f"r{i}" for i in range(num_rows)],
        steps=draw(each),
        token_ids=draw(each),
        asked=draw(st.lists(st.booleans(), min_size=num_rows, max_size=num_rows)),
        captured_at_us=draw(st.integers(0, 2**53 - 1)),
        context_lens=draw(each),
        vectors=random.random((num_rows, 20), np.float32),
        companions=random.random((num_rows, 4), np.float32),
        topk_positions=random.integers(0, 9, (num_rows, k), np.int32),
        topk_probs=random.random((num_rows, k), np.float32),
    )


def row(part: StepRows, i: int, *, privacy: bool) -> dict[str, Any]:
    """The row that the contract asks for."""
    top = part.asked[i] and not privacy
    kept = min(part.context_lens[i], part.topk_probs.shape[1])
    return {
        "request_id": part.request_ids[i],
        "step": part.steps[i],
        "captured_at_us": part.captured_at_us,
        "token_id": None if privacy else part.token_ids[i],
        "token_text": None if privacy else f"<{part.token_ids[i]}>",
        "vector": part.vectors[i].tolist(),
        "context_len": part.context_lens[i],
        "sink_mass": part.companions[i, 0].item(),
        "prompt_mass": part.companions[i, 1].item(),
        "periodicity": part.companions[i, 2].item(),
        "topk_positions": part.topk_positions[i, :kept].tolist() if top else None,
        "topk_probs": part.topk_probs[i, :kept].tolist() if top else None,
        "residual_mass": part.companions[i, 3].item() if top else None,
        "head_sketch": None,
        "zone_evidence": None,
        "head_figures": None,
    }


@given(parts=st.lists(steps(), min_size=1, max_size=4), privacy=st.booleans())
@settings(deadline=None)
def test_each_row_is_what_its_step_held(parts: list[StepRows], *, privacy: bool) -> None:
    texts = RequestTexts(TokenTexts(Separate(lambda token: f"<{token}>")))
    batch = fingerprint_batch([with_texts(part, texts) for part in parts], privacy=privacy)
    assert batch.schema.equals(FINGERPRINTS)
    batch.validate(full=True)
    expected = [row(part, i, privacy=privacy) for part in parts for i in range(len(part.token_ids))]
    assert batch.to_pylist() == expected
