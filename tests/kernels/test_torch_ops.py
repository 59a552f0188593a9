"""The torch capture against the definition, over ragged batches, odd lengths, groups, windows and logit caps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_kernels import reference
from attn_kernels.torch_ops import Captured, LayerQueries, capture

NUM_SLOTS = 2048


def make_layers(
    rng: np.random.Generator, *, batch: int, kv_heads: int, group: int, dim: int, logit_cap: float, window: int
) -> list[LayerQueries]:
    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    return [
        LayerQueries(
            query=normal(batch, kv_heads * group, dim) * rng.uniform(0.5, 4),
            keys=normal(NUM_SLOTS, kv_heads, dim),
            scaling=dim**-0.5,
            logit_cap=logit_cap,
            sliding_window=window,
        )
        for _ in range(8)
    ]


def make_slots(rng: np.random.Generator, lens: list[int]) -> torch.Tensor:
    """Scattered slots, with rubbish past each request's end, which must not be read."""
    slots = np.full((len(lens), max(lens)), NUM_SLOTS * 1000, dtype=np.int32)
    for row, n in zip(slots, lens, strict=True):
        row[:n] = rng.permutation(NUM_SLOTS)[:n]
    return torch.from_numpy(slots)


def expected(
    layers: list[LayerQueries], slots: torch.Tensor, *, row: int, n: int, prompt_len: int, k: int
) -> reference.Fingerprint:
    p = [
        reference.probabilities(
            layer.query[row].double().numpy(),
            layer.keys[slots[row, :n].long()].double().numpy(),
            scaling=layer.scaling,
            logit_cap=layer.logit_cap,
            sliding_window=layer.sliding_window,
        )
        for layer in layers
    ]
    return reference.fingerprint(np.stack(p), prompt_len=prompt_len, k=k)


def check(captured: Captured, want: reference.Fingerprint, *, row: int) -> None:
    assert captured.vector[row].numpy() == pytest.approx(want.vector, abs=5e-6)
    beside = [want.sink_mass, want.prompt_mass, want.periodicity, want.residual_mass]
    assert captured.companions[row].numpy() == pytest.approx(beside, abs=5e-6)
    kept = len(want.topk_probs)
    assert captured.topk_probs[row, :kept].numpy() == pytest.approx(want.topk_probs, abs=2e-6)
    assert (captured.topk_positions[row, kept:] == -1).all()
    assert (captured.topk_probs[row, kept:] == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    lens=st.lists(st.integers(1, 300), min_size=1, max_size=5),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    dim=st.sampled_from([4, 16, 33]),
    logit_cap=st.sampled_from([0.0, 2.0, 30.0]),
    window=st.sampled_from([-1, 0, 1, 37]),
    k=st.sampled_from([1, 8, 64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_the_definition(
    lens: list[int], kv_heads: int, group: int, dim: int, logit_cap: float, window: int, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    layers = make_layers(
        rng, batch=len(lens), kv_heads=kv_heads, group=group, dim=dim, logit_cap=logit_cap, window=window
    )
    slots = make_slots(rng, lens)
    prompt_lens = [int(rng.integers(1, n + 1)) for n in lens]
    captured = capture(layers, slots=slots, context_lens=lens, prompt_lens=prompt_lens, k=k)
    for row, (n, prompt_len) in enumerate(zip(lens, prompt_lens, strict=True)):
        check(captured, expected(layers, slots, row=row, n=n, prompt_len=prompt_len, k=k), row=row)


def test_lengths_far_apart_are_computed_apart_and_come_back_in_order() -> None:
    rng = np.random.default_rng(7)
    lens = [900, 3, 40, 870, 5, 1]
    layers = make_layers(rng, batch=6, kv_heads=3, group=3, dim=64, logit_cap=0.0, window=-1)
    slots = make_slots(rng, lens)
    captured = capture(layers, slots=slots, context_lens=lens, prompt_lens=[1] * 6, k=4)
    for row, n in enumerate(lens):
        check(captured, expected(layers, slots, row=row, n=n, prompt_len=1, k=4), row=row)


def test_of_equal_probabilities_the_lower_position_comes_first() -> None:
    layer = LayerQueries(query=torch.zeros(2, 2, 4), keys=torch.randn(NUM_SLOTS, 1, 4), scaling=1.0)
    slots = torch.arange(40).expand(2, 40)
    captured = capture([layer] * 8, slots=slots, context_lens=[40, 25], prompt_lens=[5, 5], k=6)
    assert captured.topk_positions.tolist() == [list(range(6))] * 2


def test_half_precision_keys_are_read_as_they_are() -> None:
    rng = np.random.default_rng(3)
    layers = make_layers(rng, batch=1, kv_heads=2, group=2, dim=16, logit_cap=0.0, window=-1)
    halved = [LayerQueries(query=layer.query.half(), keys=layer.keys.half(), scaling=layer.scaling) for layer in layers]
    slots = make_slots(rng, [77])
    captured = capture(halved, slots=slots, context_lens=[77], prompt_lens=[20], k=8)
    check(captured, expected(halved, slots, row=0, n=77, prompt_len=20, k=8), row=0)
