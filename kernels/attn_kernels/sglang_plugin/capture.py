"""In the scheduler process, inside a forward pass: which rows to capture, their queries, and the finished step.

A step's way: `around_init_new` writes the plan onto the batch, `around_forward` makes it the current step, the
attention hooks leave each captured layer's last queries there, `around_forward` finishes the step and leaves the result
on the batch's sampling info, where `Observer` picks it up and SGLang carries it to the host with the sampled tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX

from attn_kernels.sglang_plugin import request_fields
from attn_kernels.sglang_plugin.settings import CaptureSettings
from attn_kernels.torch_ops import Captured, LayerQueries, capture

logger = logging.getLogger(__name__)

_PLAN = "_attention_plan"
_RESULT = "_attention_result"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to capture of one batch."""

    rows: tuple[int, ...]
    """Indices of the captured requests in the batch."""
    context_lens: tuple[int, ...]
    prompt_lens: tuple[int, ...]
    asked: tuple[bool, ...]
    last_query: tuple[int, ...] | None
    """Of an extend pass, where each captured request's last query lies; None in decode, where it is the row itself."""


@dataclass(kw_only=True)
class Step:
    """The forward pass that is running."""

    plan: Plan
    layers: dict[int, LayerQueries] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A step's capture on the device, and whose it is."""

    plan: Plan
    captured: Captured


class Capture:
    """The capture of one model runner. SGLang runs one forward pass at a time on one thread."""

    current: Capture | None = None
    """Set when the scheduler is up; the hooks are functions without a place of their own."""

    def __init__(
        self,
        *,
        settings: CaptureSettings,
        layer_ids: tuple[int, ...],
        runner: Any,
        started: Callable[[Any], None],
    ) -> None:
        self.settings = settings
        self.layer_ids = layer_ids
        self.runner = runner
        self.step: Step | None = None
        self._wanted = frozenset(layer_ids)
        self._started = started
        self._told = False

    def plan(self, batch: Any, forward_batch: Any) -> Plan | None:
        """What to capture of this batch, or None for nothing."""
        mode = batch.forward_mode
        if not (mode.is_decode() or mode.is_extend()) or forward_batch.seq_lens_cpu is None:
            return None
        rows, asked = [], []
        decoding = {id(req) for req in (batch.decoding_reqs or ())}
        for i, req in enumerate(batch.reqs):
            # A middle chunk of a chunked prefill yields no token: only its last chunk is step 0.
            partial = (
                mode.is_extend() and id(req) not in decoding and req.extend_end < len(req.full_untruncated_fill_ids)
            )
            if partial or not self._is_seen(req):
                continue
            rows.append(i)
            asked.append(request_fields.asks(req.sampling_params.custom_params))
            self._started(req)
        if not rows:
            return None
        lens = forward_batch.seq_lens_cpu.tolist()
        last_query = None
        if mode.is_extend():
            ends = torch.tensor(batch.extend_lens).cumsum(0).tolist()
            last_query = tuple(ends[i] - 1 for i in rows)
        return Plan(
            rows=tuple(rows),
            context_lens=tuple(lens[i] for i in rows),
            prompt_lens=tuple(len(batch.reqs[i].origin_input_ids) for i in rows),
            asked=tuple(asked),
            last_query=last_query,
        )

    def _is_seen(self, req: Any) -> bool:
        custom = req.sampling_params.custom_params
        if isinstance(req.rid, str) and req.rid.startswith(HEALTH_CHECK_RID_PREFIX):
            return False
        if isinstance(custom, dict) and custom.get(request_fields.UNSEEN) is True:
            return False
        return self.settings.capture == "all" or request_fields.asks(custom)

    def add_layer(self, q: torch.Tensor, layer: Any, pool: Any, *, logit_cap: float) -> None:
        """Keep the last queries of this layer, where the current step wants them."""
        step = self.step
        if step is None or layer.layer_id not in self._wanted:
            return
        at = step.plan.rows if step.plan.last_query is None else step.plan.last_query
        query = q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)
        window = layer.sliding_window_size
        step.layers[layer.layer_id] = LayerQueries(
            query=query.clone() if at == tuple(range(len(query))) else query[list(at)],
            keys=pool.get_key_buffer(layer.layer_id),
            scaling=layer.scaling,
            logit_cap=logit_cap,
            sliding_window=-1 if window is None else window,
        )

    def finish(self, step: Step, forward_batch: Any) -> Finished | None:
        """The step's fingerprints, or None where a captured layer did not pass by a hook."""
        if missing := self._wanted - step.layers.keys():
            if not self._told:
                logger.error(
                    "Attention capture: layers %s passed no hook; such steps are not captured.", sorted(missing)
                )
                self._told = True
            return None
        plan = step.plan
        table = self.runner.req_to_token_pool.req_to_token
        pool_index = forward_batch.req_pool_indices[list(plan.rows)]
        captured = capture(
            [step.layers[layer_id] for layer_id in self.layer_ids],
            slots=table[pool_index, : max(plan.context_lens)],
            context_lens=plan.context_lens,
            prompt_lens=plan.prompt_lens,
            k=self.settings.top_k,
        )
        return Finished(plan=plan, captured=captured)


