"""From stored scores to the fingerprint: each score is read once.

Of these kernels a step launches two (three where ranks add up their sums between them, four with single heads then),
whatever the batch, the captured layers and the context:

- `sums_kernel`: P, summed over this rank's heads and the captured layers, and the layers' entropies;
- `records_kernel`: what a block of 128 positions adds to masses and entropy, and its largest P. Inlined into
  `sums_kernel` where no other rank adds to P;
- `rows_kernel`: adds the blocks up, finds the period and the top-k.

With single heads (`CaptureShape.heads`) `sums_kernel` also keeps each head's masses and entropies, and `rows_kernel`
makes the sketch of them; where ranks add up, `heads_kernel` makes this rank's part of it before they do.

Blocks are worked off by a fixed number of programs, which read how many there are from the device.
"""

from __future__ import annotations

import triton
import triton.language as tl

from attn_core.fingerprint import HISTOGRAM_EDGES, LOCAL_END, MID_END, SINK_POSITIONS
from attn_core.head_projection import NUM_COLUMNS, NUM_HEAD_FIGURES
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
HEAD_MASSES = 5
"""Masses kept of a head: on the sink, then local and mid of the request's last block, then of the one before it. No
other block has distances under MID_END."""
MATRIX_COLUMNS = 32
"""Columns of the projection's matrix on the device, a power of two."""
SUMS_REGISTERS = 96
"""Registers a thread of `sums_kernel` may take: left to itself ptxas spills a word for the sake of one block more."""
MIN_BLOCK_KV: tl.constexpr = tl.constexpr(32)
"""SGLang's decode kernels cut a request into splits of a multiple of this."""

_SINK = tl.constexpr(len(DISTANCE_BINS))
_PROMPT = tl.constexpr(len(DISTANCE_BINS) + 1)
_ENTROPY = tl.constexpr(len(DISTANCE_BINS) + 2)
_SINK_POSITIONS = tl.constexpr(SINK_POSITIONS)
_LOCAL_END = tl.constexpr(LOCAL_END)
_MID_END = tl.constexpr(MID_END)
_HEAD_MASSES = tl.constexpr(HEAD_MASSES)
_HEAD_FIGURES = tl.constexpr(NUM_HEAD_FIGURES)
_COLUMNS = tl.constexpr(NUM_COLUMNS)
_MATRIX_COLUMNS = tl.constexpr(MATRIX_COLUMNS)
_BLOCKS_AT_ONCE = tl.constexpr(128)
_RECORD = tl.constexpr(RECORD)
_SLOTS = tl.constexpr(SLOTS)
_P_DISTANCES = tl.constexpr(PERIOD_DISTANCES)
_P_FLOOR = tl.constexpr(PERIOD_FLOOR)
_P_MAX = tl.constexpr(PERIOD_MAX)
_P_MIN = tl.constexpr(PERIOD_MIN)
_P_QUIET = tl.constexpr(PERIOD_QUIET)
_P_REPEATS = tl.constexpr(PERIOD_REPEATS)
_P_REACH = tl.constexpr(PERIOD_TREND // 2)


def heads_at_once(num_heads: int, *, has_sinks: bool, single_heads: bool) -> int:
    """HB of `sums_kernel`, a power of two: half as many where both are done, which would spill registers otherwise."""
    return min(triton.next_power_of_2(num_heads), 8 if has_sinks and single_heads else 16)


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
def _keep_heads(  # type: ignore[no-untyped-def]
    p, terms, head_mask, j, n, block, masses_at, entropies_at, HeadMasses, HeadEntropies, CAPTURED: tl.constexpr
):
    """Store what one block of a request adds to the figures of some of this rank's CAPTURED heads.

    `p` float32 [HB, BLOCK], the heads' own distributions at positions `j`, `terms` p ln p. `masses_at` int32 [HB] are
    the heads' places among the request's masses, `entropies_at` among all entropies.
    """
    tl.store(HeadEntropies + entropies_at, -tl.sum(terms, 1), mask=head_mask)
    if block == 0:
        sink = tl.sum(tl.where((j < _SINK_POSITIONS)[None, :], p, 0.0), 1)
        tl.store(HeadMasses + masses_at, sink, mask=head_mask)
    before_last = (n - 1) // j.shape[0] - block
    if before_last < 2:
        d = (n - 1 - j)[None, :]
        at = masses_at + (1 + 2 * before_last) * CAPTURED
        # What lies past the request's end has a p of 0.
        tl.store(HeadMasses + at, tl.sum(tl.where(d < _LOCAL_END, p, 0.0), 1), mask=head_mask)
        mid = tl.sum(tl.where((d >= _LOCAL_END) & (d < _MID_END), p, 0.0), 1)
        tl.store(HeadMasses + at + CAPTURED, mid, mask=head_mask)


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
    HeadMasses,
    HeadEntropies,
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
    SINGLE_HEADS: tl.constexpr,
):
    """P and the layers' entropies of this rank's heads, block by block.

    `Scores` float32 ``[LAYERS, HEADS, capacity]``; `Lse` float32 ``[LAYERS, rows, HEADS, S]``; `Sums` float32: P
    ``[capacity]``, then the entropies ``[capacity / BLOCK, SLOTS]``, both already divided by the heads of all ranks
    (`head_share`, `Weights`), so that adding up ranks gives the means. With SINGLE_HEADS also `HeadMasses` float32
    ``[rows, HEAD_MASSES, LAYERS * HEADS]`` and `HeadEntropies` float32 ``[capacity / BLOCK, LAYERS * HEADS]``.
    """
    offsets = tl.load(Plan + tl.arange(0, ROWS))
    total = tl.load(Plan + 3 * ROWS)
    split = tl.arange(0, SP)
    for item in range(tl.program_id(0), total, tl.num_programs(0)):
        row = _row_of(offsets, item, ROWS, BLOCK)
        n = tl.load(Plan + ROWS + row)
        first = item * BLOCK - tl.load(Plan + row)
        j = first + tl.arange(0, BLOCK)
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
                terms = tl.where(p > 0, p * log_p, 0.0)
                layer_entropy -= tl.sum(terms, 0)
                if SINGLE_HEADS:
                    captured = c * HEADS + heads
                    _keep_heads(
                        p, terms, head_mask, j, n, first // BLOCK,
                        row * (_HEAD_MASSES * LAYERS * HEADS) + captured, item * (LAYERS * HEADS) + captured,
                        HeadMasses, HeadEntropies, LAYERS * HEADS,
                    )  # fmt: skip
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
def _times_rows(figure, Matrix, rows, there):  # type: ignore[no-untyped-def]
    """float64 [HC, MATRIX_COLUMNS]: one figure of some heads, float64, times its rows of the matrix."""
    column = tl.arange(0, _MATRIX_COLUMNS)
    mask = there[:, None] & (column < _COLUMNS)[None, :]
    factors = tl.load(Matrix + rows[:, None] * _MATRIX_COLUMNS + column[None, :], mask=mask, other=0.0)
    return figure[:, None] * factors.to(tl.float64)


