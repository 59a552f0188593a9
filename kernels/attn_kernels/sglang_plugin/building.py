"""Before SGLang records its CUDA graphs: what of the model is captured, by which reader, in how much memory.

The buffers are counted before the KV cache is sized: their memory is taken from its budget, and not on top of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.runtime_context import get_exec, get_parallel

from attn_kernels.ops.buffers import CaptureShape, CaptureTooLarge, positions_to_hold
from attn_kernels.sglang_plugin.budget import Budget, CudaStopwatch, HostStopwatch
from attn_kernels.sglang_plugin.capture import Capture
from attn_kernels.sglang_plugin.committed import Journal
from attn_kernels.sglang_plugin.heads import Heads
from attn_kernels.sglang_plugin.kinds import Survey, survey, survey_of
from attn_kernels.sglang_plugin.readers import Reader, TorchReader
from attn_kernels.sglang_plugin.settings import (
    PUBLISH_OFF,
    CaptureSettings,
    default_head_projection_dir,
    from_environment,
)
from attn_kernels.sglang_plugin.triton_reader import TritonReader
from attn_kernels.torch_ops import HeadShards

logger = logging.getLogger(__name__)

_BUILT = "_attention_built"
_LATENT_SPLITS = 256
"""The most splits that SGLang's latent attention cuts a request into."""
_MOST_LSE_BYTES = 512 << 20
"""Larger steps than fit here are not captured, and marked so: only latent attention with many heads comes near it."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a model runner's capture consists of."""

    survey: Survey
    capture: Capture | None
    """None where nothing of the model can be captured; the survey says why."""
    heads: Heads | None = None
    """What is made of its single heads; None where nothing is published, for nobody would see it."""


def around_init_cuda_graphs(original: Callable[..., Any], self: Any, *args: Any, **options: Any) -> Any:
    """Hook: model, cache and backend are there, graphs not yet; they record the capture with the rest."""
    settings = from_environment()
    if settings is not None and self.is_generation and not self.is_draft_worker:
        built = _build(self, settings)
        setattr(self, _BUILT, built)
        if built.capture is not None:
            self.capture_head_hooks.append(built.capture.before_recording)
            self.capture_tail_hooks.append(built.capture.after_recording)
            Capture.current = built.capture
    return original(self, *args, **options)


def built_of(runner: Any) -> Built:
    """What of this runner's model is captured, and how."""
    built: Built = getattr(runner, _BUILT)
    return built


def model_id_of(server_args: Any) -> str:
    """The name that the model is served under."""
    return str(server_args.served_model_name or server_args.model_path)


def around_profile_available_bytes(original: Callable[..., int], self: Any, *args: Any, **options: Any) -> int:
    """Hook: the bytes left for the KV cache, less those that the capture of such a cache takes."""
    available = original(self, *args, **options)
    settings = from_environment()
    if settings is None or self.is_draft_worker or self.server_args.attention_backend != "triton":
        return available
    found = survey_of(
        _attentions(self.model),
        num_layers=self.model_config.num_hidden_layers,
        is_torch_native=False,
        has_window_pool=self.is_hybrid_swa,
    )
    if not found.layer_ids:
        return available
    pool_tokens = self.config_from_budget(available).max_total_num_tokens
    shape = _shape(
        found.layer_ids,
        model=self.model,
        config=self.model_config,
        server_args=self.server_args,
        settings=settings,
        max_rows=self.resolve_max_num_reqs(pool_tokens),
        pool_tokens=pool_tokens,
        max_splits=_LATENT_SPLITS if self.use_mla_backend else get_exec().kernel.triton_attention_num_kv_splits,
    )
    if shape is None:
        return available
    logger.info(
        "Attention capture: %.1f of the KV cache's %.1f MiB go to its buffers.",
        shape.num_bytes / 2**20,
        available / 2**20,
    )
    return available - shape.num_bytes


def _build(runner: Any, settings: CaptureSettings) -> Built:
    found = survey(runner)
    if not found.layer_ids:
        return Built(survey=found, capture=None)
    budget = None
    if settings.budget_percent is not None:
        stopwatch = CudaStopwatch() if runner.device == "cuda" else HostStopwatch()
        budget = Budget(fraction=settings.budget_percent / 100, stopwatch=stopwatch)
    heads = _heads(runner, found.layer_ids, settings)
    capture = Capture(
        settings=settings,
        layer_ids=found.layer_ids,
        runner=runner,
        reader=_reader(runner, found.layer_ids, settings, heads),
        started=_started,
        budget=budget,
    )
    return Built(survey=found, capture=capture, heads=heads)