def around_init_new(original: Callable[..., Any], cls: type, batch: Any, model_runner: Any, **options: Any) -> Any:
    """Hook: the batch and its requests are both at hand here; leave the plan on the batch."""
    forward_batch = original(cls, batch, model_runner, **options)
    capture_here = Capture.current
    if capture_here is not None and model_runner is capture_here.runner:
        setattr(forward_batch, _PLAN, capture_here.plan(batch, forward_batch))
    return forward_batch


def around_forward(original: Callable[..., Any], self: Any, forward_batch: Any, *args: Any, **options: Any) -> Any:
    """Hook: the backend will get a copy of the batch without the plan, so the step is made current here."""
    capture_here = Capture.current
    plan = getattr(forward_batch, _PLAN, None)
    if capture_here is None or plan is None or self is not capture_here.runner:
        return original(self, forward_batch, *args, **options)
    step = capture_here.step = Step(plan=plan)
    try:
        output = original(self, forward_batch, *args, **options)
    finally:
        capture_here.step = None
    setattr(forward_batch.sampling_info, _RESULT, capture_here.finish(step, forward_batch))
    return output


def from_torch_native(
    original: Callable[..., Any], self: Any, q: Any, k: Any, v: Any, layer: Any, *args: Any, **kw: Any
) -> Any:
    """Hook: after torch's attention, which knows no logit cap: what the model used is what is captured."""
    output = original(self, q, k, v, layer, *args, **kw)
    if Capture.current is not None:
        Capture.current.add_layer(q, layer, self.token_to_kv_pool, logit_cap=0.0)
    return output


def from_triton(
    original: Callable[..., Any], self: Any, q: Any, k: Any, v: Any, layer: Any, *args: Any, **kw: Any
) -> Any:
    """Hook: after Triton's attention."""
    output = original(self, q, k, v, layer, *args, **kw)
    if Capture.current is not None and kw.get("sinks") is None:
        Capture.current.add_layer(q, layer, Capture.current.runner.token_to_kv_pool, logit_cap=layer.logit_cap)
    return output


class Observer:
    """SGLang's `SamplingObserver`: hands a finished step over to be carried to the host with the sampled tokens."""

    def __init__(self, carry: Callable[[Finished], Any]) -> None:
        self._carry = carry

    def is_active(self, sampling_info: Any) -> bool:
        """Whether this batch was captured."""
        return getattr(sampling_info, _RESULT, None) is not None

    def before_grammar(self, logits: torch.Tensor, sampling_info: Any) -> Finished:
        """Take the step off the sampling info, which a later step may reuse. The logits are not looked at."""
        finished: Finished = getattr(sampling_info, _RESULT)
        setattr(sampling_info, _RESULT, None)
        return finished

    def after_sample(self, state: Finished, token_ids: torch.Tensor) -> Any:
        """The auxiliary output that SGLang copies to the host and hands back once the tokens are committed."""
        return self._carry(state)
