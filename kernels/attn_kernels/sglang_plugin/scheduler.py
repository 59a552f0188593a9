"""In the scheduler process, at its start and end: what is captured, where it goes, and the last of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sglang.srt.runtime_context import get_parallel

from attn_core.wire import SourceInfo
from attn_kernels.publisher import Publisher
from attn_kernels.sglang_plugin.building import built_of, model_id_of
from attn_kernels.sglang_plugin.capture import Observer
from attn_kernels.sglang_plugin.committed import Journal, OnDevice
from attn_kernels.sglang_plugin.publishing import publisher_state, start_publisher
from attn_kernels.sglang_plugin.settings import from_environment

logger = logging.getLogger(__name__)
_NOT_HERE = object()


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
    built = built_of(runner)
    found, heads = built.survey, built.heads
    if built.capture is None:
        logger.warning("Attention capture: off, nothing of this model can be captured: %s. Serving on.", found.told())
        return
    info = SourceInfo(
        model_id=model_id_of(server_args),
        captured_layers=found.layer_ids,
        num_heads=config.num_attention_heads,
    )
    publisher = None
    if get_parallel().attn_tp_rank == 0:  # every rank has the same rows
        publisher = start_publisher(settings, scheduler=self, server_args=server_args, info=info, heads=heads)
    self._attention_publisher = publisher
    self._attention_heads = heads
    journal = Journal.current = Journal(publisher, tokenizer=self.tokenizer)
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
    if heads is not None:
        logger.info(
            "Attention capture: %s; kept in %s.",
            "no head projection yet" if heads.in_use is None else f"sketches by {heads.in_use.sha256[:12]}",
            heads.folder,
        )


def around_run_event_loop(original: Callable[..., Any], self: Any) -> None:
    """Hook: when the server stops in good order, what waits in the publisher is sent."""
    try:
        original(self)
    finally:
        publisher: Publisher | None = getattr(self, "_attention_publisher", None)
        if publisher is not None:
            publisher.close()


def after_get_internal_state(result: Any, self: Any, recv_req: Any) -> Any:
    """Hook: how the publisher does, in /server_info under this scheduler's ``internal_states``."""
    if (publisher := getattr(self, "_attention_publisher", _NOT_HERE)) is not _NOT_HERE:
        result.internal_state["attention_tokens"] = publisher_state(
            publisher, heads=getattr(self, "_attention_heads", None)
        )
    return result


def after_stream_output(result: Any, self: Any, reqs: Any, *args: Any, **options: Any) -> None:
    """Hook: every request that ends within a step passes here, whether that step was captured or not."""
    if Journal.current is not None:
        Journal.current.streamed(reqs)


def after_send_abort_output(result: Any, self: Any, abort_req: Any, req: Any) -> None:
    """Hook: a request that had started ends outside a step: taken back and then aborted, or between prefill chunks."""
    if Journal.current is not None:
        Journal.current.aborted(req)
