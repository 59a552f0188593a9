"""From device to committed token: SGLang's auxiliary output, with our capture in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attn_kernels.publisher import Publisher
from attn_kernels.rows import RequestEvent, StepRows
from attn_kernels.sglang_plugin import request_fields
from attn_kernels.sglang_plugin.capture import Finished, Plan
from attn_kernels.sglang_plugin.packed import KEY, pack
from attn_kernels.torch_ops import Captured

_STARTED, _ENDED = "_attention_started", "_attention_ended"


@dataclass(frozen=True)
class OnDevice:
    """SGLang's `DeviceAuxiliaryOutput`."""

    finished: Finished
    journal: Journal

    def copy_to_host(self, copy_tensor: Callable[[torch.Tensor], torch.Tensor]) -> OnHost:
        """Start the copies; none of the tensors is a buffer that a later step overwrites."""
        captured = self.finished.captured
        host = Captured(
            vector=copy_tensor(captured.vector),
            companions=copy_tensor(captured.companions),
            topk_positions=copy_tensor(captured.topk_positions),
            topk_probs=copy_tensor(captured.topk_probs),
        )
        return OnHost(host, self.finished.plan, self.journal)


@dataclass(frozen=True)
class OnHost:
    """SGLang's `HostAuxiliaryOutput`."""

    captured: Captured
    plan: Plan
    journal: Journal

    def consume(self, batch: Any, commits: Sequence[Any]) -> None:
        """Called once the step's tokens are committed: a row whose token was not committed is dropped."""
        kept = [k for k, row in enumerate(self.plan.rows) if commits[row] is not None]
        if not kept:
            return
        requests = [batch.reqs[self.plan.rows[k]] for k in kept]
        tokens = [commits[self.plan.rows[k]] for k in kept]
        rows = StepRows(
            request_ids=[req.rid for req in requests],
            steps=[token.output_index for token in tokens],
            token_ids=[token.token_ids[0] for token in tokens],
            asked=[self.plan.asked[k] for k in kept],
            captured_at_us=time.time_ns() // 1000,
            context_lens=[self.plan.context_lens[k] for k in kept],
            vectors=self.captured.vector.numpy()[kept],
            companions=self.captured.companions.numpy()[kept],
            topk_positions=self.captured.topk_positions.numpy()[kept],
            topk_probs=self.captured.topk_probs.numpy()[kept],
        )
        _answer(requests, rows)
        self.journal.step(rows)


def _answer(requests: Sequence[Any], rows: StepRows) -> None:
    """Give each asking request its packed row; SGLang streams `customized_info`, one entry an output token."""
    for i, req in enumerate(requests):
        if not rows.asked[i]:
            continue
        if req.customized_info is None:
            req.customized_info = {}
        entries = req.customized_info.setdefault(KEY, [])
        entries += [None] * (rows.steps[i] - len(entries))
        entries.append(
            pack(
                step=rows.steps[i],
                token_id=rows.token_ids[i],
                vector=rows.vectors[i],
                context_len=rows.context_lens[i],
                companions=rows.companions[i],
                topk_positions=rows.topk_positions[i],
                topk_probs=rows.topk_probs[i],
            )
        )


class Journal:
    """Tells the publisher what happened, where there is one."""

    current: Journal | None = None
    """Set when the scheduler is up; the hooks are functions without a place of their own."""

    def __init__(self, publisher: Publisher | None) -> None:
        self._publisher = publisher

    def started(self, req: Any) -> None:
        """The first token of this request is being computed; repeats are ignored."""
        if self._publisher is None or getattr(req, _STARTED, False):
            return
        setattr(req, _STARTED, True)
        custom = req.sampling_params.custom_params
        self._publisher.put(
            RequestEvent(
                request_id=req.rid,
                event="started",
                at_us=time.time_ns() // 1000,
                prompt_len=len(req.origin_input_ids),
                prompt_token_ids=list(req.origin_input_ids),
                prompt_spans=custom.get(request_fields.SPANS) if isinstance(custom, dict) else None,
                sampling_params=_sampling_params(req.sampling_params),
            )
        )

    def step(self, rows: StepRows) -> None:
        """These tokens were committed."""
        if self._publisher is not None:
            self._publisher.put(rows)

    def streamed(self, requests: Iterable[Any]) -> None:
        """SGLang has streamed what is new of these requests; some may have ended with it."""
        for req in requests:
            if req.finished():
                self._end(req, req.finished_reason.to_json().get("type"))

    def aborted(self, req: Any) -> None:
        """The scheduler gave this request up outside a step."""
        self._end(req, "abort")

    def _end(self, req: Any, finish_reason: str | None) -> None:
        """Once, and only what has started."""
        if self._publisher is None or not getattr(req, _STARTED, False) or getattr(req, _ENDED, False):
            return
        setattr(req, _ENDED, True)
        self._publisher.put(
            RequestEvent(
                request_id=req.rid,
                event="ended",
                at_us=time.time_ns() // 1000,
                prompt_len=len(req.origin_input_ids),
                num_output_tokens=len(req.output_ids_through_stop),
                finish_reason=finish_reason,
            )
        )


_REPORTED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_new_tokens",
    "min_new_tokens",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "ignore_eos",
    "sampling_seed",
    "n",
)


def _sampling_params(params: Any) -> dict[str, Any]:
    kept = {name: getattr(params, name) for name in _REPORTED if getattr(params, name, None) is not None}
    if kept.get("top_k") == 1:
        kept["temperature"] = 0.0  # SGLang turns temperature 0 into top_k 1 at temperature 1
    if params.stop_strs:
        kept["stop"] = params.stop_strs
    return kept
