"""The capture in plain torch: exact, batched over requests, on any device that torch serves.

The *beside* path: after a layer's attention has run, its keys are in the paged cache; the probabilities of the last
query of each request are computed from them again. `attn_kernels.reference` is the definition; shapes below:
B requests, H query heads over G = H / Hkv groups, D head dimensions, n positions of the longest request, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch

from attn_core.fingerprint import HISTOGRAM_EDGES, LOCAL_END, MID_END, SINK_POSITIONS
from attn_core.head_projection import NUM_COLUMNS, NUM_HEAD_FIGURES, HeadProjection
from attn_kernels.reference import (
    PERIOD_DISTANCES,
    PERIOD_FLOOR,
    PERIOD_MAX,
    PERIOD_MIN,
    PERIOD_QUIET,
    PERIOD_REPEATS,
    PERIOD_TREND,
)
from attn_kernels.torch_scores import GatheredKeys, attention_scores

_EDGES = tuple(sorted({*HISTOGRAM_EDGES, LOCAL_END, MID_END}))
_AT = {edge: i for i, edge in enumerate(_EDGES)}
_RAGGED = 2.0
"""Requests are computed together while the longest has at most this many times the positions of the shortest."""
_HIDDEN = -1e30
"""The score of a position that is not attended to: finite, so that no probability of 0 meets an infinite score."""
_PROMPT_BLOCK = 1 << 23
"""Probabilities of a prompt that are held at once in one layer, heads * queries * positions: 32 MiB."""


@dataclass(frozen=True, kw_only=True)
class LayerQueries:
    """The last query of each request in one captured layer, and how that layer turns scores into probabilities."""

    query: torch.Tensor  # [B, H, D]
    keys: torch.Tensor  # [slots, Hkv, D], the layer's whole key cache
    scaling: float
    logit_cap: float = 0.0
    sliding_window: int = -1
    sinks: torch.Tensor | None = None  # [H], one logit a head beside the positions (gpt-oss)
    slots: torch.Tensor | None = None  # [B, >= n], where its keys lie if not where the other layers' do


@dataclass(frozen=True, kw_only=True)
class HeadShards:
    """Heads sharded over ranks (tensor parallelism): each rank has the sums of its own heads only."""

    num_heads: int
    """Query heads over all ranks."""
    all_reduce: Callable[[torch.Tensor], object]
    """Sums a float32 tensor over the ranks, in place; called once a step, by every rank."""
    first_head: int = 0
    """Which of them is this rank's first."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """The part of a `HeadProjection` that this rank multiplies by: the rows of its own heads, on the device."""

    matrix: torch.Tensor  # float32 [L * H * 5, 21]; rows by distinct layer, then head of this rank, then figure
    offset: torch.Tensor  # float32 [21], of all ranks together: added once

    @classmethod
    def of_rank(
        cls, whole: HeadProjection, *, num_heads: int, first_head: int = 0, device: torch.device | str = "cpu"
    ) -> Projection:
        """The rows of heads ``first_head .. first_head + num_heads - 1`` of each layer."""
        by_head = torch.from_numpy(whole.matrix).view(len(whole.layers), whole.num_heads, NUM_HEAD_FIGURES, NUM_COLUMNS)
        own = by_head[:, first_head : first_head + num_heads].reshape(-1, NUM_COLUMNS)
        return cls(matrix=own.to(device), offset=torch.from_numpy(whole.offset).to(device))


@dataclass(frozen=True, kw_only=True)
class Captured:
    """What a step captured, a row a request. `topk_*` are padded with -1 and 0 where n < k."""

    vector: torch.Tensor  # float32 [B, 20]
    companions: torch.Tensor  # float32 [B, 4]: sink_mass, prompt_mass, periodicity, residual_mass
    topk_positions: torch.Tensor  # int32 [B, k]
    topk_probs: torch.Tensor  # float32 [B, k]
    sketch: torch.Tensor | None = None  # float32 [B, 21]: head_sketch, zone_evidence; None without a projection
    head_figures: torch.Tensor | None = None  # float32 [B, L * H * 5], H over all ranks; None where not asked for

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Captured:
        """`change` made to every tensor that there is."""
        return _merged([self], lambda tensors: change(tensors[0]))


@dataclass(frozen=True, kw_only=True)
class _HeadsAsked:
    """What is wanted of the single heads."""

    layers: frozenset[int]
    """Places of the layers that are looked at: the first of each number."""
    projection: Projection | None
    figures: bool


