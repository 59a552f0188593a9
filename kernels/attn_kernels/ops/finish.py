"""From stored scores to the fingerprint: each score is read once.

Three kernels, of which a step launches two (three where ranks add up their sums between them), whatever the batch,
the captured layers and the context:

- `sums_kernel`: P, summed over this rank's heads and the captured layers, and the layers' entropies;
- `records_kernel`: what a block of 128 positions adds to masses and entropy, and its largest P. Inlined into
  `sums_kernel` where no other rank adds to P;
- `rows_kernel`: adds the blocks up, finds the period and the top-k.

Blocks are worked off by a fixed number of programs, which read how many there are from the device.
"""

from __future__ import annotations

import triton
import triton.language as tl

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

FAR = 2**31 - 1
DISTANCE_BINS: tuple[tuple[int, int], ...] = (
    (0, LOCAL_END),
    (LOCAL_END, MID_END),
    (MID_END, FAR),
    *zip(HISTOGRAM_EDGES, (*HISTOGRAM_EDGES[1:], FAR), strict=True),
)
"""The ranges of distances whose masses the vector holds, in its order (the entropy stands between the two groups)."""
BLOCK = 128
"""Positions of a block; a request's scores start at a multiple of it."""
SLOTS = 8
"""Layer entropies of the vector."""
RECORD = 16
"""Floats of a block's record: the 11 masses of DISTANCE_BINS, sink, prompt, entropy; two spare."""
SUMS_REGISTERS = 96
"""Registers a thread of `sums_kernel` may take: left to itself ptxas spills a word for the sake of one block more."""
MIN_BLOCK_KV: tl.constexpr = tl.constexpr(32)
"""SGLang's decode kernels cut a request into splits of a multiple of this."""

