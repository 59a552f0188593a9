"""From a finished step to answers and publisher: what was captured, what was left out, and a prompt in parts."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attn_kernels.torch_ops import Captured


@pytest.fixture(scope="module")
def plugin() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SGLang's and torch's own, at their import
        from attn_kernels.sglang_plugin import capture, committed, packed, plan, prompt_tokens, readers
    return SimpleNamespace(
        capture=capture, committed=committed, packed=packed, plan=plan, prompt_tokens=prompt_tokens, readers=readers
    )


def captured(num: int, *, mark: float = 0.0) -> Captured:
    return Captured(
        vector=torch.full((num, 20), mark),
        companions=torch.zeros(num, 4),
        topk_positions=torch.zeros(num, 2, dtype=torch.int32),
        topk_probs=torch.zeros(num, 2),
    )


def sketched(num: int, projection: str | None) -> Captured:
    return replace(captured(num), sketch=None if projection is None else torch.arange(num * 21.0).view(num, 21))


def request(rid: str, *, prompt_len: int = 4, asks: bool = True, prompt: bool = False) -> SimpleNamespace:
    custom: dict[str, Any] = {"attention_tokens": asks}
    if prompt:
        custom["attention_tokens_prefill"] = "all"
    return SimpleNamespace(
        rid=rid,
        origin_input_ids=list(range(50, 50 + prompt_len)),
        customized_info=None,
        finished=lambda: False,
        sampling_params=SimpleNamespace(custom_params=custom, max_new_tokens=8),
    )


def consume(plugin: Any, plan: Any, step: Any, reqs: list[Any], commits: list[Any]) -> list[Any]:
    """Carry a finished step to the host and commit it; the rows that were published."""
    published: list[Any] = []
    journal = plugin.committed.Journal(SimpleNamespace(put=published.append))
    finished = plugin.capture.Finished(plan=plan, captured=step)
    plugin.committed.OnDevice(finished, journal).copy_to_host(lambda t: t.clone()).consume(
        SimpleNamespace(reqs=reqs), commits
    )
    return published


def token(output_index: int, token_id: int) -> SimpleNamespace:
    return SimpleNamespace(output_index=output_index, token_ids=(token_id,))


def make_plan(plugin: Any, *, asked: list[bool], **changes: Any) -> Any:
    num = len(asked)
    return plugin.plan.Plan(
        rows=tuple(range(num)),
        context_lens=(5,) * num,
        prompt_lens=(4,) * num,
        asked=tuple(asked),
        last_query=None,
        **changes,
    )


def unpacked(plugin: Any, req: Any) -> list[Any]:
    entries = (req.customized_info or {}).get("attention_tokens", [])
    return [None if e is None else plugin.packed.unpack(e[0], sampled=e[1]) for e in entries]


def test_what_the_budget_left_out_is_said_to_who_asked(plugin: Any) -> None:
    reqs = [request("captured"), request("left out"), request("silent", asks=False)]
    plan = make_plan(plugin, asked=[True, True, False]).without([False, True, True].__getitem__, thinned=True)
    step = plugin.readers.StepCapture(rows=captured(1), prompts=())
    published = consume(plugin, plan, step, reqs, [token(1, 7), token(1, 8), token(1, 9)])
    assert [row.request_ids for row in published] == [["captured"]]
    first = unpacked(plugin, reqs[0])
    assert first[0] is None
    assert (first[1]["token_id"], first[1]["sampled"], "captured" in first[1]) == (7, True, False)
    assert unpacked(plugin, reqs[1]) == [
        None,
        {"index": 1, "step": 1, "token_id": 8, "sampled": True, "captured": False},
    ]
    assert reqs[2].customized_info is None


def test_a_step_that_could_not_be_read_is_said_without_calling_it_sampled(plugin: Any) -> None:
    reqs = [request("asking")]
    plan = make_plan(plugin, asked=[True]).without(lambda row: True, thinned=False)
    step = plugin.readers.StepCapture(rows=None, prompts=())
    assert consume(plugin, plan, step, reqs, [token(0, 3)]) == []
    assert unpacked(plugin, reqs[0]) == [{"index": 0, "step": 0, "token_id": 3, "captured": False}]


def test_a_row_whose_token_was_not_committed_is_dropped(plugin: Any) -> None:
    reqs = [request("kept"), request("taken back")]
    step = plugin.readers.StepCapture(rows=captured(2), prompts=())
    published = consume(plugin, make_plan(plugin, asked=[True, True]), step, reqs, [token(0, 3), None])
    assert published[0].request_ids == ["kept"]
    assert reqs[1].customized_info is None


def test_a_token_that_ends_its_answer_is_known_as_the_last(plugin: Any) -> None:
    reqs = [request("goes on"), request("ends")]
    reqs[1].finished = lambda: True
    step = plugin.readers.StepCapture(rows=captured(2), prompts=())
    (published,) = consume(plugin, make_plan(plugin, asked=[True, True]), step, reqs, [token(0, 3), token(0, 4)])
    assert published.last == [False, True]


@pytest.mark.parametrize(("sampled", "committed"), [(0, False), (1, True), (2, True), (None, True)])
def test_sketches_and_raw_figures_stay_with_their_rows(plugin: Any, *, sampled: int | None, committed: bool) -> None:
    """Row 0 was taken back: what it had goes with it, and the others keep theirs."""
    figures = None if sampled is None else torch.full((40,), 0.5)
    step = plugin.readers.StepCapture(
        rows=sketched(3, "a" * 64), prompts=(), head_projection="a" * 64, sampled=sampled, figures=figures
    )
    reqs = [request(name, asks=False) for name in "abc"]
    plan = make_plan(plugin, asked=[False] * 3)
    (published,) = consume(plugin, plan, step, reqs, [None, token(0, 3), token(0, 4)])
    assert published.request_ids == ["b", "c"]
    assert published.head_projection == "a" * 64
    assert published.sketches.tolist() == torch.arange(63.0).view(3, 21)[1:].tolist()
    if sampled is None or not committed:
        assert published.head_figures is None
    else:
        given = [one is not None for one in published.head_figures]
        assert given == [sampled == 1, sampled == 2]
        assert published.head_figures[sampled - 1].tolist() == [0.5] * 40


def test_without_a_matrix_there_is_no_sketch_and_none_is_named(plugin: Any) -> None:
    step = plugin.readers.StepCapture(rows=sketched(1, None), prompts=())
    (published,) = consume(plugin, make_plan(plugin, asked=[False]), step, [request("a")], [token(0, 3)])
    assert (published.sketches, published.head_projection, published.head_figures) == (None, None, None)


def test_a_prompt_s_parts_come_together_and_what_is_missing_is_said(plugin: Any) -> None:
    req = request("asking", prompt_len=9, prompt=True)
    part = plugin.plan.PromptPart
    first = make_plan(plugin, asked=[], prompts=(part(row=0, first=0, num=3, first_query=0, prompt_len=9),))
    consume(plugin, first, plugin.readers.StepCapture(rows=None, prompts=(captured(3),)), [req], [None])
    assert req.customized_info is None, "a middle chunk yields no token to carry it"
    last = make_plan(plugin, asked=[True], prompts=(part(row=0, first=5, num=2, first_query=0, prompt_len=9),))
    step = plugin.readers.StepCapture(rows=captured(1), prompts=(captured(2, mark=1.0),))
    consume(plugin, last, step, [req], [token(0, 3)])
    [packed] = req.customized_info["prompt_attention_tokens"]
    rows, missing = plugin.packed.unpack_prompt(packed)
    assert [row["position"] for row in rows] == [0, 1, 2, 5, 6]
    assert [row["token_id"] for row in rows] == [50, 51, 52, 55, 56]
    assert [row["fingerprint"][0] for row in rows] == [0, 0, 0, 1, 1]
    assert missing == [(3, 5), (7, 9)]
    assert not plugin.prompt_tokens.is_wanted(req), "once"
    consume(plugin, last, step, [req], [token(1, 4)])
    assert len(req.customized_info["prompt_attention_tokens"]) == 1


def test_only_who_wants_its_prompt_computes_all_of_it(plugin: Any) -> None:
    limit = plugin.prompt_tokens.around_max_prefix_len
    wanting, plain = request("asking", prompt=True), request("plain")
    assert limit(lambda self, n: n - 1, wanting, 9) == 0
    assert limit(lambda self, n: n - 1, plain, 9) == 8
    warming = request("fills the cache for n choices", prompt=True)
    warming.sampling_params.max_new_tokens = 0
    assert limit(lambda self, n: n - 1, warming, 9) == 8