@dataclass(frozen=True, kw_only=True)
class _Near:
    """Where the positions at distances under MID_END lie; worked out once, it serves all layers."""

    at: torch.Tensor | None  # int64 [B, 1, m], by distance; None: all requests have one length, and slices do
    beyond: torch.Tensor | None  # bool [B, 1, m], distances that a request does not reach
    reaches_far: torch.Tensor  # bool [B, 1], whether there are distances from MID_END on

    @classmethod
    def of(cls, lens: torch.Tensor, *, n: int, one_length: bool) -> _Near:
        """For requests of `lens` positions, int64 [B], the longest of n."""
        reaches_far = lens[:, None] > MID_END
        if one_length:
            return cls(at=None, beyond=None, reaches_far=reaches_far)
        at = (lens - 1)[:, None, None] - torch.arange(min(n, MID_END), device=lens.device)
        return cls(at=at.clamp(min=0), beyond=at < 0, reaches_far=reaches_far)

    def figures(self, p: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        """float32 [B, H, 5] of probabilities [B, H, n] that sum to 1, 0 where absent, and their entropies [B, H]."""
        if self.at is None or self.beyond is None:
            n = p.shape[2]
            local_start, mid_start = max(n - LOCAL_END, 0), max(n - MID_END, 0)
            local, mid = p[:, :, local_start:].sum(dim=2), p[:, :, mid_start:local_start].sum(dim=2)
        else:
            close = p.gather(2, self.at.expand(-1, p.shape[1], -1)).masked_fill_(self.beyond, 0)
            local, mid = close[:, :, :LOCAL_END].sum(dim=2), close[:, :, LOCAL_END:].sum(dim=2)
        far = (1 - local - mid).clamp_(min=0) * self.reaches_far
        return torch.stack([p[:, :, :SINK_POSITIONS].sum(dim=2), local, mid, far, entropy], dim=2)


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Some rows' attention, added up over layers and heads but not yet divided; absent positions are 0."""

    mass: torch.Tensor  # float32 [B, n]
    entropy: torch.Tensor  # float32 [B, L]
    lens: torch.Tensor  # int64 [B]
    absent: torch.Tensor | None  # bool [B, n]
    sketch: torch.Tensor | None = None  # float64 [B, 21], this rank's part, without the offset
    figures: torch.Tensor | None = None  # float32 [B, L, H, 5]


def capture(
    layers: Sequence[LayerQueries],
    *,
    slots: torch.Tensor,
    context_lens: Sequence[int],
    prompt_lens: Sequence[int],
    k: int,
    shards: HeadShards | None = None,
    projection: Projection | None = None,
    with_head_figures: bool = False,
    layer_ids: Sequence[int] | None = None,
) -> Captured:
    """The fingerprints of one step.

    `slots` is int [B, >= n], the cache slot of each position of each request (what lies past a request's end is not
    read); `context_lens` and `prompt_lens` are on the host, so that nothing waits for the device. With a `projection`
    comes the sketch, `with_head_figures` the figures themselves; `layer_ids` are the numbers of `layers` where some
    repeat, for the figures are of distinct layers.
    """
    heads = _heads_asked(layers, layer_ids=layer_ids, projection=projection, figures=with_head_figures)
    parts = []
    groups = _by_length(context_lens)
    for rows in groups:
        whole = len(rows) == len(context_lens)
        index = None if whole else torch.tensor(rows, device=slots.device)
        n = max(context_lens[r] for r in rows)
        lens = torch.tensor([context_lens[r] for r in rows], device=slots.device)
        ragged = any(context_lens[r] != n for r in rows)
        absent = torch.arange(n, device=slots.device) >= lens[:, None] if ragged else None
        parts.append(
            _sums(
                [layer if index is None else _rows(layer, index) for layer in layers],
                slots=(slots if index is None else slots[index])[:, :n],
                lens=lens,
                absent=absent,
                shortest=min(context_lens[r] for r in rows),
                heads=heads,
            )
        )
    parts = _over_ranks(parts, num_heads=layers[0].query.shape[1], shards=shards, projection=projection)
    done = [
        _finish(part, prompt_lens=torch.tensor([prompt_lens[r] for r in rows], device=slots.device), k=k)
        for part, rows in zip(parts, groups, strict=True)
    ]
    if len(done) == 1:
        return done[0]
    back = torch.tensor([r for rows in groups for r in rows], device=slots.device).argsort()
    return _merged(done, torch.cat).each(lambda tensor: tensor[back])


def capture_prompt(
    layers: Sequence[LayerQueries],
    *,
    slots: torch.Tensor,
    first: int,
    prompt_len: int,
    k: int,
    shards: HeadShards | None = None,
    projection: Projection | None = None,
    with_head_figures: bool = False,
    layer_ids: Sequence[int] | None = None,
) -> Captured:
    """The fingerprints of consecutive positions of one prompt, computed in blocks so that memory stays bounded.

    The layers' queries are [m, H, D]: query r sits at position ``first + r`` and attends to positions up to its own.
    `slots` is int [1, >= first + m]. For the rest see `capture`; head figures are not bounded, at 20 bytes a head.
    """
    asked = _heads_asked(layers, layer_ids=layer_ids, projection=projection, figures=with_head_figures)
    num, heads, _ = layers[0].query.shape
    block = max(1, _PROMPT_BLOCK // (heads * (first + num)))
    done = []
    for start in range(0, num, block):
        end = min(num, start + block)
        lens = torch.arange(first + start + 1, first + end + 1, device=slots.device)
        n = first + end
        part = _sums(
            [replace(layer, query=layer.query[start:end]) for layer in layers],
            slots=slots[:, :n],
            lens=lens,
            absent=torch.arange(n, device=slots.device) >= lens[:, None],
            shortest=first + start + 1,
            heads=asked,
        )
        [part] = _over_ranks([part], num_heads=heads, shards=shards, projection=projection)
        done.append(_finish(part, prompt_lens=torch.full_like(lens, prompt_len), k=k))
    return _merged(done, torch.cat)


def _rows(layer: LayerQueries, index: torch.Tensor) -> LayerQueries:
    slots = None if layer.slots is None else layer.slots[index]
    return replace(layer, query=layer.query[index], slots=slots)


def _merged(parts: Sequence[Captured], merge: Callable[[list[torch.Tensor]], torch.Tensor]) -> Captured:
    """One of several: each field merged, but for those that none has."""
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Captured)}
    return Captured(**{name: None if found[0] is None else merge(found) for name, found in columns.items()})


