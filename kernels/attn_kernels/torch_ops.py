"""The capture in plain torch: exact, batched over requests, on any device that torch serves.

The *beside* path: after a layer's attention has run, its keys are in the paged cache; the probabilities of the last
query of each request are computed from them again. `attn_kernels.reference` is the definition; shapes below:
B requests, H query heads over G = H / Hkv groups, D head dimensions, n positions of the longest request, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attn_core.fingerprint import HISTOGRAM_EDGES, LOCAL_END, MID_END, SINK_POSITIONS
from attn_kernels.reference import (
    PERIOD_DISTANCES,
    PERIOD_FLOOR,
    PERIOD_MAX,
    PERIOD_MIN,
    PERIOD_QUIET,
    PERIOD_REPEATS,
    PERIOD_TREND,
)

_EDGES = tuple(sorted({*HISTOGRAM_EDGES, LOCAL_END, MID_END}))
_AT = {edge: i for i, edge in enumerate(_EDGES)}
_RAGGED = 2.0
"""Requests are computed together while the longest has at most this many times the positions of the shortest."""


@dataclass(frozen=True, kw_only=True)
class LayerQueries:
    """The last query of each request in one captured layer, and how that layer turns scores into probabilities."""

    query: torch.Tensor  # [B, H, D]
    keys: torch.Tensor  # [slots, Hkv, D], the layer's whole key cache
    scaling: float
    logit_cap: float = 0.0
    sliding_window: int = -1


@dataclass(frozen=True, kw_only=True)
class Captured:
    """What a step captured, a row a request. `topk_*` are padded with -1 and 0 where n < k."""

    vector: torch.Tensor  # float32 [B, 20]
    companions: torch.Tensor  # float32 [B, 4]: sink_mass, prompt_mass, periodicity, residual_mass
    topk_positions: torch.Tensor  # int32 [B, k]
    topk_probs: torch.Tensor  # float32 [B, k]


def capture(
    layers: Sequence[LayerQueries],
    *,
    slots: torch.Tensor,
    context_lens: Sequence[int],
    prompt_lens: Sequence[int],
    k: int,
) -> Captured:
    """The fingerprints of one step.

    `slots` is int [B, >= n], the cache slot of each position of each request (what lies past a request's end is not
    read); `context_lens` and `prompt_lens` are on the host, so that nothing waits for the device.
    """
    parts = []
    groups = _by_length(context_lens)
    for rows in groups:
        whole = len(rows) == len(context_lens)
        index = None if whole else torch.tensor(rows, device=slots.device)
        n = max(context_lens[r] for r in rows)
        parts.append(
            _capture_group(
                layers,
                rows=index,
                slots=(slots if index is None else slots[index])[:, :n],
                lens=torch.tensor([context_lens[r] for r in rows], device=slots.device),
                prompt_lens=torch.tensor([prompt_lens[r] for r in rows], device=slots.device),
                ragged=any(context_lens[r] != n for r in rows),
                k=k,
            )
        )
    if len(parts) == 1:
        return parts[0]
    back = torch.tensor([r for rows in groups for r in rows], device=slots.device).argsort()
    return Captured(
        vector=torch.cat([p.vector for p in parts])[back],
        companions=torch.cat([p.companions for p in parts])[back],
        topk_positions=torch.cat([p.topk_positions for p in parts])[back],
        topk_probs=torch.cat([p.topk_probs for p in parts])[back],
    )


def _by_length(context_lens: Sequence[int]) -> list[list[int]]:
    """Rows grouped so that padding at most doubles the work; the first group keeps the order where one is enough."""
    if max(context_lens) <= _RAGGED * min(context_lens):
        return [list(range(len(context_lens)))]
    groups: list[list[int]] = []
    for row in sorted(range(len(context_lens)), key=lambda r: context_lens[r]):
        if groups and context_lens[row] <= _RAGGED * context_lens[groups[-1][0]]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _capture_group(
    layers: Sequence[LayerQueries],
    *,
    rows: torch.Tensor | None,
    slots: torch.Tensor,
    lens: torch.Tensor,
    prompt_lens: torch.Tensor,
    ragged: bool,
    k: int,
) -> Captured:
    batch, n = slots.shape
    position = torch.arange(n, device=slots.device)
    absent = position >= lens[:, None] if ragged else None  # [B, n]
    slots = slots if absent is None else slots.masked_fill(absent, 0)
    total = torch.zeros(batch, n, device=slots.device)
    layer_entropy = torch.empty(batch, len(layers), device=slots.device)
    for i, layer in enumerate(layers):
        query = layer.query if rows is None else layer.query[rows]
        keys = _gather(layer.keys, slots)
        hidden = absent
        if layer.sliding_window >= 0:
            beyond = (lens[:, None] - 1 - position) > layer.sliding_window
            hidden = beyond if hidden is None else hidden | beyond
        p = _probabilities(query.float(), keys.float(), layer=layer, hidden=hidden)  # [B, H, n]
        total += p.mean(dim=1)
        layer_entropy[:, i] = torch.special.entr(p).sum(dim=2).mean(dim=1)
    return _finish(
        total.div_(len(layers)), layer_entropy=layer_entropy, lens=lens, prompt_lens=prompt_lens, absent=absent, k=k
    )


def _gather(cache: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """[B, Hkv, n, D], contiguous, from a key cache [slots, Hkv, D] and slots [B, n].

    `index_select` over rows of one head: on a CPU nine times as fast as indexing, and the product needs no copy after.
    """
    num_slots, num_kv_heads, dim = cache.shape
    head = torch.arange(num_kv_heads, device=slots.device)[:, None]
    index = (slots[:, None, :].long() * num_kv_heads + head).view(-1)  # [B * Hkv * n]
    rows = cache.view(num_slots * num_kv_heads, dim).index_select(0, index)
    return rows.view(slots.shape[0], num_kv_heads, slots.shape[1], dim)


def _probabilities(
    query: torch.Tensor, keys: torch.Tensor, *, layer: LayerQueries, hidden: torch.Tensor | None
) -> torch.Tensor:
    """float32 [B, H, n] from query [B, H, D] and keys [B, Hkv, n, D]."""
    batch, heads, dim = query.shape
    num_kv_heads = keys.shape[1]
    grouped = query.view(batch, num_kv_heads, heads // num_kv_heads, dim)
    scores = torch.matmul(grouped, keys.transpose(2, 3)).view(batch, heads, -1)
    scores *= layer.scaling
    if layer.logit_cap > 0:
        scores = layer.logit_cap * torch.tanh(scores / layer.logit_cap)
    if hidden is not None:
        scores.masked_fill_(hidden[:, None], float("-inf"))
    return torch.softmax(scores, dim=2)


def _finish(
    p: torch.Tensor,
    *,
    layer_entropy: torch.Tensor,
    lens: torch.Tensor,
    prompt_lens: torch.Tensor,
    absent: torch.Tensor | None,
    k: int,
) -> Captured:
    """Masses, entropy, period and top-k of P, float32 [B, n], 0 past each request's end."""
    # below[b, e] is the mass at distances under edge e: the cumulative sum from the far end, in float64.
    cumulative = torch.nn.functional.pad(p.double().cumsum(dim=1), (1, 0))  # [B, n + 1]
    all_mass = cumulative[:, -1:]
    edges = torch.tensor(_EDGES, device=p.device)
    below = all_mass - cumulative.gather(1, (lens[:, None] - edges).clamp_(min=0))

    def mass(start: int, end: int | None) -> torch.Tensor:
        return (all_mass[:, 0] if end is None else below[:, _AT[end]]) - below[:, _AT[start]]

    ranges = [(0, LOCAL_END), (LOCAL_END, MID_END), (MID_END, None)]
    ranges += list(zip(HISTOGRAM_EDGES, [*HISTOGRAM_EDGES[1:], None], strict=True))
    masses = torch.stack([mass(start, end) for start, end in ranges], dim=1).clamp_(0, 1)  # [B, 11]
    entropy = torch.special.entr(p).sum(dim=1, keepdim=True)
    vector = torch.cat([masses[:, :3].float(), entropy, masses[:, 3:].float(), layer_entropy], dim=1)
    sink = cumulative.gather(1, lens.clamp(max=SINK_POSITIONS)[:, None])[:, 0]
    prompt = (cumulative.gather(1, torch.minimum(prompt_lens, lens)[:, None])[:, 0] - sink).clamp_(min=0)
    positions, probs = _top_k(p, absent=absent, k=k)
    residual = (1 - probs.double().sum(dim=1)).clamp_(min=0)
    companions = torch.stack([sink, prompt, _periodicity(p, lens), residual], dim=1).float()
    return Captured(vector=vector, companions=companions, topk_positions=positions, topk_probs=probs)


