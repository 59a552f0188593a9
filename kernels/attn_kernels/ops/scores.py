"""The fused capture: SGLang's own attention kernels store the scores they compute, and compute nothing else.

SGLang inlines a `score_mod` into the inner loop of its Triton kernels, where the scaled and capped scores of a block of
keys are in registers. This one stores them and hands them back unchanged: K is not read twice.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def store_scores(  # type: ignore[no-untyped-def]
    qk, q_pos, kv_pos, q_idx, head, mask, Aux0, aux0_stride_t, aux0_stride_h, aux0_len
):
    """A `score_mod` that stores `qk` and returns it.

    `Aux0` is what `Buffers.aux_tensor` gives: float32, a table of one word a query, then, `aux0_stride_t` words on, the
    scores ``[heads, capacity]`` of one layer. A query's word is the int32 place of the position that it sits at, -1
    where it is not captured. A key's place follows from its distance to the query, ``q_pos - kv_pos``, which every
    kernel counts alike, also those that number the positions of a sliding window from its start.
    """
    last = tl.load(Aux0 + q_idx).to(tl.int32, bitcast=True)
    place = aux0_stride_t + head * aux0_stride_h + (last - q_pos + kv_pos)
    # As a block: the interpreter turns a scalar truth value into an integer mask when it meets one.
    captured = last + tl.zeros_like(kv_pos) >= 0
    tl.store(Aux0 + place, qk, mask=mask & captured)
    return qk


@triton.jit
def plan_kernel(  # type: ignore[no-untyped-def]
    SeqLens,
    PromptLens,
    Asked,
    Queries,
    Plan,
    Table,
    batch,
    capacity,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_ASKED: tl.constexpr,
    HAS_QUERIES: tl.constexpr,
):
    """Give each captured request its place in the scores: one program, whatever the batch.

    `Plan` int32 ``[3, ROWS]`` and one word: the request's first position (-1: not captured), its length, its prompt's
    length; then how many blocks there are. Requests that the capacity does not hold are not captured.
    """
    r = tl.arange(0, ROWS)
    real = r < batch
    n = tl.load(SeqLens + r, mask=real, other=0).to(tl.int32)
    wanted = n > 0
    if HAS_ASKED:
        wanted = wanted & (tl.load(Asked + r, mask=real, other=0) != 0)
    room = tl.where(wanted, tl.cdiv(n, BLOCK) * BLOCK, 0).to(tl.int64)
    end = tl.cumsum(room, 0)
    fits = wanted & (end <= capacity)
    offset = tl.where(fits, end - room, -1).to(tl.int32)
    tl.store(Plan + r, offset)
    tl.store(Plan + ROWS + r, n)
    tl.store(Plan + 2 * ROWS + r, tl.load(PromptLens + r, mask=real, other=0).to(tl.int32))
    tl.store(Plan + 3 * ROWS, (tl.max(tl.where(fits, end, 0), 0) // BLOCK).to(tl.int32))
    last = tl.where(fits, offset + n - 1, -1)
    if HAS_QUERIES:
        tl.store(Table + tl.load(Queries + r, mask=real, other=0), last, mask=real)
    else:
        tl.store(Table + r, last)


def launch_plan(
    *,
    seq_lens: Any,
    prompt_lens: Any,
    asked: Any | None,
    queries: Any | None,
    plan: Any,
    table: Any,
    rows: int,
    capacity: int,
    block: int,
) -> None:
    """Run `plan_kernel`; `queries` int [B] is the token that each request's last query is, None where token r is."""
    plan_kernel[(1,)](
        seq_lens,
        prompt_lens,
        asked,
        queries,
        plan,
        table,
        seq_lens.shape[0],
        capacity,
        ROWS=rows,
        BLOCK=block,
        HAS_ASKED=asked is not None,
        HAS_QUERIES=queries is not None,
        num_warps=4,
    )
