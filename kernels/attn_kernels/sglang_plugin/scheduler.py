"""In the scheduler process, at its start and end: what is captured, where it goes, and the last of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.runtime_context import get_parallel

from attn_core.wire import SourceInfo
from attn_kernels.publisher import Publisher
from attn_kernels.sglang_plugin.budget import Budget, CudaStopwatch, HostStopwatch
from attn_kernels.sglang_plugin.capture import Capture, Observer
from attn_kernels.sglang_plugin.committed import Journal, OnDevice
from attn_kernels.sglang_plugin.kinds import survey
from attn_kernels.sglang_plugin.publishing import start_publisher
from attn_kernels.sglang_plugin.readers import TorchReader
from attn_kernels.sglang_plugin.settings import from_environment
from attn_kernels.torch_ops import HeadShards

logger = logging.getLogger(__name__)


def after_init(result: Any, self: Any, server_args: Any, *args: Any, **options: Any) -> None:
    """Hook: the scheduler is built; start capturing, or say in one line why not and serve on without."""
    settings = from_environment()
    if settings is None:
        return
    runner = self.tp_worker.model_runner
    if not runner.is_generation:
        logger.warning("Attention capture: off, this model embeds or classifies and generates no tokens.")
        return
    config = runner.model_config
    found = survey(runner)
    if not found.layer_ids:
        logger.warning("Attention capture: off, nothing of this model can be captured: %s. Serving on.", found.told())
        return
    parallel = get_parallel()
    shards = None
    if parallel.attn_tp_size > 1:
        group = parallel.attn_tp_group.device_group
        shards = HeadShards(
            num_heads=config.num_attention_heads,
            all_reduce=lambda tensor: torch.distributed.all_reduce(tensor, group=group),
        )
    info = SourceInfo(
        model_id=server_args.served_model_name or server_args.model_path,
        captured_layers=found.layer_ids,
        num_heads=config.num_attention_heads,
    )
    publisher = None
    if parallel.attn_tp_rank == 0:  # every rank has the same rows
        publisher = start_publisher(settings, scheduler=self, server_args=server_args, info=info)
    self._attention_publisher = publisher
    journal = Journal.current = Journal(publisher)
    reader = TorchReader(
        runner=runner,
        layer_ids=found.layer_ids,
        k=settings.top_k,
        is_torch_native=type(runner.attn_backend) is TorchNativeAttnBackend,
        shards=shards,
    )
    budget = None
    if settings.budget_percent is not None:
        stopwatch = CudaStopwatch() if runner.device == "cuda" else HostStopwatch()
        budget = Budget(fraction=settings.budget_percent / 100, stopwatch=stopwatch)
    Capture.current = Capture(
        settings=settings,
        layer_ids=found.layer_ids,
        runner=runner,
        reader=reader,
        started=journal.started,
        budget=budget,
    )
    runner.sampling_observer = Observer(lambda finished: OnDevice(finished, journal))
    logger.info(
        "Attention capture: layers %s of %d, %d heads, top-%d, %s requests, publishing %s%s%s.",
        list(found.layer_ids),
        config.num_hidden_layers,
        config.num_attention_heads,
        settings.top_k,
        settings.capture,
        "nowhere" if publisher is None else f"to {settings.publish_address}",
        " (fingerprints only)" if settings.privacy else "",
        f"; left out: {found.told()}" if found.left_out else "",
    )


def around_run_event_loop(original: Callable[..., Any], self: Any) -> None:
    """Hook: when the server stops in good order, what waits in the publisher is sent."""
    try:
        original(self)
    finally:
        publisher: Publisher | None = getattr(self, "_attention_publisher", None)
        if publisher is not None:
            publisher.close()


def after_stream_output(result: Any, self: Any, reqs: Any, *args: Any, **options: Any) -> None:
    """Hook: every request that ends within a step passes here, whether that step was captured or not."""
    if Journal.current is not None:
        Journal.current.streamed(reqs)


def after_send_abort_output(result: Any, self: Any, abort_req: Any, req: Any) -> None:
    """Hook: a request that had started ends outside a step: taken back and then aborted, or between prefill chunks."""
    if Journal.current is not None:
        Journal.current.aborted(req)
