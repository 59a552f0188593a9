"""The definition of the fingerprint and of what lies beside it, executable: float64 NumPy, one query at a time.

Everything that captures attention here is checked against this file. It is written to be read, not to be fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_core.fingerprint import DIM, HISTOGRAM_EDGES, LOCAL_END, MID_END, SINK_POSITIONS
from attn_core.head_projection import NUM_HEAD_FIGURES

Float64 = npt.NDArray[np.float64]

PERIOD_DISTANCES = 128
"""Distances 0..127 are searched for a period."""
PERIOD_MIN = 2
PERIOD_MAX = 42
PERIOD_REPEATS = 3
"""A period fits at least this often into the distances there are."""
PERIOD_TREND = 11
"""Distances whose mean is the trend."""
PERIOD_FLOOR = 1e-5
"""Added to each probability: no ratio is read out of rounding."""
PERIOD_QUIET = 1e-4
"""Variance added: a ripple of much less than 1% is no period."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What is captured for one output token; probabilities 0..1, entropies in nats."""

    vector: Float64
    """float64 [20], see `attn_core.fingerprint`."""
    context_len: int
    sink_mass: float
    prompt_mass: float
    periodicity: float
    topk_positions: npt.NDArray[np.int64]
    """int64 [min(k, n)], most attended first; of equals the lower position first."""
    topk_probs: Float64
    residual_mass: float


def probabilities(
    query: Float64,
    keys: Float64,
    *,
    scaling: float,
    logit_cap: float = 0.0,
    sliding_window: int = -1,
    sinks: Float64 | None = None,
) -> Float64:
    """float64 [H, n]: the softmax probabilities of one query over all n positions.

    `query` is [H, D], `keys` [n, Hkv, D] with H a multiple of Hkv (query head h reads key head ``h // (H / Hkv)``). The
    query sits at position n - 1. A `logit_cap` c > 0 replaces a score s by ``c tanh(s / c)``. With a `sliding_window`
    w >= 0 only distances 0..w are attended to, as SGLang counts it. `sinks` is [H], a learned logit a head that joins
    the normaliser and stands for no position (gpt-oss): the row then sums to less than 1.
    """
    n, num_kv_heads, _ = keys.shape
    group = query.shape[0] // num_kv_heads
    scores = np.einsum("hd,nhd->hn", query, np.repeat(keys, group, axis=1)) * scaling
    if logit_cap > 0:
        scores = logit_cap * np.tanh(scores / logit_cap)
    if sliding_window >= 0:
        scores[:, np.arange(n)[::-1] > sliding_window] = -np.inf
    if sinks is not None:
        scores = np.concatenate([scores, sinks[:, None]], axis=1)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    p: Float64 = weights / weights.sum(axis=1, keepdims=True)
    return p[:, :n]


def fingerprint(rows: Float64, *, prompt_len: int, k: int) -> Fingerprint:
    """The fingerprint of the query whose attention is `rows`, float64 [layers, heads, n].

    `prompt_len` is the length of the prompt in tokens, `k` how many of the most attended positions to keep. Where sink
    logits drew mass off the rows, P is what is left, made to sum to 1: a head that rested on its sink counts for little
    in it. A head's entropy is that of its own distribution over the positions (docs/decisions/0009-sink-logits.md).
    """
    per_layer = rows.mean(axis=1)
    p = per_layer.mean(axis=0)
    p = p / p.sum()
    n = len(p)
    distance = np.arange(n)[::-1]
    edges = [*HISTOGRAM_EDGES, np.inf]
    vector = np.empty(DIM)
    vector[0] = p[distance < LOCAL_END].sum()
    vector[1] = p[(distance >= LOCAL_END) & (distance < MID_END)].sum()
    vector[2] = p[distance >= MID_END].sum()
    vector[3] = entropy(p)
    for b in range(len(HISTOGRAM_EDGES)):
        vector[4 + b] = p[(distance >= edges[b]) & (distance < edges[b + 1])].sum()
    vector[12:] = [np.mean([entropy(head / head.sum()) for head in layer]) for layer in rows]
    top = np.argsort(-p, kind="stable")[:k]
    return Fingerprint(
        vector=vector,
        context_len=n,
        sink_mass=float(p[:SINK_POSITIONS].sum()),
        prompt_mass=float(p[SINK_POSITIONS:prompt_len].sum()),
        periodicity=periodicity(p),
        topk_positions=top,
        topk_probs=p[top],
        residual_mass=float(max(0.0, 1.0 - p[top].sum())),
    )


