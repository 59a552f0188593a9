"""How attention is read: what sits between an attention layer and a step's fingerprints, one class a way of reading.

A reader sees each captured layer of a step once (`attend` runs the layer itself, so that it may add to the call or look
at what it leaves behind), and then finishes the step. `TorchReader` is the portable one: it keeps the queries and
computes the probabilities again from the keys in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from sglang.srt.mem_cache.swa_memory_pool import BaseSWAKVPool

from attn_core.head_projection import HeadProjection
from attn_kernels.sglang_plugin.budget import Budget
from attn_kernels.sglang_plugin.heads import Heads, StepHeads
from attn_kernels.sglang_plugin.plan import Plan, PromptPart
from attn_kernels.torch_ops import Captured, HeadShards, LayerQueries, Projection, capture, capture_prompt


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """One call of a backend's ``forward_decode`` or ``forward_extend``."""

    original: Callable[..., Any]
    backend: Any
    query: torch.Tensor
    """[tokens, H * D]"""
    key: torch.Tensor
    """[tokens, Hkv, D], this pass's own keys, or None where they lie in the cache already."""
    value: torch.Tensor
    layer: Any
    args: tuple[Any, ...]
    options: dict[str, Any]
    budget: Budget | None = None

    def run(self, **more: Any) -> Any:
        """SGLang's own attention, with further options; its time is not counted as the capture's."""
        options = {**self.options, **more}
        if self.budget is not None:
            self.budget.end_work()
        output = self.original(self.backend, self.query, self.key, self.value, self.layer, *self.args, **options)
        if self.budget is not None:
            self.budget.begin_work()
        return output


@dataclass(frozen=True, kw_only=True)
class StepCapture:
    """What one step captured, on the device."""

    rows: Captured | None
    """A row for each of the plan's rows, without `head_figures`; None where there are none."""
    prompts: tuple[Captured, ...]
    """For each of the plan's prompt parts, a row a position; no sketch, since only output tokens are published."""
    head_projection: str | None = None
    """Hash of the matrix that made the rows' sketches; None where they have none."""
    sampled: int | None = None
    """Which of `rows` gives its raw figures."""
    figures: torch.Tensor | None = None
    """float32 [layers * heads * 5], that row's; NaN where it could not be captured."""


class Reader(Protocol):
    """A way of reading attention. SGLang runs one forward pass at a time on one thread."""

    def begin(self, plan: Plan) -> None:
        """A forward pass starts; what was left of one that failed is dropped."""
        ...

    def attend(self, call: LayerCall) -> Any:
        """Run a captured layer's attention and give its output, keeping what the fingerprints need."""
        ...

    def finish(self, forward_batch: Any, *, replayed: bool) -> StepCapture | None:
        """The step's fingerprints, or None where a captured layer was not seen, or not as it can be read.

        `replayed`: the step was a CUDA graph's, whose layers pass no hook.
        """
        ...


@runtime_checkable
class RecordingReader(Protocol):
    """A reader whose work can be recorded in a CUDA graph."""

    def record(self, forward_batch: Any) -> None:
        """The layers that follow are recorded."""
        ...

    def recorded(self, num_splits: torch.Tensor) -> None:
        """They were; record what finishes the step."""
        ...


@dataclass(kw_only=True)
class _Kept:
    """A layer's queries of this step."""

    rows: LayerQueries
    prompts: list[LayerQueries]
    whole_pool: bool
    """Whether keys lie where the cache's slots say; if not, they are this pass's own, a row a token."""
    windowed_pool: Any = None
    """A sliding window's own, smaller pool, whose slots are translated; None for the full one."""


