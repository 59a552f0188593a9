"""The definition, on attention whose fingerprint can be said by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_core.fingerprint import valid_rows
from attn_core.head_projection import NUM_COLUMNS, HeadProjection
from attn_kernels import reference


def rows(p: np.ndarray, *, layers: int = 8, heads: int = 3) -> np.ndarray:
    """The same attention in every layer and head."""
    return np.broadcast_to(p, (layers, heads, len(p)))


def test_attention_to_one_position_has_no_entropy_and_one_bin() -> None:
    p = np.zeros(200)
    p[199 - 40] = 1.0
    found = reference.fingerprint(rows(p), prompt_len=170, k=4)
    assert found.vector[:4].tolist() == [0, 1, 0, 0]
    assert found.vector[4:12].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    assert found.vector[12:].tolist() == [0] * 8
    assert (found.sink_mass, found.prompt_mass) == (0, 1)
    assert found.periodicity < 0.1
    assert found.topk_positions[0] == 159
    assert found.residual_mass == 0


def test_uniform_attention_has_the_largest_entropy() -> None:
    n = 1000
    found = reference.fingerprint(rows(np.full(n, 1 / n)), prompt_len=100, k=10)
    assert found.vector[3] == pytest.approx(math.log(n))
    assert found.vector[:3] == pytest.approx([0.010, 0.090, 0.900])
    assert found.vector[4:12] == pytest.approx(np.diff([0, 1, 2, 4, 8, 32, 128, 512, n]) / n)
    assert (found.sink_mass, found.prompt_mass) == pytest.approx((0.004, 0.096))
    assert found.topk_positions.tolist() == list(range(10))
    assert found.residual_mass == pytest.approx(0.990)


def test_layers_are_averaged_and_kept_apart() -> None:
    sharp, flat = np.eye(16)[15], np.full(16, 1 / 16)
    found = reference.fingerprint(
        np.stack([np.stack([sharp, flat])] * 4 + [np.stack([flat, flat])] * 4), prompt_len=1, k=1
    )
    assert found.vector[12:] == pytest.approx([math.log(16) / 2] * 4 + [math.log(16)] * 4)
    assert found.topk_probs[0] == pytest.approx(0.25 + 0.75 / 16)


@pytest.mark.parametrize(("period", "at_least"), [(2, 0.95), (3, 0.95), (7, 0.9), (20, 0.8), (40, 0.6)])
@pytest.mark.parametrize("decay", [1e9, 40.0])
def test_a_period_is_found_on_whatever_trend(period: int, at_least: float, decay: float) -> None:
    p = np.full(160, 0.01)
    p[::-1][::period] = 1.0
    p *= np.exp(-np.arange(160)[::-1] / decay)
    found = reference.periodicity(p / p.sum())
    assert found > (at_least if decay > 1e6 else 0.6 * at_least)


def test_noise_and_lone_bumps_have_little_of_a_period() -> None:
    rng = np.random.default_rng(0)
    noise = [reference.periodicity(rng.dirichlet(np.ones(160))) for _ in range(200)]
    assert 0.1 < np.median(noise) < 0.25
    for width in (1, 3, 6, 12):
        bump = np.full(160, 1e-3)
        bump[60 : 60 + width] = 0.1
        assert reference.periodicity(bump / bump.sum()) < 0.2


@pytest.mark.parametrize("scale", [1.0, 5.0, 50.0])
def test_decay_is_no_period(scale: float) -> None:
    p = np.exp(-np.arange(160)[::-1] / scale)
    assert reference.periodicity(p / p.sum()) < 1e-9


def test_the_sink_and_an_empty_window_have_no_period() -> None:
    assert reference.periodicity(np.array([1.0, 0, 0, 0])) == 0
    assert reference.periodicity(np.array([0.5, 0.1, 0.1, 0.1, 0, 0, 0])) == 0


def test_window_cap_and_groups_shape_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    query, keys = rng.normal(size=(4, 8)), rng.normal(size=(10, 2, 8))
    windowed = reference.probabilities(query, keys, scaling=1.0, sliding_window=3)
    assert (windowed[:, :6] == 0).all()
    assert (windowed[:, 6:] > 0).all()
    capped = reference.probabilities(query * 100, keys, scaling=1.0, logit_cap=1.0)
    assert (capped.max(axis=1) / capped.min(axis=1) <= math.exp(2) + 1e-9).all()
    alone = reference.probabilities(query[2:3], keys[:, 1:], scaling=1.0)
    assert reference.probabilities(query, keys, scaling=1.0)[2] == pytest.approx(alone[0])


@given(st.integers(1, 700), st.integers(0, 2**32 - 1), st.floats(0.1, 20))
def test_every_fingerprint_holds_the_contract(n: int, seed: int, sharpness: float) -> None:
    scores = np.random.default_rng(seed).normal(size=(8, 2, n)) * sharpness
    p = np.exp(scores - scores.max(axis=2, keepdims=True))
    found = reference.fingerprint(p / p.sum(axis=2, keepdims=True), prompt_len=min(n, 5), k=8)
    assert valid_rows(found.vector[None], np.array([n])).all()
    assert 0 <= found.periodicity <= 1
    assert found.residual_mass + found.topk_probs.sum() == pytest.approx(1)
    assert found.sink_mass + found.prompt_mass <= 1 + 1e-9


def test_head_figures_tell_each_head_apart() -> None:
    p = np.zeros((2, 2, 150))
    p[0, 0, [0, 3, 4]] = 0.25, 0.25, 0.5  # all of it beyond distance 100
    p[0, 1, 149 - np.array([9, 10])] = 0.75, 0.25
    p[1, 0, 149 - np.array([99, 100])] = 0.5
    p[1, 1, 0] = 0.125  # seven eighths drawn off by a sink logit
    found = reference.head_figures(p)
    assert found.shape == (2, 2, 5)
    assert found[0, 0] == pytest.approx([0.5, 0, 0, 1, 1.5 * math.log(2)])
    assert found[0, 1] == pytest.approx([0, 0.75, 0.25, 0, math.log(4) - 0.75 * math.log(3)])
    assert found[1, 0] == pytest.approx([0, 0, 0.5, 0.5, math.log(2)])
    assert found[1, 1].tolist() == [1, 0, 0, 1, 0]


def test_sink_positions_count_in_their_distance_class_too() -> None:
    assert reference.head_figures(np.full((1, 1, 4), 0.25))[0, 0, :4].tolist() == [1, 1, 0, 0]


def test_of_repeated_layers_the_figures_are_told_once() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(130), size=(8, 3))
    layers = (0, 0, 4, 4, 4, 7, 7, 7)
    found = reference.head_figures(p, layers=layers)
    assert found.shape == (3, 3, 5)
    assert (found == reference.head_figures(p[[0, 2, 5]])).all()


@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.floats(0.1, 20))
def test_means_of_head_figures_are_the_fingerprint_s(n: int, seed: int, sharpness: float) -> None:
    scores = np.random.default_rng(seed).normal(size=(8, 2, n)) * sharpness
    p = np.exp(scores - scores.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    whole, figures = reference.fingerprint(p, prompt_len=1, k=1), reference.head_figures(p)
    assert figures[..., 0].mean() == pytest.approx(whole.sink_mass)
    assert figures[..., 1:4].mean(axis=(0, 1)) == pytest.approx(whole.vector[:3])
    assert figures[..., 4].mean(axis=1) == pytest.approx(whole.vector[12:])
    assert figures[..., 1:4].sum(axis=2) == pytest.approx(np.ones((8, 2)))


def test_a_sketch_is_the_projection_s() -> None:
    rng = np.random.default_rng(1)
    projection = HeadProjection(
        model="m",
        layers=(1, 5),
        num_heads=3,
        matrix=rng.normal(size=(30, NUM_COLUMNS)).astype(np.float32),
        offset=rng.normal(size=NUM_COLUMNS).astype(np.float32),
    )
    figures = reference.head_figures(rng.dirichlet(np.ones(130), size=(2, 3)))
    found = reference.head_sketch(figures, matrix=projection.matrix, offset=projection.offset)
    by_hand = projection.offset.astype(np.float64)
    for layer in range(2):
        for head in range(3):
            for figure in range(5):
                row = (layer * 3 + head) * 5 + figure
                by_hand = by_hand + figures[layer, head, figure] * projection.matrix[row].astype(np.float64)
    assert found == pytest.approx(by_hand)
    assert projection.project(figures)[0] == pytest.approx(by_hand, abs=1e-5)
