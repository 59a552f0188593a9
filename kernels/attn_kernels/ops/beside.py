"""The capture beside a backend that keeps its scores to itself: they are computed again from Q and the cached K.

Also what makes log-sum-exps of stored scores, for kernels that do not give any (SGLang's extend kernels).
"""

from __future__ import annotations

import triton
import triton.language as tl

from attn_kernels.ops.finish import MIN_BLOCK_KV, _keys_seen, _normaliser


@triton.jit
def scores_kernel(  # type: ignore[no-untyped-def]
    Q,
    K,
    Slots,
    SlotRows,
    QueryRows,
    Plan,
    Windows,
    Scores,
    Lse,
    layer,
    capacity,
    lse_stride_layer,
    window_extra,
    scaling,
    stride_q_row,
    stride_q_head,
    stride_k_slot,
    stride_k_head,
    stride_slot_row,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HB: tl.constexpr,
    DIM: tl.constexpr,
    DIM_MAIN: tl.constexpr,
    DIM_REST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    S: tl.constexpr,
    ROWS: tl.constexpr,
    LOGIT_CAP: tl.constexpr,
    HAS_QUERY_ROWS: tl.constexpr,
    SLOTS_FROM_WINDOW: tl.constexpr,
    QUERY_AS_KEY: tl.constexpr,
):
    """Scores of the last query of each captured request in one layer, and their log-sum-exp, split by split.

    Programs ``(batch, tiles of heads, S)``. `Slots` holds the cache slot of each position, from
    ``SlotRows[row] * stride_slot_row`` on: with stride 1 SGLang's ``kv_indptr`` and ``kv_indices``, with the table's
    row stride ``req_pool_indices`` and ``req_to_token``.
    """
    row = tl.program_id(0)
    tile = tl.program_id(1)
    split = tl.program_id(2)
    offset = tl.load(Plan + row)
    if offset < 0:
        return
    n = tl.load(Plan + ROWS + row)
    keys = _keys_seen(n, tl.load(Windows + layer), window_extra)
    per_split = tl.cdiv(tl.cdiv(keys, S), MIN_BLOCK_KV) * MIN_BLOCK_KV
    start = split * per_split
    end = tl.minimum(start + per_split, keys)
    if start >= end:
        return
    VALID: tl.constexpr = HB if HB < GROUP else GROUP
    kv_head = tile // tl.cdiv(GROUP, HB)
    group_heads = (tile % tl.cdiv(GROUP, HB)) * VALID + tl.arange(0, HB)
    heads = kv_head * GROUP + group_heads
    head_mask = (tl.arange(0, HB) < VALID) & (group_heads < GROUP)
    query_row = row
    if HAS_QUERY_ROWS:
        query_row = tl.load(QueryRows + row)
    d = tl.arange(0, DIM_MAIN)
    q_base = Q + query_row.to(tl.int64) * stride_q_row + heads[:, None] * stride_q_head
    q = tl.load(q_base + d[None, :], mask=head_mask[:, None] & (d < DIM)[None, :], other=0.0)
    if QUERY_AS_KEY:
        q = q.to(K.dtype.element_ty)
    if DIM_REST > 0:
        e = DIM_MAIN + tl.arange(0, DIM_REST)
        q_rest = tl.load(q_base + e[None, :], mask=head_mask[:, None] & (e < DIM)[None, :], other=0.0)
        if QUERY_AS_KEY:
            q_rest = q_rest.to(K.dtype.element_ty)
    first = n - keys
    slots = Slots + tl.load(SlotRows + row).to(tl.int64) * stride_slot_row
    if not SLOTS_FROM_WINDOW:
        slots += first
    out = Scores + (layer * HEADS + heads[:, None]).to(tl.int64) * capacity + offset + first
    top = tl.full([HB], float("-inf"), tl.float32)
    total = tl.zeros([HB], tl.float32)
    for block in range(start, end, BLOCK_N):
        i = block + tl.arange(0, BLOCK_N)
        there = i < end
        slot = tl.load(slots + i, mask=there, other=0).to(tl.int64)
        k_base = K + slot[None, :] * stride_k_slot + kv_head * stride_k_head
        k = tl.load(k_base + d[:, None], mask=there[None, :] & (d < DIM)[:, None], other=0.0)
        s = tl.dot(q, k.to(q.dtype), input_precision="ieee")
        if DIM_REST > 0:
            k_rest = tl.load(k_base + e[:, None], mask=there[None, :] & (e < DIM)[:, None], other=0.0)
            s += tl.dot(q_rest, k_rest.to(q_rest.dtype), input_precision="ieee")
        s *= scaling
        if LOGIT_CAP > 0:
            s = LOGIT_CAP * (2 * tl.sigmoid(2 * s / LOGIT_CAP) - 1)
        tl.store(out + i[None, :], s, mask=head_mask[:, None] & there[None, :])
        s = tl.where(there[None, :], s, float("-inf"))
        new_top = tl.maximum(top, tl.max(s, 1))
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(s - new_top[:, None]), 1)
        top = new_top
    place = layer * lse_stride_layer + (row * HEADS + heads) * S + split
    tl.store(Lse + place, top + tl.log(total), mask=head_mask)


