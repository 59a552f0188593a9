"""The publisher of a scheduler process: made from the settings, its figures in SGLang's own /metrics."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attn_core.wire import SourceInfo
from attn_kernels.curve import curve_keys
from attn_kernels.publisher import Publisher, SpoolSettings
from attn_kernels.publisher_metrics import PublisherMetrics
from attn_kernels.sglang_plugin.heads import Heads
from attn_kernels.sglang_plugin.settings import PUBLISH_OFF, CaptureSettings, default_spool_dir
from attn_kernels.token_text import TokenTexts

logger = logging.getLogger(__name__)


def start_publisher(
    settings: CaptureSettings, *, scheduler: Any, server_args: Any, info: SourceInfo, heads: Heads | None
) -> Publisher | None:
    """The publisher that the settings ask for, running; None where they ask for none."""
    if settings.publish_address == PUBLISH_OFF:
        return None
    spool = curve = None
    if settings.spool_bytes:
        root = Path(settings.spool_dir) if settings.spool_dir else default_spool_dir(port=server_args.port)
        spool = SpoolSettings(root=root, byte_limit=settings.spool_bytes)
    if settings.curve_server_key is not None:
        client = settings.curve_client_key
        curve = curve_keys(
            server_key=Path(settings.curve_server_key), client_key=None if client is None else Path(client)
        )
    return Publisher(
        address=settings.publish_address,
        info=info,
        text_of=TokenTexts(scheduler.tokenizer),
        privacy=settings.privacy,
        spool=spool,
        curve=curve,
        report=_metrics(scheduler),
        take_matrix=None if heads is None else heads.take,
    )


def publisher_state(publisher: Publisher | None, *, heads: Heads | None) -> dict[str, Any]:
    """What /server_info says of the publisher of one scheduler, and of the matrix of its sketches."""
    if publisher is None:
        return {"publisher": PUBLISH_OFF}
    in_use = None if heads is None or heads.in_use is None else heads.in_use.sha256
    return {"publisher": publisher.state(), "head_projection": in_use, **asdict(publisher.figures())}


def _metrics(scheduler: Any) -> PublisherMetrics | None:
    """Where the server was started with --enable-metrics: metrics with the labels of this scheduler's own."""
    collector = scheduler.metrics_collector
    return None if collector is None else PublisherMetrics(labels=collector.labels)