def _top_k(p: torch.Tensor, *, absent: torch.Tensor | None, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 and float32 [B, k]: most attended first, of equal probabilities the lower position first.

    Probabilities are positive floats, whose bits order as they do; with the position below them each key is unique.
    """
    n = p.shape[1]
    order = (p.view(torch.int32).long() << 32) | (0xFFFFFFFF - torch.arange(n, device=p.device))
    if absent is not None:
        order = order.masked_fill(absent, -1)
    keys = torch.topk(order, min(k, n), dim=1).values
    positions = torch.where(keys < 0, -1, 0xFFFFFFFF - (keys & 0xFFFFFFFF)).int()
    probs = p.gather(1, positions.clamp(min=0).long()).masked_fill_(positions < 0, 0)
    if k > n:
        positions = torch.nn.functional.pad(positions, (0, k - n), value=-1)
        probs = torch.nn.functional.pad(probs, (0, k - n))
    return positions, probs


def _periodicity(p: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """float64 [B], see `attn_kernels.reference.periodicity`."""
    distance = torch.arange(PERIOD_DISTANCES, device=p.device)
    num = (lens - SINK_POSITIONS).clamp(0, PERIOD_DISTANCES)[:, None]  # [B, 1], distances that there are
    present = distance < num  # [B, 128]
    source = (lens[:, None] - 1 - distance).clamp(min=0)
    logs = p.gather(1, source).double().add_(PERIOD_FLOOR).log_().masked_fill_(~present, 0)
    running = torch.nn.functional.pad(logs.cumsum(dim=1), (1, 0))
    reach = torch.minimum(distance, num - 1 - distance).clamp_(0, PERIOD_TREND // 2)
    trend = (running.gather(1, distance + reach + 1) - running.gather(1, distance - reach)) / (2 * reach + 1)
    z = (logs - trend).masked_fill_(~present, 0)
    spectrum = torch.fft.rfft(z, n=2 * PERIOD_DISTANCES)  # the autocorrelation is the transform of the power
    r = torch.fft.irfft(spectrum.abs() ** 2, n=2 * PERIOD_DISTANCES)[:, : PERIOD_MAX + 1]  # [B, 43]
    r = r / (r[:, :1] + PERIOD_QUIET * num.clamp(min=1))
    ignored = (distance[: PERIOD_MAX + 1] * PERIOD_REPEATS > num) | (r.cummin(dim=1).values > 0)
    return r.masked_fill(ignored, 0)[:, PERIOD_MIN:].amax(dim=1).clamp_(0, 1)