@triton.jit
def _head_product(  # type: ignore[no-untyped-def]
    HeadMasses,
    HeadEntropies,
    Matrix,
    Sampled,
    row,
    sampled_row,
    writes,
    offset,
    n,
    all_heads,
    first_head,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    HC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """float64 [MATRIX_COLUMNS]: a request's head figures times the matrix; 0 where it is not captured.

    In float64, since the parts may be far larger than what is left of them. Where `writes`, the figures go to
    `Sampled` float32 ``[LAYERS, all_heads, 5]``: NaN of a request that is not captured, 0 of one not sampled.
    """
    CAPTURED: tl.constexpr = LAYERS * HEADS
    first_block = offset // BLOCK
    num_blocks = tl.where(offset >= 0, tl.cdiv(n, BLOCK), 0)
    # Conditions of the request as numbers of heads: the interpreter makes no mask of a scalar truth value.
    num_there = tl.where(offset >= 0, CAPTURED, 0)
    num_two = tl.where(num_blocks > 1, CAPTURED, 0)
    num_far = tl.where(n > _MID_END, num_there, 0)
    products = tl.zeros([HC, _MATRIX_COLUMNS], tl.float64)
    for start in range(0, CAPTURED, HC):
        head = start + tl.arange(0, HC)
        there = head < num_there
        # Lane by lane, and over the lanes once: a long context waits for memory, not for reductions.
        parts = tl.zeros([_BLOCKS_AT_ONCE, HC], tl.float32)
        for b in range(0, num_blocks, _BLOCKS_AT_ONCE):
            block = b + tl.arange(0, _BLOCKS_AT_ONCE)
            parts += tl.load(
                HeadEntropies + (first_block + block)[:, None] * CAPTURED + head[None, :],
                mask=(block < num_blocks)[:, None] & there[None, :],
                other=0.0,
            )
        entropy = tl.sum(parts, 0).to(tl.float64)
        masses = HeadMasses + row * (_HEAD_MASSES * CAPTURED) + head
        two = head < num_two
        sink = tl.load(masses, mask=there, other=0.0).to(tl.float64)
        local = tl.load(masses + CAPTURED, mask=there, other=0.0).to(tl.float64)
        local += tl.load(masses + 3 * CAPTURED, mask=two, other=0.0).to(tl.float64)
        mid = tl.load(masses + 2 * CAPTURED, mask=there, other=0.0).to(tl.float64)
        mid += tl.load(masses + 4 * CAPTURED, mask=two, other=0.0).to(tl.float64)
        far = tl.where(head < num_far, tl.maximum(1.0 - local - mid, 0.0), 0.0)
        at = head * _HEAD_FIGURES
        products += _times_rows(sink, Matrix, at, there)
        products += _times_rows(local, Matrix, at + 1, there)
        products += _times_rows(mid, Matrix, at + 2, there)
        products += _times_rows(far, Matrix, at + 3, there)
        products += _times_rows(entropy, Matrix, at + 4, there)
        if writes:
            out = Sampled + ((head // HEADS) * all_heads + first_head + head % HEADS) * _HEAD_FIGURES
            absent = tl.where(offset >= 0, 0.0, float("nan")).to(tl.float32)
            real = head < CAPTURED
            keep = row == sampled_row
            tl.store(out, tl.where(keep, sink.to(tl.float32) + absent, 0.0), mask=real)
            tl.store(out + 1, tl.where(keep, local.to(tl.float32) + absent, 0.0), mask=real)
            tl.store(out + 2, tl.where(keep, mid.to(tl.float32) + absent, 0.0), mask=real)
            tl.store(out + 3, tl.where(keep, far.to(tl.float32) + absent, 0.0), mask=real)
            tl.store(out + 4, tl.where(keep, entropy.to(tl.float32) + absent, 0.0), mask=real)
    return tl.sum(products, 0)


@triton.jit
def heads_kernel(  # type: ignore[no-untyped-def]
    Plan,
    HeadMasses,
    HeadEntropies,
    Matrix,
    SampledRow,
    Products,
    Sampled,
    all_heads,
    first_head,
    ROWS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    HC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """This rank's part of each request's sketch, for ranks to add up: one program a request.

    `Products` float32 ``[rows, 21]``; `Sampled` float32 ``[LAYERS, all_heads, 5]``, 0 for the heads of other ranks.
    """
    row = tl.program_id(0)
    offset = tl.load(Plan + row)
    n = tl.load(Plan + ROWS + row)
    sampled_row = tl.load(SampledRow)
    # Ranks add into `Sampled`, so that it is written anew in every step, also where no request of it is sampled.
    writes = row == tl.minimum(tl.maximum(sampled_row, 0), tl.num_programs(0) - 1)
    product = _head_product(
        HeadMasses, HeadEntropies, Matrix, Sampled, row, sampled_row, writes, offset, n, all_heads, first_head,
        LAYERS, HEADS, HC, BLOCK,
    )  # fmt: skip
    column = tl.arange(0, _MATRIX_COLUMNS)
    tl.store(Products + row * _COLUMNS + column, product.to(tl.float32), mask=column < _COLUMNS)
    if writes:
        count = LAYERS * all_heads * _HEAD_FIGURES
        for start in range(0, count, 256):
            i = start + tl.arange(0, 256)
            head = (i // _HEAD_FIGURES) % all_heads
            foreign = (head < first_head) | (head >= first_head + HEADS)
            tl.store(Sampled + i, tl.zeros([256], tl.float32), mask=(i < count) & foreign)


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
    HeadMasses,
    HeadEntropies,
    Matrix,
    Offset,
    SampledRow,
    Products,
    Sampled,
    Out,
    capacity,
    k,
    out_stride,
    all_heads,
    first_head,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    BEST_BLOCKS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    HC: tl.constexpr,
    SINGLE_HEADS: tl.constexpr,
    FROM_PRODUCTS: tl.constexpr,
):
    """One program a request: `Out` float32 ``[rows, 24 + 2 k]``, the vector, the companions, top-k P and positions.

    With SINGLE_HEADS the sketch follows, 21 floats: of `Products` where FROM_PRODUCTS (`heads_kernel` made it then, and
    ranks added up), else made here. A request that is not captured gets NaN, and no positions (-1).
    """
    row = tl.program_id(0)
    offset = tl.load(Plan + row)
    n = tl.load(Plan + ROWS + row)
    out = Out + row * out_stride
    top = tl.arange(0, K)
    if SINGLE_HEADS:
        column = tl.arange(0, _MATRIX_COLUMNS)
        if FROM_PRODUCTS:
            product = tl.load(Products + row * _COLUMNS + column, mask=column < _COLUMNS, other=0.0).to(tl.float64)
        else:
            sampled_row = tl.load(SampledRow)
            product = _head_product(
                HeadMasses, HeadEntropies, Matrix, Sampled, row, sampled_row, row == sampled_row, offset, n,
                all_heads, first_head, LAYERS, HEADS, HC, BLOCK,
            )  # fmt: skip
        # Without a projection the offset is NaN.
        sketch = (product + tl.load(Offset + column).to(tl.float64)).to(tl.float32)
        sketch = tl.where(offset >= 0, sketch, float("nan"))
        tl.store(out + 24 + 2 * k + column, sketch, mask=column < _COLUMNS)
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