def head_figures(rows: Float64, *, layers: Sequence[int] | None = None) -> Float64:
    """float64 [distinct layers, heads, 5]: what each head did by itself, in the order of `HEAD_FIGURES`.

    `rows` is float64 [layers, heads, n], `layers` the layers' numbers where they repeat (`captured_layers` of a shallow
    model): of a repeated layer the figures are told once. Each head's row is made to sum to 1 first: a sink logit's
    share is no position's.
    """
    numbers = list(range(len(rows)) if layers is None else layers)
    own = rows[[numbers.index(number) for number in dict.fromkeys(numbers)]]
    own = own / own.sum(axis=2, keepdims=True)
    distance = np.arange(own.shape[2])[::-1]
    figures = np.empty((*own.shape[:2], NUM_HEAD_FIGURES))
    figures[..., 0] = own[..., :SINK_POSITIONS].sum(axis=2)
    figures[..., 1] = own[..., distance < LOCAL_END].sum(axis=2)
    figures[..., 2] = own[..., (distance >= LOCAL_END) & (distance < MID_END)].sum(axis=2)
    figures[..., 3] = own[..., distance >= MID_END].sum(axis=2)
    figures[..., 4] = [[entropy(head) for head in layer] for layer in own]
    return figures


def head_sketch(figures: Float64, *, matrix: npt.NDArray[np.floating], offset: npt.NDArray[np.floating]) -> Float64:
    """float64 [21]: `head_sketch` and `zone_evidence` of `head_figures`; see `attn_core.head_projection`."""
    sketch: Float64 = figures.reshape(-1) @ matrix.astype(np.float64) + offset
    return sketch


def entropy(p: Float64) -> float:
    """Shannon entropy of a distribution in nats; 0 ln 0 = 0."""
    positive = p[p > 0]
    return float(-(positive * np.log(positive)).sum())


def periodicity(p: Float64) -> float:
    """How strongly the attended distances repeat with one period, 0 (not at all) to 1; noise alone gives about 0.2.

    Over the distances d = 0, 1, ... up to 127 that are not the sink, ``l[d] = ln (P[n-1-d] + 1e-5)``. The trend is
    taken off: ``z[d] = l[d]`` less the mean of l over the 11 distances around d (fewer at the ends, always as many
    on either side). What remains is compared with itself: ``r(t) = sum_d z[d] z[d+t] / sum_d (z[d]^2 + 1e-4)``. The
    strength is the largest r(t) over periods t from 2 to 42 that fit three times into those distances and lie beyond
    the first lag at which r is 0 or less (before it a lone bump resembles itself).

    In logarithms a spike counts by its ratio to what surrounds it: attention that decays with distance, at whatever
    rate, has no period, and one strong position does not hide the rest (docs/decisions/0003-periodicity.md).
    """
    logs = np.log(p[SINK_POSITIONS:][::-1][:PERIOD_DISTANCES] + PERIOD_FLOOR)
    num = len(logs)
    z = np.empty(num)
    for d in range(num):
        reach = min(PERIOD_TREND // 2, d, num - 1 - d)
        z[d] = logs[d] - logs[d - reach : d + reach + 1].mean()
    energy = (z**2 + PERIOD_QUIET).sum()
    strength, crossed = 0.0, False
    for t in range(1, min(PERIOD_MAX, num // PERIOD_REPEATS) + 1):
        r = (z[: num - t] * z[t:]).sum() / energy
        crossed = crossed or r <= 0
        if crossed and t >= PERIOD_MIN:
            strength = max(strength, r)
    return float(min(strength, 1.0))
