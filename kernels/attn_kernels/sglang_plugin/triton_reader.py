"""The fast reader: SGLang's Triton backend stores the scores it computes, and two small kernels finish the step.

Decode steps take the fused path (`attn_kernels.ops`): nothing waits for the device, and nothing is allocated but what
leaves it. The last query of a prefill is computed from the cache beside the attention. What neither covers (a prompt's
own positions, latent attention without a cached prefix, a sliding window's own pool) goes to the portable reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from sglang.srt.mem_cache.swa_memory_pool import BaseSWAKVPool

from attn_core.head_projection import HeadProjection
from attn_kernels.ops.buffers import CaptureShape
from attn_kernels.ops.capture import Capture as DeviceCapture
from attn_kernels.ops.capture import Keys, store_scores
from attn_kernels.sglang_plugin.heads import Heads, StepHeads
from attn_kernels.sglang_plugin.plan import Plan
from attn_kernels.sglang_plugin.readers import LayerCall, StepCapture, TorchReader
from attn_kernels.torch_ops import Captured, HeadShards, Projection

_IN_FLIGHT = 4
"""Steps whose plans may be on their way to the device at once; the overlap scheduler runs one ahead."""


class TritonReader:
    """See `readers.Reader`. One instance a model runner; its buffers are made here, and `shape` counts them."""

    def __init__(
        self,
        *,
        runner: Any,
        shape: CaptureShape,
        portable: TorchReader,
        shards: HeadShards | None = None,
        heads: Heads | None = None,
    ) -> None:
        """`heads` is the portable reader's too; None exactly where `shape.heads` is false."""
        self.shape = shape
        self._heads = heads
        self._step = StepHeads(projection=None, sampled=None)
        self._on_device: HeadProjection | None = None
        self._runner = runner
        self._portable = portable
        self._shards = shards
        self._device = DeviceCapture(shape, device=runner.device)
        self._index = {layer: number for number, layer in enumerate(shape.distinct)}
        pinned = torch.device(runner.device).type == "cuda"
        self._host = [torch.zeros(2, shape.rows, dtype=torch.int32, pin_memory=pinned) for _ in range(_IN_FLIGHT)]
        self._requests = torch.zeros(2, shape.rows, dtype=torch.int32, device=runner.device)
        """Prompt lengths, and whether the request is captured, where the kernels read them."""
        self._turn = 0
        self._plan: Plan | None = None
        self._recording = False
        self._fused = False
        self._seen: set[int] = set()
        self._num_splits: torch.Tensor | None = None
        self._sinks: dict[int, int] = {}

    def begin(self, plan: Plan) -> None:
        """See `Reader`."""
        self._plan, self._recording = plan, False
        self._seen.clear()
        self._fused = plan.last_query is None or self._prefill_fits(plan)
        if not self._fused:
            self._portable.begin(plan)
            return
        self._turn = (self._turn + 1) % _IN_FLIGHT
        host = self._host[self._turn]
        host.zero_()
        for row, prompt_len in zip(plan.rows, plan.prompt_lens, strict=True):
            if row < self.shape.max_rows:  # a larger step is left out whole, see `attend`
                host[0, row], host[1, row] = prompt_len, 1
        self._requests.copy_(host, non_blocking=True)
        if self._heads is not None:
            self._begin_heads(self._heads.step(len(plan.rows)), plan)

    def _begin_heads(self, step: StepHeads, plan: Plan) -> None:
        """Put the step's matrix and the row that it samples where the kernels read them, recorded ones too."""
        self._step = step
        whole = step.projection
        if whole is not self._on_device:
            self._on_device = whole
            if whole is None:
                self._device.clear_projection()
            else:
                part = Projection.of_rank(whole, num_heads=self.shape.num_heads, first_head=self.shape.first_head)
                self._device.set_projection(part.matrix, part.offset)
        self._device.sample_row(-1 if step.sampled is None else plan.rows[step.sampled])

    def _prefill_fits(self, plan: Plan) -> bool:
        pool = self._runner.token_to_kv_pool
        own_pool = isinstance(pool, BaseSWAKVPool) and any(window >= 0 for window in self.shape.windows)
        latent = self._runner.model_config.attention_arch.name == "MLA"
        return not (plan.prompts or own_pool or latent)

    def attend(self, call: LayerCall) -> Any:
        """See `Reader`."""
        plan = self._plan
        if plan is None and not self._recording:
            return call.run()
        forward_batch = call.args[0] if call.args else call.options["forward_batch"]
        if plan is not None and (not self._fused or forward_batch.batch_size > self.shape.max_rows):
            return self._portable.attend(call) if not self._fused else call.run()
        number = self._index[call.layer.layer_id]
        if plan is not None and not self._seen:
            self._begin_on_device(call, plan, forward_batch)
        self._seen.add(call.layer.layer_id)
        self._take_sinks(number, call.options.get("sinks"))
        if plan is not None and plan.last_query is not None:
            output = call.run()
            self._beside(number, call, forward_batch)
            return output
        with self._own_lse(call.backend.forward_metadata, number):
            return call.run(score_mod=store_scores, aux_tensors=self._device.aux_tensors(number))

    def _begin_on_device(self, call: LayerCall, plan: Plan, forward_batch: Any) -> None:
        batch = forward_batch.batch_size
        last_queries = None
        if plan.last_query is not None:
            last_queries = forward_batch.extend_seq_lens.cumsum(0) - 1
        self._num_splits = None if plan.last_query is not None else call.backend.forward_metadata.num_kv_splits
        self._device.begin_step(
            seq_lens=forward_batch.seq_lens[:batch],
            prompt_lens=self._requests[0, :batch],
            asked=self._requests[1, :batch],
            last_queries=last_queries,
            num_queries=len(call.query),
            window_extra=0 if last_queries is None else 1,
        )

    def _beside(self, number: int, call: LayerCall, forward_batch: Any) -> None:
        layer = call.layer
        pool = self._runner.token_to_kv_pool
        scale = 1.0 if layer.k_scale is None else layer.k_scale_float
        self._device.beside(
            number,
            query=call.query.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim),
            keys=Keys(
                cache=pool.get_key_buffer(layer.layer_id),
                slots=self._runner.req_to_token_pool.req_to_token,
                slot_rows=forward_batch.req_pool_indices,
            ),
            scaling=layer.scaling * scale,
            logit_cap=layer.logit_cap,
        )

    @contextmanager
    def _own_lse(self, metadata: Any, number: int) -> Iterator[None]:
        """The stock kernel leaves its log-sum-exps in our buffer: a layer's own, read when the step is finished."""
        stock = metadata.attn_lse
        metadata.attn_lse = self._device.lse(number)
        try:
            yield
        finally:
            metadata.attn_lse = stock

    def _take_sinks(self, number: int, sinks: torch.Tensor | None) -> None:
        """Sink logits are weights: copied once, and again where the model has got others."""
        if sinks is not None and self._sinks.get(number) != sinks.data_ptr():
            self._device.buffers.sinks[number].copy_(sinks)
            self._sinks[number] = sinks.data_ptr()

    def record(self, forward_batch: Any) -> None:
        """A decode step is about to be recorded in a CUDA graph: so is its place in the buffers.

        A graph of more requests than the buffers hold is recorded without the capture, and its steps are left out.
        """
        batch = forward_batch.batch_size
        self._plan, self._recording = None, batch <= self.shape.max_rows
        self._seen.clear()
        if not self._recording:
            return
        self._device.begin_step(
            seq_lens=forward_batch.seq_lens[:batch],
            prompt_lens=self._requests[0, :batch],
            asked=self._requests[1, :batch],
        )

    def recorded(self, num_splits: torch.Tensor) -> None:
        """The step's layers are recorded; so is what finishes it, into a buffer that only graphs write to."""
        if not self._recording:
            return
        self._recording = False
        if self._seen != self._index.keys():
            raise RuntimeError("attention capture: a captured layer was not recorded in the CUDA graph")
        self._finish_on_device(num_splits, recorded=True)

    def _finish_on_device(self, num_splits: torch.Tensor | None, *, recorded: bool) -> Captured:
        if self._shards is None:
            return self._device.finish(num_splits=num_splits, recorded=recorded)
        self._shards.all_reduce(self._device.sums(num_splits=num_splits))
        return self._device.statistics(recorded=recorded)

    def finish(self, forward_batch: Any, *, replayed: bool) -> StepCapture | None:
        """See `Reader`."""
        plan, self._plan = self._plan, None
        if plan is None:
            return None
        if not self._fused:
            return self._portable.finish(forward_batch, replayed=replayed)
        if replayed and plan.last_query is None:
            if forward_batch.batch_size > self.shape.max_rows:
                return None
            captured = self._device.replayed(forward_batch.batch_size)
        elif self._seen == self._index.keys():
            captured = self._finish_on_device(self._num_splits, recorded=False)
        else:
            return None
        rows = list(plan.rows)
        at: Any = slice(None) if rows == list(range(len(captured.vector))) else rows
        step = self._step
        if step.projection is None:
            captured = replace(captured, sketch=None)
        # Copies: the kernels' own outputs are written again by a later step.
        return StepCapture(
            rows=captured.each(lambda tensor: tensor[at].clone()),
            prompts=(),
            head_projection=None if step.projection is None else step.projection.sha256,
            sampled=step.sampled,
            figures=None if step.sampled is None else self._device.sampled_figures.clone(),
        )
