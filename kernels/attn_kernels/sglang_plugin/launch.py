"""In the launcher: flags in, refusals out, everything else installed only where the flag was given."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from attn_kernels.sglang_plugin import flags, hooks, settings


def after_add_cli_args(result: Any, parser: argparse.ArgumentParser) -> None:
    """Hook: SGLang has added its flags; add ours."""
    flags.add_flags(parser)


def around_from_cli_args(original: Callable[..., Any], cls: type, args: argparse.Namespace) -> Any:
    """Hook: SGLang has read its flags; read ours and install what they ask for."""
    server_args = original(cls, args)
    capture_settings = flags.settings_from_args(args)
    settings.to_environment(capture_settings)
    if capture_settings is None:
        return server_args
    if reason := flags.why_refused(server_args, capture_settings):
        raise SystemExit(reason)
    flags.prepare(server_args, capture_settings, has_gpu=_has_gpu())
    hooks.warn_of_unknown_version()
    install_or_exit(hooks.server_hooks)
    return server_args


def install_or_exit(table: Callable[[], list[hooks.Hook]]) -> None:
    """Install hooks; end the process with one clear line where SGLang is not as expected.

    SystemExit and not an error: SGLang logs errors of plugins and serves on without them.
    """
    try:
        hooks.install(table())
    except (hooks.HookError, ImportError) as error:
        raise SystemExit(f"attention capture: {error}") from error


def is_scheduler_process() -> bool:
    """Whether this process was spawned to run SGLang's scheduler, whose module it has then imported."""
    return "sglang.srt.managers.scheduler" in sys.modules


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())
