"""The SGLang plugin: exact attention capture, per-request answers, and the publisher. No fork, no patch files.

SGLang calls `register` in each of its processes through the entry-point group ``sglang.srt.plugins``. Without
``--return-attention-tokens`` only the flags themselves are added.
"""

from __future__ import annotations


def register() -> None:
    """Add the flags; in a process that a capturing launcher spawned, install the capture."""
    from attn_kernels.sglang_plugin import hooks, launch, settings

    launch.install_or_exit(hooks.command_line_hooks)
    if settings.from_environment() is not None and launch.is_scheduler_process():
        launch.install_or_exit(hooks.scheduler_hooks)
