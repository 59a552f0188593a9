"""In the scheduler process, at its start and end: what is captured, where it goes, and the last of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sglang.srt.configs.model_config import AttentionArch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.attention.triton_backend import TritonAttnBackend

from attn_core.fingerprint import captured_layers
from attn_core.wire import SourceInfo
from attn_kernels.publisher import Publisher
from attn_kernels.sglang_plugin.capture import Capture, Observer
from attn_kernels.sglang_plugin.committed import Journal, OnDevice
from attn_kernels.sglang_plugin.publishing import start_publisher
from attn_kernels.sglang_plugin.settings import from_environment

logger = logging.getLogger(__name__)


class CaptureRefused(Exception):
    """The model or backend that SGLang settled on cannot be captured; the message says why."""


def after_init(result: Any, self: Any, server_args: Any, *args: Any, **options: Any) -> None:
    """Hook: the scheduler is built; start capturing."""
    settings = from_environment()
    if settings is None:
        return
    runner = self.tp_worker.model_runner
    _check(runner)
    config = runner.model_config
    layers = captured_layers(config.full_attention_layer_ids or list(range(config.num_hidden_layers)))
    info = SourceInfo(
        model_id=server_args.served_model_name or server_args.model_path,
        captured_layers=layers,
        num_heads=config.num_attention_heads,
    )
    publisher = start_publisher(settings, scheduler=self, server_args=server_args, info=info)
    self._attention_publisher = publisher
    journal = Journal.current = Journal(publisher)
    Capture.current = Capture(settings=settings, layer_ids=layers, runner=runner, started=journal.started)
    runner.sampling_observer = Observer(lambda finished: OnDevice(finished, journal))
    logger.info(
        "Attention capture: layers %s of %d, %d heads, top-%d, %s requests, publishing %s%s.",
        list(layers),
        config.num_hidden_layers,
        config.num_attention_heads,
        settings.top_k,
        settings.capture,
        "nowhere" if publisher is None else f"to {settings.publish_address}",
        " (fingerprints only)" if settings.privacy else "",
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


def _check(runner: Any) -> None:
    if not runner.is_generation:
        raise CaptureRefused("--return-attention-tokens needs a model that generates; this one embeds or classifies.")
    backend = runner.attn_backend
    if type(backend) not in (TorchNativeAttnBackend, TritonAttnBackend):
        raise CaptureRefused(
            f"--return-attention-tokens cannot read attention from {type(backend).__name__}: start with "
            "--attention-backend triton."
        )
    if runner.model_config.attention_arch is not AttentionArch.MHA:
        raise CaptureRefused(
            f"--return-attention-tokens reads multi-head and grouped-query attention; this model's is "
            f"{runner.model_config.attention_arch.name}."
        )