def _heads_asked(
    layers: Sequence[LayerQueries], *, layer_ids: Sequence[int] | None, projection: Projection | None, figures: bool
) -> _HeadsAsked | None:
    if projection is None and not figures:
        return None
    numbers = list(range(len(layers)) if layer_ids is None else layer_ids)
    distinct = frozenset(numbers.index(number) for number in numbers)
    return _HeadsAsked(layers=distinct, projection=projection, figures=figures)


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


def _sums(
    layers: Sequence[LayerQueries],
    *,
    slots: torch.Tensor,
    lens: torch.Tensor,
    absent: torch.Tensor | None,
    shortest: int,
    heads: _HeadsAsked | None,
) -> _Sums:
    """Sums over layers and heads. `slots` is [B, n], or [1, n] where all queries read the same request's keys.

    `shortest` is the least of `lens`: from there on positions may be absent.
    """
    n = slots.shape[1]
    batch = len(lens)
    mass = torch.zeros(batch, n, device=slots.device)
    entropy = torch.empty(batch, len(layers), device=slots.device)
    unread = None if absent is None or slots.shape[0] != batch else absent
    gathered = GatheredKeys(slots if unread is None else slots.masked_fill(unread, 0))
    near = None if heads is None else _Near.of(lens, n=n, one_length=absent is None)
    figures: list[torch.Tensor] = []
    for i, layer in enumerate(layers):
        if layer.slots is None:
            keys = gathered
        else:
            own = layer.slots[:, :n]
            keys = GatheredKeys(own if unread is None else own.masked_fill(unread, 0))
        scores = attention_scores(layer.query.float(), layer.keys, places=keys)  # [B, H, n]
        scores *= layer.scaling
        if layer.logit_cap > 0:
            scores = scores.div_(layer.logit_cap).tanh_().mul_(layer.logit_cap)
        hidden = absent
        if layer.sliding_window >= 0:
            beyond = (lens[:, None] - 1 - torch.arange(n, device=slots.device)) > layer.sliding_window
            hidden = beyond if hidden is None else hidden | beyond
        if hidden is not None:
            first = 0 if layer.sliding_window >= 0 else shortest
            scores[:, :, first:].masked_fill_(hidden[:, None, first:], _HIDDEN)
        single = heads is not None and i in heads.layers
        layer_mass, layer_entropy, layer_figures = _mass_and_entropy(
            scores, sinks=layer.sinks, near=near if single else None
        )
        mass += layer_mass
        entropy[:, i] = layer_entropy
        if layer_figures is not None:
            figures.append(layer_figures)
    sums = _Sums(mass=mass, entropy=entropy, lens=lens, absent=absent)
    if heads is None:
        return sums
    found = torch.stack(figures, dim=1)  # [B, L, H, 5]
    sketch = None if heads.projection is None else found.flatten(1).double() @ heads.projection.matrix.double()
    return replace(sums, sketch=sketch, figures=found if heads.figures else None)