_SINK = tl.constexpr(len(DISTANCE_BINS))
_PROMPT = tl.constexpr(len(DISTANCE_BINS) + 1)
_ENTROPY = tl.constexpr(len(DISTANCE_BINS) + 2)
_SINK_POSITIONS = tl.constexpr(SINK_POSITIONS)
_RECORD = tl.constexpr(RECORD)
_SLOTS = tl.constexpr(SLOTS)
_P_DISTANCES = tl.constexpr(PERIOD_DISTANCES)
_P_FLOOR = tl.constexpr(PERIOD_FLOOR)
_P_MAX = tl.constexpr(PERIOD_MAX)
_P_MIN = tl.constexpr(PERIOD_MIN)
_P_QUIET = tl.constexpr(PERIOD_QUIET)
_P_REPEATS = tl.constexpr(PERIOD_REPEATS)
_P_REACH = tl.constexpr(PERIOD_TREND // 2)


@triton.jit
def _row_of(offsets, item, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The request that block `item` belongs to: the last captured one that starts at or before it."""
    here = (offsets >= 0) & (offsets <= item * BLOCK)
    return tl.max(tl.where(here, tl.arange(0, ROWS), 0), 0)


@triton.jit
def _keys_seen(n, window, window_extra):  # type: ignore[no-untyped-def]
    """How many keys, up to and with its own, a query with `n` positions sees in a layer with this window (-1: all)."""
    return tl.where(window < 0, n, tl.minimum(n, window + window_extra))


@triton.jit
def _normaliser(Lse, base, heads, head_mask, active, S: tl.constexpr, SP: tl.constexpr):  # type: ignore[no-untyped-def]
    """float32 [HB]: the log-sum-exp of each head over the splits that were run."""
    parts = tl.load(
        Lse + base + heads[:, None] * S + tl.arange(0, SP)[None, :],
        mask=head_mask[:, None] & active[None, :],
        other=float("-inf"),
    )
    # What is masked must stay finite: a head that is not there gets 0.
    parts = tl.where(head_mask[:, None], parts, 0.0)
    top = tl.max(parts, 1)
    return top + tl.log(tl.sum(tl.exp(parts - top[:, None]), 1))


@triton.jit
def _record(p, j, inside, n, prompt, item, Edges, Records, Maxima):  # type: ignore[no-untyped-def]
    """Store what one block of P, float32 [BLOCK] at positions `j`, adds to masses and entropy."""
    d = (n - 1 - j)[None, :]
    b = tl.arange(0, _RECORD)
    low = tl.load(Edges + b)
    high = tl.load(Edges + _RECORD + b)
    low = tl.where(b == _SINK, n - _SINK_POSITIONS, tl.where(b == _PROMPT, n - tl.minimum(prompt, n), low))
    high = tl.where(b == _SINK, n, tl.where(b == _PROMPT, n - _SINK_POSITIONS, high))
    within = (d >= low[:, None]) & (d < high[:, None]) & inside[None, :]
    masses = tl.sum(tl.where(within, p[None, :], 0.0), 1)
    entropy = -tl.sum(tl.where(p > 0, p * tl.log(p), 0.0), 0)
    tl.store(Records + item * _RECORD + b, tl.where(b == _ENTROPY, entropy, masses))
    tl.store(Maxima + item, tl.max(p, 0))


@triton.jit
def sums_kernel(  # type: ignore[no-untyped-def]
    Scores,
    Lse,
    NumSplits,
    Plan,
    Windows,
    Weights,
    Sinks,
    Edges,
    Sums,
    Records,
    Maxima,
    capacity,
    lse_stride_layer,
    head_share,
    window_extra,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    HB: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    RECORDS: tl.constexpr,
):
    """P and the layers' entropies of this rank's heads, block by block.

    `Scores` float32 ``[LAYERS, HEADS, capacity]``; `Lse` float32 ``[LAYERS, rows, HEADS, S]``; `Sums` float32: P
    ``[capacity]``, then the entropies ``[capacity / BLOCK, SLOTS]``, both already divided by the heads of all ranks
    (`head_share`, `Weights`), so that adding up ranks gives the means.
    """
    offsets = tl.load(Plan + tl.arange(0, ROWS))
    total = tl.load(Plan + 3 * ROWS)
    split = tl.arange(0, SP)
    for item in range(tl.program_id(0), total, tl.num_programs(0)):
        row = _row_of(offsets, item, ROWS, BLOCK)
        n = tl.load(Plan + ROWS + row)
        j = item * BLOCK - tl.load(Plan + row) + tl.arange(0, BLOCK)
        inside = j < n
        place = item * BLOCK + tl.arange(0, BLOCK)
        num_splits = tl.load(NumSplits + row)
        p_sum = tl.zeros([BLOCK], dtype=tl.float32)
        for c in range(LAYERS):
            keys = _keys_seen(n, tl.load(Windows + c), window_extra)
            seen = inside & (j >= n - keys)
            per_split = tl.cdiv(tl.cdiv(keys, num_splits), MIN_BLOCK_KV) * MIN_BLOCK_KV
            active = (split < S) & (split * per_split < keys)
            layer_p = tl.zeros([BLOCK], dtype=tl.float32)
            layer_entropy = tl.zeros([BLOCK], dtype=tl.float32)
            for h in range(0, HEADS, HB):
                heads = h + tl.arange(0, HB)
                head_mask = heads < HEADS
                base = c * lse_stride_layer + row * (HEADS * S)
                norm = _normaliser(Lse, base, heads, head_mask, active, S, SP)
                scores = tl.load(
                    Scores + (c * HEADS + heads[:, None]).to(tl.int64) * capacity + place[None, :],
                    mask=head_mask[:, None] & seen[None, :],
                    other=float("-inf"),
                )
                log_p = scores - norm[:, None]
                p = tl.exp(log_p)
                layer_entropy -= tl.sum(tl.where(p > 0, p * log_p, 0.0), 0)
                if HAS_SINKS:
                    # What the sink logit leaves of the head; its entropy is that of its own distribution.
                    sink = tl.load(Sinks + c * HEADS + heads, mask=head_mask, other=float("-inf"))
                    p *= (1.0 / (1.0 + tl.exp(sink - norm)))[:, None]
                layer_p += tl.sum(p, 0)
            p_sum += layer_p * tl.load(Weights + c)
            tl.store(Sums + capacity + item * _SLOTS + c, tl.sum(layer_entropy, 0) * head_share)
        tl.store(Sums + place, p_sum)
        if RECORDS:
            prompt = tl.load(Plan + 2 * ROWS + row)
            _record(p_sum, j, inside, n, prompt, item, Edges, Records, Maxima)


@triton.jit
def records_kernel(  # type: ignore[no-untyped-def]
    Sums, Plan, Edges, Records, Maxima, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Masses, entropy and largest P of each block, from a P that all ranks have added to."""
    offsets = tl.load(Plan + tl.arange(0, ROWS))
    total = tl.load(Plan + 3 * ROWS)
    for item in range(tl.program_id(0), total, tl.num_programs(0)):
        row = _row_of(offsets, item, ROWS, BLOCK)
        n = tl.load(Plan + ROWS + row)
        j = item * BLOCK - tl.load(Plan + row) + tl.arange(0, BLOCK)
        p = tl.load(Sums + item * BLOCK + tl.arange(0, BLOCK))
        _record(p, j, j < n, n, tl.load(Plan + 2 * ROWS + row), item, Edges, Records, Maxima)


@triton.jit
def _keys_of(p, position, present):  # type: ignore[no-untyped-def]
    """int64: order as P does, of equal P the lower position first; -1 where nothing is.

    P is not negative, and the bits of such floats order as they do. With the position below them each key is unique.
    """
    bits = p.to(tl.int32, bitcast=True).to(tl.int64) << 32
    return tl.where(present, bits | (0xFFFFFFFF - position.to(tl.int64)), -1)


@triton.jit
def _merge(kept, more, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """int64 [K]: the largest of two sets of K."""
    return tl.topk(tl.reshape(tl.join(kept, more), [2 * K]), K)


@triton.jit
def _top_k_of_best_blocks(  # type: ignore[no-untyped-def]
    P, Maxima, first_block, num_blocks, offset, n, K: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr
):
    """int64 [K] keys: the K largest lie in the K blocks whose largest is largest."""
    best = tl.full([K], -1, tl.int64)
    for start in range(0, num_blocks, CHUNK):
        block = start + tl.arange(0, CHUNK)
        there = block < num_blocks
        largest = tl.load(Maxima + first_block + block, mask=there, other=0.0)
        best = _merge(best, tl.topk(_keys_of(largest, block, there), K), K)
    block = tl.where(best < 0, 0, 0xFFFFFFFF - (best & 0xFFFFFFFF)).to(tl.int32)
    j = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    present = (best >= 0)[:, None] & (j < n)
    p = tl.load(P + offset + j, mask=present, other=0.0)
    return tl.topk(tl.reshape(_keys_of(p, j, present), [K * BLOCK]), K)


@triton.jit
def _top_k_of_all(P, offset, n, K: tl.constexpr, CHUNK: tl.constexpr):  # type: ignore[no-untyped-def]
    """int64 [K] keys, reading the row through; chunks that hold nothing large enough are passed over."""
    best = tl.full([K], -1, tl.int64)
    for start in range(0, n, CHUNK):
        j = start + tl.arange(0, CHUNK)
        keys = _keys_of(tl.load(P + offset + j, mask=j < n, other=0.0), j, j < n)
        if tl.max(keys, 0) > tl.min(best, 0):
            best = _merge(best, tl.topk(keys, K), K)
    return best


@triton.jit
def _periodicity(P, offset, n, mass):  # type: ignore[no-untyped-def]
    """See `attn_kernels.reference.periodicity`. In float64: the strength may hang on the sign of a small sum."""
    d = tl.arange(0, _P_DISTANCES)
    num = tl.minimum(tl.maximum(n - _SINK_POSITIONS, 0), _P_DISTANCES)
    present = d < num
    p = tl.load(P + offset + n - 1 - d, mask=present, other=1.0)
    logs = tl.where(present, tl.log(p.to(tl.float64) / mass + _P_FLOOR), 0.0)
    reach = tl.maximum(tl.minimum(tl.minimum(d, num - 1 - d), _P_REACH), 0)
    step = tl.arange(0, 16)[:, None] - _P_REACH
    source = tl.minimum(tl.maximum(d[None, :] + step, 0), _P_DISTANCES - 1)
    beside = tl.gather(tl.broadcast_to(logs[None, :], [16, _P_DISTANCES]), source, 1)
    near = (step <= reach[None, :]) & (step >= -reach[None, :])
    trend = tl.sum(tl.where(near, beside, 0.0), 0) / (2 * reach + 1).to(tl.float64)
    z = tl.where(present, logs - trend, 0.0)
    lag = tl.arange(0, 64)
    shifted = d[None, :] + lag[:, None]
    ahead = tl.gather(tl.broadcast_to(z[None, :], [64, _P_DISTANCES]), tl.minimum(shifted, _P_DISTANCES - 1), 1)
    r = tl.sum(tl.where(shifted < _P_DISTANCES, ahead * z[None, :], 0.0), 1)
    r = r / (tl.sum(z * z, 0) + _P_QUIET * tl.maximum(num, 1).to(tl.float64))
    fits = (lag >= 1) & (lag <= _P_MAX) & (lag * _P_REPEATS <= num)
    crossing = tl.min(tl.where(fits & (r <= 0), lag, 64), 0)
    strength = tl.max(tl.where(fits & (lag >= crossing) & (lag >= _P_MIN), r, 0.0), 0)
    return tl.minimum(strength, 1.0).to(tl.float32)


@triton.jit
def rows_kernel(  # type: ignore[no-untyped-def]
    Sums,
    Plan,
    Records,
    Maxima,
    SlotLayers,
    Out,
    capacity,
    k,
    out_stride,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    BEST_BLOCKS: tl.constexpr,
):
    """One program a request: `Out` float32 ``[rows, 24 + 2 k]``, the vector, the companions, top-k P and positions.

    A request that is not captured gets NaN, and no positions (-1).
    """
    row = tl.program_id(0)
    offset = tl.load(Plan + row)
    n = tl.load(Plan + ROWS + row)
    out = Out + row * out_stride
    top = tl.arange(0, K)
    if offset < 0:
        i = tl.arange(0, 32)
        tl.store(out + i, tl.full([32], float("nan"), tl.float32), mask=i < 24)
        tl.store(out + 24 + top, tl.zeros([K], tl.float32), mask=top < k)
        tl.store(out + 24 + k + top, tl.full([K], -1, tl.int32).to(tl.float32, bitcast=True), mask=top < k)
        return
    first_block = offset // BLOCK
    num_blocks = tl.cdiv(n, BLOCK)
    b = tl.arange(0, _RECORD)
    slot = tl.arange(0, _SLOTS)
    layer = tl.load(SlotLayers + slot)
    record = tl.zeros([_RECORD], tl.float32)
    entropies = tl.zeros([_SLOTS], tl.float32)
    for start in range(0, num_blocks, 64):
        block = start + tl.arange(0, 64)
        there = (block < num_blocks)[:, None]
        item = (first_block + block)[:, None]
        record += tl.sum(tl.load(Records + item * _RECORD + b[None, :], mask=there, other=0.0), 0)
        entropies += tl.sum(tl.load(Sums + capacity + item * _SLOTS + layer[None, :], mask=there, other=0.0), 0)
    # Sink logits leave P less than 1: it is made to sum to 1. Of an entropy that was summed over P as it is,
    # -sum (P/m) ln (P/m) = (-sum P ln P) / m + ln m.
    mass = tl.sum(tl.where(b < 3, record, 0.0), 0)
    record = record / mass + tl.where(b == _ENTROPY, tl.log(mass), 0.0)
    # The vector holds the entropy between its two groups of masses; sink and prompt follow the vector.
    place = tl.where(b < 3, b, tl.where(b < _SINK, b + 1, b + 20 - _SINK))
    place = tl.where(b == _ENTROPY, 3, place)
    tl.store(out + place, record, mask=b <= _ENTROPY)
    tl.store(out + 12 + slot, entropies)
    tl.store(out + 22, _periodicity(Sums, offset, n, mass))
    if BEST_BLOCKS:
        keys = _top_k_of_best_blocks(Sums, Maxima, first_block, num_blocks, offset, n, K, BLOCK, CHUNK)
    else:
        keys = _top_k_of_all(Sums, offset, n, K, CHUNK)
    found = (keys >= 0) & (top < k)
    probs = tl.where(found, (keys >> 32).to(tl.int32).to(tl.float32, bitcast=True) / mass, 0.0)
    positions = tl.where(found, 0xFFFFFFFF - (keys & 0xFFFFFFFF), -1).to(tl.int32)
    tl.store(out + 23, tl.maximum(1.0 - tl.sum(probs, 0), 0.0))
    tl.store(out + 24 + top, probs, mask=top < k)
    tl.store(out + 24 + k + top, positions.to(tl.float32, bitcast=True), mask=top < k)
