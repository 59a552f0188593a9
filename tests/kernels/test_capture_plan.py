"""Which requests of a batch are captured, and at which query."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attn_kernels.sglang_plugin.settings import CaptureSettings


@pytest.fixture(scope="module")
def plan_module() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SGLang's and torch's own, at their import
        from attn_kernels.sglang_plugin import plan

    return plan


def request(
    rid: str,
    *,
    prompt_len: int = 10,
    output_len: int = 0,
    asks: bool = False,
    extend_end: int | None = None,
    **custom: Any,
) -> SimpleNamespace:
    """The parts of SGLang's request that the plan looks at."""
    params = {**({"attention_tokens": True} if asks else {}), **custom}
    fill = list(range(prompt_len + output_len))
    return SimpleNamespace(
        rid=rid,
        origin_input_ids=list(range(prompt_len)),
        full_untruncated_fill_ids=fill,
        extend_end=len(fill) if extend_end is None else extend_end,
        sampling_params=SimpleNamespace(custom_params=params or None, max_new_tokens=8),
    )


def plan(
    module: Any,
    reqs: list[Any],
    *,
    extend_lens: list[int] | None = None,
    decoding: list[Any] | None = None,
    **options: Any,
) -> Any:
    """The plan for these requests, in decode or, with `extend_lens`, in an extend pass; and who was said to start."""
    started: list[str] = []
    mode = SimpleNamespace(is_decode=lambda: extend_lens is None, is_extend=lambda: extend_lens is not None)
    batch = SimpleNamespace(forward_mode=mode, reqs=reqs, decoding_reqs=decoding, extend_lens=extend_lens)
    lens = torch.tensor([req.extend_end for req in reqs])
    which = CaptureSettings(**options).capture
    forward_batch = SimpleNamespace(seq_lens_cpu=lens)
    found = module.plan_of(batch, forward_batch, which=which, started=lambda req: started.append(req.rid))
    assert started == ([reqs[i].rid for i in found.rows] if found else [])
    return found


def test_in_decode_every_row_is_its_own_query(plan_module: Any) -> None:
    found = plan(plan_module, [request("a", output_len=3), request("b", prompt_len=4, output_len=1, asks=True)])
    assert found.rows == (0, 1)
    assert (found.context_lens, found.prompt_lens, found.asked) == ((13, 5), (10, 4), (False, True))
    assert found.last_query is None


def test_a_middle_chunk_is_not_captured(plan_module: Any) -> None:
    reqs = [request("whole"), request("chunk", prompt_len=100, extend_end=64), request("last chunk", prompt_len=70)]
    found = plan(plan_module, reqs, extend_lens=[10, 64, 6])
    assert found.rows == (0, 2)
    assert found.last_query == (9, 79)
    assert plan(plan_module, reqs[1:2], extend_lens=[64]) is None


def test_a_decoding_request_in_a_mixed_batch_is_captured(plan_module: Any) -> None:
    decoding = request("decoding", output_len=5, extend_end=12)
    found = plan(plan_module, [request("new"), decoding], extend_lens=[10, 1], decoding=[decoding])
    assert found.rows == (0, 1)
    assert found.last_query == (9, 10)


def test_only_who_asks_where_only_the_requested_are_captured(plan_module: Any) -> None:
    reqs = [request("silent"), request("asking", asks=True)]
    assert plan(plan_module, reqs, capture="requested").rows == (1,)
    assert plan(plan_module, reqs[:1], capture="requested") is None


def test_the_server_s_own_requests_are_never_captured(plan_module: Any) -> None:
    reqs = [request("HEALTH_CHECK_1"), request("warm-up", attention_unseen=True), request("user")]
    assert plan(plan_module, reqs).rows == (2,)