@triton.jit
def normaliser_kernel(  # type: ignore[no-untyped-def]
    Scores,
    Lse,
    Plan,
    Windows,
    capacity,
    lse_stride_layer,
    window_extra,
    HEADS: tl.constexpr,
    S: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The log-sum-exp of stored scores, as split 0. Programs ``(batch, HEADS, layers)``."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    layer = tl.program_id(2)
    offset = tl.load(Plan + row)
    if offset < 0:
        return
    n = tl.load(Plan + ROWS + row)
    first = n - _keys_seen(n, tl.load(Windows + layer), window_extra)
    scores = Scores + (layer * HEADS + head).to(tl.int64) * capacity + offset
    # A lane without a finite score yet compares against this, so that no -inf is taken from -inf.
    top = tl.full([BLOCK], -1e30, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(first, n, BLOCK):
        j = start + tl.arange(0, BLOCK)
        s = tl.load(scores + j, mask=j < n, other=float("-inf"))
        new_top = tl.maximum(top, s)
        total = total * tl.exp(top - new_top) + tl.exp(s - new_top)
        top = new_top
    highest = tl.max(top, 0)
    norm = highest + tl.log(tl.sum(total * tl.exp(top - highest), 0))
    tl.store(Lse + layer * lse_stride_layer + (row * HEADS + head) * S, norm)


@triton.jit
def combine_kernel(  # type: ignore[no-untyped-def]
    Lse,
    NumSplits,
    Plan,
    Windows,
    Normalisers,
    lse_stride_layer,
    normaliser_stride_layer,
    window_extra,
    HEADS: tl.constexpr,
    HB: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One normaliser a head from its splits, where they are too many to be added up anew for each block of positions.

    Programs ``(batch, tiles of HB heads, layers)``; `Normalisers` float32 ``[layers, rows, HEADS]``.
    """
    row = tl.program_id(0)
    layer = tl.program_id(2)
    if tl.load(Plan + row) < 0:
        return
    n = tl.load(Plan + ROWS + row)
    keys = _keys_seen(n, tl.load(Windows + layer), window_extra)
    per_split = tl.cdiv(tl.cdiv(keys, tl.load(NumSplits + row)), MIN_BLOCK_KV) * MIN_BLOCK_KV
    split = tl.arange(0, SP)
    active = (split < S) & (split * per_split < keys)
    heads = tl.program_id(1) * HB + tl.arange(0, HB)
    head_mask = heads < HEADS
    base = layer * lse_stride_layer + row * (HEADS * S)
    norm = _normaliser(Lse, base, heads, head_mask, active, S, SP)
    tl.store(Normalisers + layer * normaliser_stride_layer + row * HEADS + heads, norm, mask=head_mask)
