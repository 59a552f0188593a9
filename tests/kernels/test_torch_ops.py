"""The torch capture against the definition: ragged batches, odd lengths, groups, windows, caps, sinks, prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_core.head_projection import NUM_COLUMNS, HeadProjection
from attn_kernels import reference, torch_ops
from attn_kernels.torch_ops import Captured, HeadShards, LayerQueries, Projection, capture, capture_prompt

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


def make_projection(*, layers: int, heads: int, seed: int = 0) -> HeadProjection:
    """One whose sketches are about as large as the figures are."""
    rng = np.random.default_rng(seed)
    rows = layers * heads * 5
    return HeadProjection(
        model="m",
        layers=tuple(range(layers)),
        num_heads=heads,
        matrix=(rng.normal(size=(rows, NUM_COLUMNS)) / rows**0.5).astype(np.float32),
        offset=rng.normal(size=NUM_COLUMNS).astype(np.float32),
    )


def probabilities(layers: list[LayerQueries], slots: torch.Tensor, *, row: int, n: int) -> np.ndarray:
    """float64 [layers, H, n], the definition's."""
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
    return np.stack(p)


def expected(
    layers: list[LayerQueries], slots: torch.Tensor, *, row: int, n: int, prompt_len: int, k: int
) -> reference.Fingerprint:
    return reference.fingerprint(probabilities(layers, slots, row=row, n=n), prompt_len=prompt_len, k=k)


def check_heads(captured: Captured, p: np.ndarray, *, row: int, projection: HeadProjection, ids: list[int]) -> None:
    """Figures and sketch of a request against the definition's, of its probabilities."""
    figures = reference.head_figures(p, layers=ids).reshape(-1)
    assert captured.head_figures is not None
    assert captured.sketch is not None
    assert captured.head_figures.dtype == captured.sketch.dtype == torch.float32
    assert captured.head_figures[row].numpy() == pytest.approx(figures, abs=1e-5)
    want = reference.head_sketch(figures, matrix=projection.matrix, offset=projection.offset)
    assert captured.sketch[row].numpy() == pytest.approx(want, abs=1e-5)


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


