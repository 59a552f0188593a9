"""Which of a model's layers can be captured, and why not the others: read off the layers themselves, once, at start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.mem_cache.swa_memory_pool import BaseSWAKVPool

from attn_core.fingerprint import captured_layers

READABLE_BACKENDS = (TorchNativeAttnBackend, TritonAttnBackend)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What of a model is captured."""

    layer_ids: tuple[int, ...]
    """The captured layers; empty where there is nothing to capture, and then `left_out` says why."""
    left_out: Mapping[str, tuple[int, ...]]
    """Reason to layers."""

    def told(self) -> str:
        """What is left out and why, in one line; empty where nothing is."""
        return "; ".join(f"{_numbers(layers)} {reason}".strip() for reason, layers in self.left_out.items())


def survey(runner: Any) -> Survey:
    """What can be captured of a model runner's model, with the backend and the cache that it was given."""
    if type(runner.attn_backend) not in READABLE_BACKENDS:
        reason = f"attention cannot be read from {type(runner.attn_backend).__name__}: use --attention-backend triton"
        return Survey(layer_ids=(), left_out={reason: ()})
    attentions = [module for module in runner.model.modules() if isinstance(module, RadixAttention)]
    return survey_of(
        attentions,
        num_layers=runner.model_config.num_hidden_layers,
        is_torch_native=type(runner.attn_backend) is TorchNativeAttnBackend,
        has_window_pool=isinstance(runner.token_to_kv_pool, BaseSWAKVPool),
    )


def survey_of(attentions: Sequence[Any], *, num_layers: int, is_torch_native: bool, has_window_pool: bool) -> Survey:
    """The layers with full attention, or those with a sliding window where there are no others."""
    full: set[int] = set()
    windowed: dict[int, int] = {}
    left_out: dict[str, set[int]] = {}
    for layer in attentions:
        if reason := why_unreadable(layer, is_torch_native=is_torch_native):
            left_out.setdefault(reason, set()).add(layer.layer_id)
        elif layer.sliding_window_size is not None and layer.sliding_window_size >= 0:
            windowed[layer.layer_id] = layer.sliding_window_size
        else:
            full.add(layer.layer_id)
    linear = set(range(num_layers)) - {layer.layer_id for layer in attentions}
    if linear:
        left_out["without softmax attention"] = linear
    unread = set().union(*left_out.values())
    chosen = full - unread
    if chosen:
        if beside := set(windowed) - unread:
            left_out["with a sliding window, since others see the whole context"] = beside
    elif is_torch_native and has_window_pool:
        left_out["with a sliding window whose cache torch_native reads at other places than it writes"] = set(windowed)
    else:
        chosen = set(windowed) - unread
    return Survey(
        layer_ids=captured_layers(sorted(chosen)) if chosen else (),
        left_out={reason: tuple(sorted(layers)) for reason, layers in left_out.items()},
    )


def why_unreadable(layer: Any, *, is_torch_native: bool) -> str | None:
    """What in this layer's attention the capture cannot say exactly, or None."""
    if layer.is_cross_attention:
        return "with cross-attention"
    if layer.attn_type not in (AttentionType.DECODER, AttentionType.DECODER.value):
        return "that are not causal"
    if layer.use_irope:
        return "with chunked local attention"
    if layer.xai_temperature_len is not None and layer.xai_temperature_len > 0 and not is_torch_native:
        return "with a temperature that grows with the context"
    if layer.logit_cap > 0 and layer.logit_capping_method != "tanh" and not is_torch_native:
        return f"whose logits are capped by {layer.logit_capping_method}"
    return None


def _numbers(layers: Sequence[int]) -> str:
    """The layers, runs of three or more shortened: 'layers 0-3, 7'."""
    if not layers:
        return ""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"layers {', '.join(parts)}"
