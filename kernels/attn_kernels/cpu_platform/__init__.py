"""SGLang on a machine without a GPU: an out-of-tree platform that serves with plain PyTorch on the CPU.

SGLang finds `activate` through the entry-point group ``sglang.srt.platforms``. Where there is an accelerator, or where
the user asked for SGLang's own CPU engine, it answers None and SGLang behaves as if this package were not there.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

_ACCELERATORS = ("cuda", "xpu", "mps", "npu", "musa", "hpu")
PLATFORM_CLASS = "attn_kernels.cpu_platform.platform:TorchCpuPlatform"


def activate() -> str | None:
    """The platform class for SGLang to load, or None where this machine has an accelerator."""
    if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1" or _has_accelerator():
        return None
    _limit_threads()
    if importlib.util.find_spec("torchvision") is None:
        # Text serving imports torchvision and calls nothing in it, and no CPU build matches the CPU build of torch.
        sys.path.append(str(Path(__file__).with_name("stand_ins")))
    return PLATFORM_CLASS


def _has_accelerator() -> bool:
    import torch

    backends = (getattr(torch, name, None) for name in _ACCELERATORS)
    return any(backend is not None and backend.is_available() for backend in backends)


def _limit_threads() -> None:
    # OpenMP barriers spin: with two threads and another busy process, decoding fell from 9.9 to 1.4 tokens/s.
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that SGLang starts
        torch.set_num_threads(1)  # for this one, where OpenMP has read its environment already
