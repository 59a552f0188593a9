"""The platform class: SGLang's own CPU device operations, with defaults that make a bare launch command work."""

from __future__ import annotations

import logging
import os
from typing import Any

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform

logger = logging.getLogger(__name__)

MAX_TOTAL_TOKENS = 16_384
"""KV cache positions where the user gave no limit: 750 MB for the demo model in float32."""
MAX_RUNNING_REQUESTS = 16
NATIVE_BACKEND = "torch_native"


class TorchCpuPlatform(SRTPlatform, CpuDeviceMixin):
    """A CPU served by torch's native attention, float32 by default so that what is captured is exact."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    capabilities = PlatformCapabilities()

    def get_default_attention_backend(self) -> str:
        """The backend where the user named none."""
        return NATIVE_BACKEND

    def get_device(self, device_id: int = 0) -> Any:
        """The device's name; SGLang's mixin gives a `torch.device`, and its argument handling then splits a string."""
        return "cpu"

    def get_dispatch_key_name(self) -> str:
        """Fused operations take their plain PyTorch form."""
        return "native"

    def is_pin_memory_available(self, device: object = None) -> bool:
        """Pinned memory speeds copies to a device; there is none."""
        return False

    def apply_server_args_defaults(self, server_args: Any) -> None:
        """Fill in what the user left open; replace what cannot run here, and say so."""
        if server_args.dtype == "auto":
            server_args.dtype = "float32"
        if server_args.max_total_tokens is None:
            server_args.max_total_tokens = MAX_TOTAL_TOKENS
        if server_args.max_running_requests is None:
            server_args.max_running_requests = MAX_RUNNING_REQUESTS
        server_args.disable_cuda_graph = True
        # Without it SGLang's scheduler spins on a core even while nobody asks anything.
        server_args.sleep_on_idle = True
        if server_args.sampling_backend is None:
            server_args.sampling_backend = "pytorch"
        self._replace_triton(server_args)

    def _replace_triton(self, server_args: Any) -> None:
        fields = ("attention_backend", "prefill_attention_backend", "decode_attention_backend")
        asked = [name for name in fields if getattr(server_args, name) == "triton"]
        if not asked or os.environ.get("TRITON_INTERPRET") == "1":
            return
        for name in asked:
            setattr(server_args, name, NATIVE_BACKEND)
        logger.warning(
            "There is no GPU here, so '--attention-backend triton' is served by '%s': the same exact attention in "
            "plain PyTorch. (TRITON_INTERPRET=1 runs the Triton kernels themselves, at a thousandth of the speed.)",
            NATIVE_BACKEND,
        )
