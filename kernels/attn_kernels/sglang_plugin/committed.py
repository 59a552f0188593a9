"""From device to committed token: SGLang's auxiliary output, with our capture in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from attn_kernels.publisher import Publisher
from attn_kernels.rows import RequestEvent, StepRows
from attn_kernels.sglang_plugin import prompt_tokens, request_fields
from attn_kernels.sglang_plugin.capture import Finished
from attn_kernels.sglang_plugin.packed import KEY, NotCaptured, Packed, pack
from attn_kernels.sglang_plugin.plan import Plan
from attn_kernels.sglang_plugin.prompt_spans import published_spans
from attn_kernels.sglang_plugin.readers import StepCapture
from attn_kernels.torch_ops import Captured

_STARTED, _ENDED = "_attention_started", "_attention_ended"


@dataclass(frozen=True)
class OnDevice:
    """SGLang's `DeviceAuxiliaryOutput`."""

    finished: Finished
    journal: Journal

    def copy_to_host(self, copy_tensor: Callable[[torch.Tensor], torch.Tensor]) -> OnHost:
        """Start the copies; none of the tensors is a buffer that a later step overwrites."""

        step = self.finished.captured
        host = replace(
            step,
            rows=None if step.rows is None else step.rows.each(copy_tensor),
            prompts=tuple(prompt.each(copy_tensor) for prompt in step.prompts),
            figures=None if step.figures is None else copy_tensor(step.figures),
        )
        return OnHost(host, self.finished.plan, self.journal)


@dataclass(frozen=True)
class OnHost:
    """SGLang's `HostAuxiliaryOutput`."""

    captured: StepCapture
    plan: Plan
    journal: Journal

    def consume(self, batch: Any, commits: Sequence[Any]) -> None:
        """Called once the step's tokens are committed: a row whose token was not committed is dropped.

        The prompt's rows need no token: a middle chunk yields none.
        """
        plan = self.plan
        for part, captured in zip(plan.prompts, self.captured.prompts, strict=False):
            prompt_tokens.collect(batch.reqs[part.row], captured, first=part.first)
        for row, asked in zip(plan.skipped, plan.skipped_asked, strict=True):
            if commits[row] is not None and asked:
                _answer(batch.reqs[row], commits[row], (commits[row].output_index, commits[row].token_ids[0]), plan)
        kept = [i for i, row in enumerate(plan.rows) if commits[row] is not None]
        if self.captured.rows is None:
            return
        # NaN: a row that the static buffers had no room for, as requests that share a long cached prefix may need.
        unread = self.captured.rows.vector[:, 0].isnan().tolist()
        for i in kept:
            if unread[i] and plan.asked[i]:
                token = commits[plan.rows[i]]
                _answer(batch.reqs[plan.rows[i]], token, (token.output_index, token.token_ids[0]), plan)
        if kept := [i for i in kept if not unread[i]]:
            self._give(batch, commits, kept, self.captured.rows)

    def _give(self, batch: Any, commits: Sequence[Any], kept: list[int], captured: Captured) -> None:
        plan = self.plan
        requests = [batch.reqs[plan.rows[i]] for i in kept]
        tokens = [commits[plan.rows[i]] for i in kept]
        rows = StepRows(
            request_ids=[req.rid for req in requests],
            steps=[token.output_index for token in tokens],
            token_ids=[token.token_ids[0] for token in tokens],
            asked=[plan.asked[i] for i in kept],
            captured_at_us=time.time_ns() // 1000,
            context_lens=[plan.context_lens[i] for i in kept],
            vectors=captured.vector.numpy()[kept],
            companions=captured.companions.numpy()[kept],
            topk_positions=captured.topk_positions.numpy()[kept],
            topk_probs=captured.topk_probs.numpy()[kept],
            last=[req.finished() for req in requests],
            head_projection=None if captured.sketch is None else self.captured.head_projection,
            sketches=None if captured.sketch is None else captured.sketch.numpy()[kept],
            head_figures=self._figures(kept),
        )
        for i, (req, token) in enumerate(zip(requests, tokens, strict=True)):
            if rows.asked[i]:
                _answer(req, token, _packed(rows, i), plan)
        self.journal.step(rows)

    def _figures(self, kept: list[int]) -> list[npt.NDArray[np.float32] | None] | None:
        """The raw figures of the rows that are kept: one has them, or none."""
        step = self.captured
        if step.figures is None or step.sampled not in kept:
            return None
        return [step.figures.numpy() if i == step.sampled else None for i in kept]


def _packed(rows: StepRows, i: int) -> Packed:
    return pack(
        step=rows.steps[i],
        token_id=rows.token_ids[i],
        vector=rows.vectors[i],
        context_len=rows.context_lens[i],
        companions=rows.companions[i],
        topk_positions=rows.topk_positions[i],
        topk_probs=rows.topk_probs[i],
    )


def _answer(req: Any, token: Any, entry: Packed | NotCaptured, plan: Plan) -> None:
    """Give an asking request its row; SGLang streams `customized_info`, one entry an output token."""
    if req.customized_info is None:
        req.customized_info = {}
    entries = req.customized_info.setdefault(KEY, [])
    entries += [None] * (token.output_index - len(entries))
    entries.append((entry, plan.thinned))
    prompt_tokens.hand_over(req)


class Journal:
    """Tells the publisher what happened, where there is one."""

    current: Journal | None = None
    """Set when the scheduler is up; the hooks are functions without a place of their own."""

    def __init__(self, publisher: Publisher | None, *, tokenizer: Any = None) -> None:
        self._publisher = publisher
        self._tokenizer = tokenizer

    def started(self, req: Any) -> None:
        """The first token of this request is being computed; repeats are ignored."""
        if self._publisher is None or getattr(req, _STARTED, False):
            return
        setattr(req, _STARTED, True)
        ids = list(req.origin_input_ids)
        self._publisher.put(
            RequestEvent(
                request_id=req.rid,
                event="started",
                at_us=time.time_ns() // 1000,
                prompt_len=len(ids),
                prompt_token_ids=ids,
                prompt_spans=self._spans(req.sampling_params.custom_params, ids),
                sampling_params=_sampling_params(req.sampling_params),
            )
        )

    def _spans(self, custom: Any, ids: list[int]) -> Callable[[], str | None] | None:
        """What gives the prompt's spans: it tokenises the prompt, which is for the publisher's thread."""
        placed = custom.get(request_fields.PLACES) if isinstance(custom, dict) else None
        return partial(published_spans, self._tokenizer, placed, ids) if isinstance(placed, str) else None

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