@dataclass(kw_only=True)
class TorchReader:
    """The portable reader: one more pass over the captured layers' keys, in plain torch."""

    runner: Any
    layer_ids: tuple[int, ...]
    k: int
    is_torch_native: bool
    """Torch's own attention knows neither logit caps nor key scales: what the model used is what is captured."""
    shards: HeadShards | None = None
    heads: Heads | None = None
    """None: of single heads nothing is made."""
    _step: StepHeads | None = None
    _on_device: tuple[HeadProjection, Projection] | None = None
    """The matrix that was used last, and this rank's part of it."""
    _plan: Plan | None = None
    _kept: dict[int, _Kept] = field(default_factory=dict)

    def begin(self, plan: Plan) -> None:
        """See `Reader`."""
        self._plan = plan
        self._kept.clear()
        self._step = None if self.heads is None else self.heads.step(len(plan.rows))

    def attend(self, call: LayerCall) -> Any:
        """See `Reader`. SGLang first: it writes this pass's keys into the cache."""
        output = call.run()
        if self._plan is not None:
            self._keep(call, self._plan)
        return output

    def _keep(self, call: LayerCall, plan: Plan) -> None:
        layer = call.layer
        query = call.query.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)
        if "q_rope" in call.options:  # multi-head latent attention may pass its rotary part beside
            rope = call.options["q_rope"].reshape(len(query), layer.tp_q_head_num, -1)
            query = torch.cat([call.query.reshape(len(query), layer.tp_q_head_num, -1), rope], dim=2)
        pool = self.runner.token_to_kv_pool
        keys = pool.get_key_buffer(layer.layer_id)
        whole_pool = keys.shape[-1] == layer.qk_head_dim
        if not whole_pool:
            # Latent attention without a cached prefix attends over its own expanded keys; the cache holds the latent.
            if call.key is None or any(call_prefix(call)):
                return
            keys = call.key.reshape(-1, layer.tp_k_head_num, layer.qk_head_dim)
        window = layer.sliding_window_size
        scale = None if self.is_torch_native or layer.k_scale is None else layer.k_scale_float
        at = plan.rows if plan.last_query is None else plan.last_query
        every = LayerQueries(
            query=query.clone() if at == tuple(range(len(query))) else query[list(at)],
            keys=keys,
            scaling=layer.scaling * (1.0 if scale is None or not whole_pool else scale),
            logit_cap=0.0 if self.is_torch_native else layer.logit_cap,
            sliding_window=-1 if window is None else window,
            sinks=call.options.get("sinks"),
        )
        own_slots = isinstance(pool, BaseSWAKVPool) and every.sliding_window >= 0
        self._kept[layer.layer_id] = _Kept(
            rows=every,
            prompts=[
                replace(every, query=query[part.first_query : part.first_query + part.num].clone())
                for part in plan.prompts
            ],
            whole_pool=whole_pool,
            windowed_pool=pool if own_slots else None,
        )

    def finish(self, forward_batch: Any, *, replayed: bool) -> StepCapture | None:
        """See `Reader`."""
        plan, kept = self._plan, self._kept
        self._plan = None
        if plan is None or not set(self.layer_ids) <= kept.keys():
            return None
        table = self.runner.req_to_token_pool.req_to_token
        rows = figures = None
        step = self._step or StepHeads(projection=None, sampled=None)
        if plan.rows:
            pool_index = forward_batch.req_pool_indices[list(plan.rows)]
            slots = table[pool_index, : max(plan.context_lens)]
            starts = (
                None
                if plan.last_query is None
                else [last + 1 - n for last, n in zip(plan.last_query, plan.context_lens, strict=True)]
            )
            rows = capture(
                [_placed(kept[i], kept[i].rows, slots, starts) for i in self.layer_ids],
                slots=slots,
                context_lens=plan.context_lens,
                prompt_lens=plan.prompt_lens,
                k=self.k,
                shards=self.shards,
                projection=self._projection(step, kept),
                with_head_figures=step.sampled is not None,
                layer_ids=self.layer_ids,
            )
            if step.sampled is not None and rows.head_figures is not None:
                figures = rows.head_figures[step.sampled].clone()
                rows = replace(rows, head_figures=None)
        prompts = tuple(self._prompt(part, number, table, forward_batch) for number, part in enumerate(plan.prompts))
        self._kept = {}
        return StepCapture(
            rows=rows,
            prompts=prompts,
            head_projection=None if step.projection is None or rows is None else step.projection.sha256,
            sampled=step.sampled,
            figures=figures,
        )

    def _projection(self, step: StepHeads, kept: dict[int, _Kept]) -> Projection | None:
        """This rank's part of the step's matrix, on the device; copied there when the matrix changes."""
        whole = step.projection
        if whole is None:
            return None
        if self._on_device is None or self._on_device[0] is not whole:
            query = kept[self.layer_ids[0]].rows.query
            first_head = 0 if self.shards is None else self.shards.first_head
            part = Projection.of_rank(whole, num_heads=query.shape[1], first_head=first_head, device=query.device)
            self._on_device = whole, part
        return self._on_device[1]

    def _prompt(self, part: PromptPart, number: int, table: torch.Tensor, forward_batch: Any) -> Captured:
        pool_index = forward_batch.req_pool_indices[part.row]
        slots = table[pool_index, : part.first + part.num][None]
        starts = [part.first_query - part.first]
        return capture_prompt(
            [_placed(self._kept[i], self._kept[i].prompts[number], slots, starts) for i in self.layer_ids],
            slots=slots,
            first=part.first,
            prompt_len=part.prompt_len,
            k=self.k,
            shards=self.shards,
        )


def call_prefix(call: LayerCall) -> list[int]:
    """How many positions of each request came from the cache, in an extend pass."""
    forward_batch = call.args[0] if call.args else call.options["forward_batch"]
    return list(forward_batch.extend_prefix_lens_cpu or [])


def _placed(kept: _Kept, queries: LayerQueries, slots: torch.Tensor, starts: list[int] | None) -> LayerQueries:
    """The layer's queries with the places of its own keys, where they are not those of the full cache."""
    if kept.windowed_pool is not None:
        return replace(queries, slots=kept.windowed_pool.translate_loc_from_full_to_swa(slots).clamp(min=0))
    if kept.whole_pool:
        return queries
    assert starts is not None  # only an extend pass has keys of its own
    start = torch.tensor(starts, device=slots.device)[:, None]
    position = torch.arange(slots.shape[1], device=slots.device)
    return replace(queries, slots=(start + position).clamp(max=len(queries.keys) - 1))