def _mass_and_entropy(
    scores: torch.Tensor, *, sinks: torch.Tensor | None, near: _Near | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Sums over heads of the probabilities, [B, n], and of their entropies in nats, [B]; `scores` are spent.

    The entropy of p = softmax(s) is the sum of p (max s - s), less the logarithm of the greatest p: one pass without a
    logarithm a position, and nothing to cancel, since far scores have no probability. Where `near` is given, each
    head's figures come third, [B, H, 5].
    """
    if sinks is None:
        p = torch.softmax(scores, dim=2)
        mass = p.sum(dim=1)
    else:
        sink = sinks.float().view(1, -1, 1).expand(len(scores), -1, 1)
        p = torch.softmax(torch.cat([scores, sink], dim=2), dim=2)[:, :, :-1]
        mass = p.sum(dim=1)
        p = p / p.sum(dim=2, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
    scores -= scores.amax(dim=2, keepdim=True)
    scores *= p
    if near is None:
        return mass, -(scores.sum(dim=(1, 2)) + p.amax(dim=2).log_().sum(dim=1)), None
    entropy = -(scores.sum(dim=2) + p.amax(dim=2).log_())  # [B, H]
    return mass, entropy.sum(dim=1), near.figures(p, entropy)


def _over_ranks(
    parts: Sequence[_Sums], *, num_heads: int, shards: HeadShards | None, projection: Projection | None
) -> list[_Sums]:
    """Means over all heads of all ranks, brought together in one reduction; P made to sum to 1 over the positions.

    It does so already, but for layers with sink logits: what those draw off is left out of the fingerprint. Of single
    heads the sketch's parts are added up, and the figures put in the places of this rank's heads.
    """
    if shards is not None:
        parts = _reduced(parts, num_heads=num_heads, shards=shards)
        num_heads = shards.num_heads
    return [
        replace(
            part,
            mass=part.mass / part.mass.sum(dim=1, keepdim=True),
            entropy=part.entropy / num_heads,
            sketch=part.sketch if part.sketch is None or projection is None else part.sketch + projection.offset,
        )
        for part in parts
    ]


def _reduced(parts: Sequence[_Sums], *, num_heads: int, shards: HeadShards) -> list[_Sums]:
    """Every rank's sums added up; figures are of all heads then."""

    def at_home(figures: torch.Tensor) -> torch.Tensor:
        after = shards.num_heads - shards.first_head - num_heads
        return torch.nn.functional.pad(figures, (0, 0, shards.first_head, after))

    names = ("mass", "entropy", "sketch", "figures")
    parts = [part if part.figures is None else replace(part, figures=at_home(part.figures)) for part in parts]
    tensors = [{name: t for name in names if (t := getattr(part, name)) is not None} for part in parts]
    flat = torch.cat([t.reshape(-1).float() for found in tensors for t in found.values()])
    shards.all_reduce(flat)
    pieces = iter(flat.split([t.numel() for found in tensors for t in found.values()]))
    return [
        replace(part, **{name: next(pieces).view_as(t) for name, t in found.items()})
        for part, found in zip(parts, tensors, strict=True)
    ]


def _finish(part: _Sums, *, prompt_lens: torch.Tensor, k: int) -> Captured:
    """Masses, entropy, period and top-k of P, float32 [B, n], 0 past each request's end."""
    p, lens = part.mass, part.lens
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
    vector = torch.cat([masses[:, :3].float(), entropy, masses[:, 3:].float(), part.entropy], dim=1)
    sink = cumulative.gather(1, lens.clamp(max=SINK_POSITIONS)[:, None])[:, 0]
    prompt = (cumulative.gather(1, torch.minimum(prompt_lens, lens)[:, None])[:, 0] - sink).clamp_(min=0)
    positions, probs = _top_k(p, absent=part.absent, k=k)
    residual = (1 - probs.double().sum(dim=1)).clamp_(min=0)
    companions = torch.stack([sink, prompt, _periodicity(p, lens), residual], dim=1).float()
    return Captured(
        vector=vector,
        companions=companions,
        topk_positions=positions,
        topk_probs=probs,
        sketch=None if part.sketch is None else part.sketch.float(),
        head_figures=None if part.figures is None else part.figures.flatten(1),
    )


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