def _heads(runner: Any, layer_ids: tuple[int, ...], settings: CaptureSettings) -> Heads | None:
    if settings.publish_address == PUBLISH_OFF:
        return None
    parallel = get_parallel()
    folder = settings.head_projection_dir
    return Heads(
        model_id=model_id_of(runner.server_args),
        layers=layer_ids,
        num_heads=runner.model_config.num_attention_heads,
        folder=Path(folder) if folder else default_head_projection_dir(port=runner.server_args.port),
        sample=settings.head_sample,
        agree=_agree_in(parallel.attn_tp_group.cpu_group) if parallel.attn_tp_size > 1 else None,
    )


def _agree_in(group: Any) -> Callable[[int], bool]:
    """Whether all ranks of a group of processes hold one number; over the host, so that no device waits."""

    def agree(number: int) -> bool:
        bounds = torch.tensor([number, -number], dtype=torch.int64)
        torch.distributed.all_reduce(bounds, op=torch.distributed.ReduceOp.MAX, group=group)
        return bool(bounds[0] == -bounds[1])

    return agree


def _reader(runner: Any, layer_ids: tuple[int, ...], settings: CaptureSettings, heads: Heads | None) -> Reader:
    num_heads = runner.model_config.num_attention_heads
    parallel = get_parallel()
    shards = None
    if parallel.attn_tp_size > 1:
        group = parallel.attn_tp_group.device_group
        shards = HeadShards(
            num_heads=num_heads,
            all_reduce=lambda tensor: torch.distributed.all_reduce(tensor, group=group),
            first_head=_first_head(runner.model, layer_ids),
        )
    is_torch_native = type(runner.attn_backend) is TorchNativeAttnBackend
    portable = TorchReader(
        runner=runner,
        layer_ids=layer_ids,
        k=settings.top_k,
        is_torch_native=is_torch_native,
        shards=shards,
        heads=heads,
    )
    if is_torch_native:
        return portable
    shape = _shape(
        layer_ids,
        model=runner.model,
        config=runner.model_config,
        server_args=runner.server_args,
        settings=settings,
        max_rows=runner.req_to_token_pool.size,
        pool_tokens=runner.max_total_num_tokens,
        max_splits=runner.attn_backend.max_kv_splits,
    )
    if shape is None:
        return portable
    logger.info("%s", shape.describe())
    return TritonReader(runner=runner, shape=shape, portable=portable, shards=shards, heads=heads)


def _shape(
    layer_ids: tuple[int, ...],
    *,
    model: Any,
    config: Any,
    server_args: Any,
    settings: CaptureSettings,
    max_rows: int,
    pool_tokens: int,
    max_splits: int,
) -> CaptureShape | None:
    """The buffers of the largest step, or None, with a line in the log, where they cannot be laid out."""
    layers = {layer.layer_id: layer for layer in _attentions(model)}
    windows = [layers[number].sliding_window_size for number in layer_ids]
    num_heads = layers[layer_ids[0]].tp_q_head_num
    lse_bytes = 4 * len(set(layer_ids)) * num_heads * max_splits
    try:
        return CaptureShape(
            layers=layer_ids,
            num_heads=num_heads,
            total_heads=config.num_attention_heads,
            max_rows=min(max_rows, max(16, _MOST_LSE_BYTES // lse_bytes)),
            positions=positions_to_hold(pool_tokens=pool_tokens, max_rows=max_rows, max_context=config.context_len),
            max_splits=max_splits,
            top_k=settings.top_k,
            max_queries=max(server_args.max_prefill_tokens or 0, server_args.chunked_prefill_size or 0),
            windows=tuple(-1 if window is None else window for window in windows),
            has_sinks=any(name.endswith("sinks") for name, _ in model.named_parameters()),
            heads=settings.publish_address != PUBLISH_OFF,
            first_head=_first_head(model, layer_ids),
        )
    except CaptureTooLarge as error:
        logger.warning("Attention capture: not by Triton but by the slower portable reader: %s", error)
        return None


def _first_head(model: Any, layer_ids: tuple[int, ...]) -> int:
    """Which of the query heads of all ranks is this rank's first: each holds as many as the others, in rank order."""
    own = next(layer.tp_q_head_num for layer in _attentions(model) if layer.layer_id == layer_ids[0])
    return int(own) * int(get_parallel().attn_tp_rank)


def _started(req: Any) -> None:
    # The journal is there once the scheduler is; what runs before that is SGLang's own.
    if Journal.current is not None:
        Journal.current.started(req)


def _attentions(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, RadixAttention)]
