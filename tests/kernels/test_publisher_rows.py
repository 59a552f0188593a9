"""Steps of any shape become the wire's columns: each row is what its step held; a batch names one head projection."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_core.wire import FINGERPRINTS
from attn_kernels.rows import StepRows, by_projection, fingerprint_batch, single_rows, with_texts
from attn_kernels.token_text import RequestTexts, Separate, TokenTexts


@st.composite
def steps(draw: st.DrawFn) -> StepRows:
    """A step of up to five requests, its top-k at times wider than a context."""
    num_rows, k = draw(st.integers(0, 5)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    each = st.lists(st.integers(1, 9), min_size=num_rows, max_size=num_rows)
    sketches = random.normal(scale=100, size=(num_rows, 21)).astype(np.float32)
    for i in range(num_rows):
        # Now and then a number that is none, or one that float16 does not reach.
        sketches[i, i] = draw(st.sampled_from([0.5, np.nan, np.inf, 1e6, -1e6]))
    projection = draw(st.sampled_from([None, "a" * 64, "b" * 64]))
    figures = [
        None if length is None else random.random(length, np.float32)
        for length in draw(st.lists(st.sampled_from([None, 5, 10]), min_size=num_rows, max_size=num_rows))
    ]
    if num_rows and figures[0] is not None and draw(st.booleans()):
        figures[0][3] = np.nan
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
        head_projection=projection,
        sketches=None if projection is None else sketches,
        head_figures=draw(st.sampled_from([None, figures])),
    )


def row(part: StepRows, i: int, *, privacy: bool) -> dict[str, Any]:
    """The row that the contract asks for."""
    top = part.asked[i] and not privacy
    kept = min(part.context_lens[i], part.topk_probs.shape[1])
    sketch = sketch_of(part, i)
    figures = None if part.head_figures is None else part.head_figures[i]
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
        "head_sketch": None if sketch is None else sketch[:16].tolist(),
        "zone_evidence": None if sketch is None else sketch[16:].tolist(),
        "head_figures": None if figures is None or np.isnan(figures).any() else figures.tolist(),
    }


def sketch_of(part: StepRows, i: int) -> Any:
    """float16 [21], or None where there is none or where it is not of finite numbers."""
    if part.sketches is None or not np.isfinite(part.sketches[i]).all():
        return None
    return np.clip(part.sketches[i], -60_000, 60_000).astype(np.float16)


@given(drawn=st.lists(steps(), min_size=1, max_size=5), privacy=st.booleans())
@settings(deadline=None)
def test_each_row_is_what_its_step_held(drawn: list[StepRows], *, privacy: bool) -> None:
    texts = RequestTexts(TokenTexts(Separate(lambda token: f"<{token}>")))
    groups = by_projection(drawn)
    assert [part for group in groups for part in group] == drawn
    assert all(one[0].head_projection != after[0].head_projection for one, after in pairwise(groups))
    for parts in groups:
        batch = fingerprint_batch([with_texts(part, texts) for part in parts], privacy=privacy)
        assert batch.schema.equals(FINGERPRINTS)
        batch.validate(full=True)
        expected = [row(part, i, privacy=privacy) for part in parts for i in range(len(part.token_ids))]
        assert batch.to_pylist() == expected


@given(part=steps())
def test_a_single_row_keeps_its_sketch_and_its_matrix(part: StepRows) -> None:
    for i, one in enumerate(single_rows(part)):
        assert isinstance(one, StepRows)
        assert fingerprint_batch([one], privacy=True).to_pylist() == [row(part, i, privacy=True)]
        assert one.head_projection == part.head_projection


@given(first=steps(), second=steps())
def test_one_batch_of_two_matrices_is_no_batch(first: StepRows, second: StepRows) -> None:
    if first.head_projection == second.head_projection:
        fingerprint_batch([first, second], privacy=True)
    else:
        with pytest.raises(ValueError, match="different head projections"):
            fingerprint_batch([first, second], privacy=True)