@settings(max_examples=60, deadline=None)
@given(
    lens=st.lists(
        st.one_of(st.integers(1, 300), st.sampled_from([1, 4, 9, 10, 11, 99, 100, 101])), max_size=5, min_size=1
    ),
    same_length=st.booleans(),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    window=st.sampled_from([-1, 0, 1, 37, 105]),
    sinks=st.booleans(),
    ids=st.sampled_from([[0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 1, 1, 2, 2, 2], [0] * 8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_single_heads_agree_with_the_definition(
    lens: list[int], same_length: bool, kv_heads: int, group: int, window: int, sinks: bool, ids: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lens = [lens[0]] * len(lens) if same_length else lens
    made = make_layers(rng, batch=len(lens), kv_heads=kv_heads, group=group, dim=16, window=window, sinks=sinks)
    layers = [made[number] for number in ids]
    slots = make_slots(rng, lens)
    whole = make_projection(layers=len(set(ids)), heads=kv_heads * group, seed=seed)
    asked = {"slots": slots, "context_lens": lens, "prompt_lens": [1] * len(lens), "k": 4}
    captured = capture(
        layers,
        **asked,
        projection=Projection.of_rank(whole, num_heads=kv_heads * group),
        with_head_figures=True,
        layer_ids=ids,
    )
    for row, n in enumerate(lens):
        check_heads(captured, probabilities(layers, slots, row=row, n=n), row=row, projection=whole, ids=ids)
    without = capture(layers, **asked)
    assert without.sketch is None
    assert without.head_figures is None
    assert torch.equal(without.vector[:, :4], captured.vector[:, :4])
    torch.testing.assert_close(without.vector, captured.vector, atol=2e-6, rtol=0)
    assert torch.equal(without.topk_positions, captured.topk_positions)


@pytest.mark.parametrize("lens", [[100], [101], [99, 101, 100, 102]])
def test_long_mass_is_0_where_the_context_does_not_reach_distance_100(lens: list[int]) -> None:
    rng = np.random.default_rng(4)
    layers = make_layers(rng, batch=len(lens), kv_heads=2, group=2, dim=16)
    captured = capture(
        layers,
        slots=make_slots(rng, lens),
        context_lens=lens,
        prompt_lens=[1] * len(lens),
        k=4,
        with_head_figures=True,
    )
    assert captured.head_figures is not None
    for n, long_mass in zip(lens, captured.head_figures[:, 3::5], strict=True):
        assert bool((long_mass > 0).all()) if n > 100 else bool((long_mass == 0).all())


def test_sketch_and_figures_come_only_where_asked_for() -> None:
    rng = np.random.default_rng(2)
    layers = make_layers(rng, batch=1, kv_heads=1, group=2, dim=16)
    asked = {"slots": make_slots(rng, [40]), "context_lens": [40], "prompt_lens": [1], "k": 4}
    own = Projection.of_rank(make_projection(layers=8, heads=2), num_heads=2)
    sketch, figures = capture(layers, **asked, projection=own), capture(layers, **asked, with_head_figures=True)
    assert sketch.head_figures is None
    assert figures.sketch is None
    assert figures.head_figures is not None
    assert sketch.sketch is not None
    want = figures.head_figures.double() @ own.matrix.double() + own.offset
    torch.testing.assert_close(sketch.sketch.double(), want, atol=1e-6, rtol=0)


def test_each_changes_what_there_is() -> None:
    rng = np.random.default_rng(2)
    layers = make_layers(rng, batch=2, kv_heads=1, group=2, dim=16)
    slots = make_slots(rng, [40, 41])
    captured = capture(
        layers, slots=slots, context_lens=[40, 41], prompt_lens=[1, 1], k=4, with_head_figures=True
    ).each(lambda tensor: tensor[1:])
    assert captured.sketch is None
    assert captured.head_figures is not None
    assert (captured.vector.shape, captured.head_figures.shape) == ((1, 20), (1, 80))


def test_a_rank_has_the_rows_of_its_own_heads() -> None:
    whole = make_projection(layers=3, heads=4)
    by_head = whole.matrix.reshape(3, 4, 5, NUM_COLUMNS)
    own = Projection.of_rank(whole, num_heads=2, first_head=1)
    assert (own.matrix.numpy() == by_head[:, 1:3].reshape(-1, NUM_COLUMNS)).all()
    assert (own.offset.numpy() == whole.offset).all()


def test_lengths_far_apart_are_computed_apart_and_come_back_in_order() -> None:
    rng = np.random.default_rng(7)
    lens = [900, 3, 40, 870, 5, 1]
    layers = make_layers(rng, batch=6, kv_heads=3, group=3, dim=64, logit_cap=0.0, window=-1)
    slots = make_slots(rng, lens)
    whole = make_projection(layers=8, heads=9)
    own = Projection.of_rank(whole, num_heads=9)
    captured = capture(
        layers, slots=slots, context_lens=lens, prompt_lens=[1] * 6, k=4, projection=own, with_head_figures=True
    )
    for row, n in enumerate(lens):
        check(captured, expected(layers, slots, row=row, n=n, prompt_len=1, k=4), row=row)
        p = probabilities(layers, slots, row=row, n=n)
        check_heads(captured, p, row=row, projection=whole, ids=list(range(8)))


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
    first, num, prompt_len = 70, 45, 130
    layers = make_layers(rng, batch=num, kv_heads=2, group=3, dim=16, logit_cap=5.0, window=window, sinks=sinks)
    slots = make_slots(rng, [first + num])
    whole = make_projection(layers=1, heads=6)
    captured = capture_prompt(
        [layers[0]] * 8,
        slots=slots,
        first=first,
        prompt_len=prompt_len,
        k=8,
        projection=Projection.of_rank(whole, num_heads=6),
        with_head_figures=True,
        layer_ids=[3] * 8,
    )
    for row in range(num):
        p = probabilities(layers[:1], slots.expand(num, -1), row=row, n=first + row + 1)
        check_heads(captured, p, row=row, projection=whole, ids=[3])
    captured = capture_prompt(layers, slots=slots, first=first, prompt_len=prompt_len, k=8)
    assert captured.vector.shape == (num, 20)
    assert captured.sketch is None
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

    shards = HeadShards(num_heads=4, all_reduce=all_reduce, first_head=2 * rank)
    projection = make_projection(layers=8, heads=4)
    of_all = Projection.of_rank(projection, num_heads=4)
    of_rank = Projection.of_rank(projection, num_heads=2, first_head=2 * rank)
    asked = {"slots": slots, "context_lens": lens, "prompt_lens": [5, 5, 5], "k": 8, "with_head_figures": True}
    whole = capture(layers, **asked, projection=of_all)
    halves = capture([own(layer) for layer in layers], **asked, projection=of_rank, shards=shards)
    assert len(reductions) == 1, "once a step, whatever the lengths"
    asked = {"slots": slots[:1], "first": 4, "prompt_len": 24, "k": 8, "with_head_figures": True}
    whole_prompt = capture_prompt(prompts, **asked, projection=of_all)
    half_prompt = capture_prompt([own(layer) for layer in prompts], **asked, projection=of_rank, shards=shards)
    for one, other in ((whole, halves), (whole_prompt, half_prompt)):
        torch.testing.assert_close(other.vector, one.vector, atol=2e-6, rtol=0)
        torch.testing.assert_close(other.companions, one.companions, atol=2e-6, rtol=0)
        torch.testing.assert_close(other.topk_probs, one.topk_probs, atol=2e-6, rtol=0)
        torch.testing.assert_close(other.sketch, one.sketch, atol=5e-6, rtol=0)
        torch.testing.assert_close(other.head_figures, one.head_figures, atol=2e-6, rtol=0)
    torch.distributed.destroy_process_group()


def test_heads_sharded_over_two_ranks_give_what_one_process_gives(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_of_one_rank, args=(str(tmp_path),), nprocs=2)
