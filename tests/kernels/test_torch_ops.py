"""The torch capture against the definition: ragged batches, odd lengths, groups, windows, caps, sinks, prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_kernels import reference, torch_ops
from attn_kernels.torch_ops import Captured, HeadShards, LayerQueries, capture, capture_prompt

NUM_SLOTS = 2048


def make_layers(
    rng: np.random.Generator,
    *,
    batch: int,
    kv_heads: int,
    group: int,
    dim: int,
    logit_cap: float = 0.0,
    window: int = -1,
    sinks: bool = False,
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
            sinks=normal(kv_heads * group) * 3 if sinks else None,
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
            layer.keys.float()[(slots if layer.slots is None else layer.slots)[row, :n].long()].double().numpy(),
            scaling=layer.scaling,
            logit_cap=layer.logit_cap,
            sliding_window=layer.sliding_window,
            sinks=None if layer.sinks is None else layer.sinks.double().numpy(),
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
    sinks=st.booleans(),
    k=st.sampled_from([1, 8, 64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_the_definition(
    lens: list[int],
    kv_heads: int,
    group: int,
    dim: int,
    logit_cap: float,
    window: int,
    sinks: bool,
    k: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    layers = make_layers(
        rng, batch=len(lens), kv_heads=kv_heads, group=group, dim=dim, logit_cap=logit_cap, window=window, sinks=sinks
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


@pytest.mark.parametrize("block", [1, 2000, 1 << 23])
@pytest.mark.parametrize(("window", "sinks"), [(-1, False), (20, True)])
def test_a_prompt_s_positions_agree_with_the_definition(
    monkeypatch: pytest.MonkeyPatch, block: int, window: int, sinks: bool
) -> None:
    monkeypatch.setattr(torch_ops, "_PROMPT_BLOCK", block)
    rng = np.random.default_rng(11)
    first, num, prompt_len = 30, 45, 90
    layers = make_layers(rng, batch=num, kv_heads=2, group=3, dim=16, logit_cap=5.0, window=window, sinks=sinks)
    slots = make_slots(rng, [first + num])
    captured = capture_prompt(layers, slots=slots, first=first, prompt_len=prompt_len, k=8)
    assert captured.vector.shape == (num, 20)
    for row in range(num):
        want = expected(layers, slots.expand(num, -1), row=row, n=first + row + 1, prompt_len=prompt_len, k=8)
        check(captured, want, row=row)


def test_a_layer_may_have_its_keys_elsewhere() -> None:
    rng = np.random.default_rng(5)
    lens = [60, 33]
    layers = make_layers(rng, batch=2, kv_heads=2, group=2, dim=16)
    layers = [*layers[:7], replace(layers[7], slots=make_slots(rng, lens))]
    slots = make_slots(rng, lens)
    captured = capture(layers, slots=slots, context_lens=lens, prompt_lens=[5, 5], k=8)
    for row, n in enumerate(lens):
        check(captured, expected(layers, slots, row=row, n=n, prompt_len=5, k=8), row=row)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_keys_and_their_scale(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(3)
    scale = 0.25  # what SGLang divided the keys by: it multiplies the scores again
    layers = [
        replace(layer, keys=(layer.keys / scale).to(dtype), scaling=layer.scaling * scale)
        for layer in make_layers(rng, batch=2, kv_heads=2, group=2, dim=16)
    ]
    slots = make_slots(rng, [77, 50])
    captured = capture(layers, slots=slots, context_lens=[77, 50], prompt_lens=[20, 20], k=8)
    for row, n in enumerate([77, 50]):
        check(captured, expected(layers, slots, row=row, n=n, prompt_len=20, k=8), row=row)


def test_sink_logits_leave_shares_of_what_went_to_positions() -> None:
    """A head that rests on its sink counts for little; what is left sums to 1."""
    rng = np.random.default_rng(9)
    layers = make_layers(rng, batch=1, kv_heads=1, group=2, dim=16)
    sinks = torch.tensor([30.0, -30.0])
    slots = make_slots(rng, [40])
    resting = capture(
        [replace(layer, sinks=sinks) for layer in layers], slots=slots, context_lens=[40], prompt_lens=[9], k=8
    )
    second = [replace(layer, query=layer.query[:, 1:]) for layer in layers]
    awake = capture(second, slots=slots, context_lens=[40], prompt_lens=[9], k=8)
    assert float(resting.vector[0, :3].sum()) == pytest.approx(1, abs=1e-5)
    assert resting.topk_positions.tolist() == awake.topk_positions.tolist()
    assert resting.vector[0, :12].numpy() == pytest.approx(awake.vector[0, :12].numpy(), abs=1e-5)


def _of_one_rank(rank: int, folder: str) -> None:
    """One of two processes, each with half the heads; `torch.distributed` over gloo sums them."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    rng = np.random.default_rng(21)
    layers = make_layers(rng, batch=3, kv_heads=2, group=2, dim=16, sinks=True)
    lens, slots = [300, 12, 280], make_slots(rng, [300, 12, 280])
    prompts = make_layers(rng, batch=20, kv_heads=2, group=2, dim=16)
    reductions: list[int] = []

    def all_reduce(tensor: torch.Tensor) -> None:
        reductions.append(tensor.numel())
        torch.distributed.all_reduce(tensor)

    def own(layer: LayerQueries) -> LayerQueries:
        heads = slice(2 * rank, 2 * rank + 2)
        sinks = None if layer.sinks is None else layer.sinks[heads]
        return replace(layer, query=layer.query[:, heads], keys=layer.keys[:, rank : rank + 1], sinks=sinks)

    shards = HeadShards(num_heads=4, all_reduce=all_reduce)
    whole = capture(layers, slots=slots, context_lens=lens, prompt_lens=[5, 5, 5], k=8)
    halves = capture(
        [own(layer) for layer in layers], slots=slots, context_lens=lens, prompt_lens=[5, 5, 5], k=8, shards=shards
    )
    assert len(reductions) == 1, "once a step, whatever the lengths"
    whole_prompt = capture_prompt(prompts, slots=slots[:1], first=4, prompt_len=24, k=8)
    half_prompt = capture_prompt(
        [own(layer) for layer in prompts], slots=slots[:1], first=4, prompt_len=24, k=8, shards=shards
    )
    for one, other in ((whole, halves), (whole_prompt, half_prompt)):
        torch.testing.assert_close(other.vector, one.vector, atol=2e-6, rtol=0)
        torch.testing.assert_close(other.companions, one.companions, atol=2e-6, rtol=0)
        torch.testing.assert_close(other.topk_probs, one.topk_probs, atol=2e-6, rtol=0)
    torch.distributed.destroy_process_group()


def test_heads_sharded_over_two_ranks_give_what_one_process_gives(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_of_one_rank, args=(str(tmp_path),), nprocs=2)
