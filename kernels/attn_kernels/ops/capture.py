"""The capture of one model on one device: what the hooks around SGLang's attention backends call.

A step goes like this; nothing in it waits for the device, allocates, or depends on what the device holds:

    capture.begin_step(seq_lens=..., prompt_lens=..., asked=...)                     # 1 launch
    for each captured layer number c, in its attention:
        stock kernel with score_mod=store_scores, aux_tensors=capture.aux_tensors(c) and attn_lse=capture.lse(c)
        or, after a backend that is left alone: capture.beside(c, ...)                # 1 launch
    captured = capture.finish(num_splits=...)                                         # 2 launches

With `CaptureShape.heads` the single heads come too: the sketch once there is a projection (`set_projection`), the raw
figures of one request a step (`sample_row`, `sampled_figures`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from attn_core.fingerprint import DIM
from attn_core.head_projection import NUM_COLUMNS
from attn_kernels.ops import beside as beside_ops
from attn_kernels.ops import finish as finish_ops
from attn_kernels.ops.buffers import NUM_OUTPUTS, Buffers, CaptureShape, HeadBuffers
from attn_kernels.ops.finish import BLOCK
from attn_kernels.ops.scores import launch_plan, store_scores
from attn_kernels.torch_ops import Captured

__all__ = ["Capture", "Keys", "store_scores"]

_HEADS_AT_ONCE = 16
_HEADS_PROJECTED = 32
"""Heads whose figures are multiplied by the matrix at once."""
_MOST_SPLITS_INLINE = 32
"""With more splits a head than this, one launch more adds them up beforehand."""
_MOST_BLOCKS_SORTED = 64
"""Up to this many best positions are looked for in the best blocks alone."""
_PROGRAMS_PER_PROCESSOR = 8
_PROGRAMS_ON_CPU = 3
_OF_GRAPHS = 2
"""Of the outputs' buffers, the one that recorded launches write to."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The cached keys of one layer, and where each request's are."""

    cache: torch.Tensor
    """[slots, Hkv, D], the last dimension contiguous; bf16, fp16, fp32 or fp8."""
    slots: torch.Tensor
    """int32 or int64: ``kv_indices`` [total], or ``req_to_token`` [requests, positions]."""
    slot_rows: torch.Tensor
    """int [B]: where a request's slots begin: ``kv_indptr`` for a 1-D `slots`, ``req_pool_indices`` for a 2-D one."""
    slots_from_window: bool = False
    """Whether a sliding-window layer's slots begin at its window (``window_kv_indices``) and not at position 0."""
    query_as_key: bool = False
    """Whether the backend rounds the query to the keys' type first, as fp8 backends do."""


class Capture:
    """Static buffers and the launches of a step."""

    def __init__(self, shape: CaptureShape, *, device: torch.device | str) -> None:
        self.shape = shape
        self.buffers = Buffers(shape, device=device)
        place = torch.device(device)
        self._programs = _PROGRAMS_ON_CPU
        if place.type == "cuda":
            processors = torch.cuda.get_device_properties(place).multi_processor_count
            self._programs = processors * _PROGRAMS_PER_PROCESSOR
        self._sums_options = {"maxnreg": finish_ops.SUMS_REGISTERS} if torch.version.cuda else {}
        self._batch = 0
        self._window_extra = 0
        self._last_queries: torch.Tensor | None = None
        self._turn = 0
        self._sampled = -1
        self._aux = [[self.buffers.aux_tensor(c)] for c in range(len(shape.distinct))]

    @property
    def _heads(self) -> HeadBuffers:
        if self.buffers.heads is None:
            raise RuntimeError("this capture was made without single heads: CaptureShape(heads=True)")
        return self.buffers.heads

    def set_projection(self, matrix: torch.Tensor, offset: torch.Tensor) -> None:
        """Make sketches with this matrix from here on; recorded CUDA graphs do so too.

        On the host: `matrix` float32 [L * H * 5, 21], the rows of this rank's heads (`torch_ops.Projection.of_rank`),
        `offset` float32 [21]. Copied on the current stream, which has to be the one that steps run on; nothing waits.
        """
        target = self._heads.projection
        for source, shape in ((matrix, (len(target) - 1, NUM_COLUMNS)), (offset, (NUM_COLUMNS,))):
            if source.shape != shape:
                raise ValueError(f"a projection of {list(source.shape)} where {list(shape)} is expected")
        # As wide as on the device: one plain copy. Torch keeps pinned memory until the copy is done.
        wide = torch.zeros(target.shape, dtype=torch.float32, pin_memory=target.device.type == "cuda")
        wide[:-1, :NUM_COLUMNS] = matrix
        wide[-1, :NUM_COLUMNS] = offset
        target.copy_(wide, non_blocking=True)

    def clear_projection(self) -> None:
        """Make no sketches from here on, as before the first `set_projection`: they are NaN."""
        self._heads.offset.fill_(float("nan"))

    def sample_row(self, index: int) -> None:
        """From here on `sampled_figures` gets the figures of row `index` of each step; -1: of none.

        Before `finish` (or `sums`, or a replay), on the stream that steps run on; every rank the same. Nothing waits.
        """
        if index != self._sampled:
            self._heads.sampled_row.fill_(index)
            self._sampled = index

    @property
    def sampled_figures(self) -> torch.Tensor:
        """float32 [L * all ranks' H * 5], the raw figures of the sampled row; NaN where that was not captured.

        A view, written again by the next step: copy it on the stream that steps run on. Where ranks add up, it holds
        all heads once they have, and 0 where no row of the step was sampled.
        """
        return self._heads.sampled.view(-1)

    def begin_step(
        self,
        *,
        seq_lens: torch.Tensor,
        prompt_lens: torch.Tensor,
        asked: torch.Tensor | None = None,
        last_queries: torch.Tensor | None = None,
        num_queries: int = 0,
        window_extra: int = 0,
    ) -> None:
        """Give each captured request its place in the buffers.

        Parameters
        ----------
        seq_lens, prompt_lens
            int [B] on the device: positions attended over, the query's own included; tokens of the prompt.
        asked
            int or bool [B] on the device, 0 where a request is not to be captured; None: all are.
        last_queries, num_queries
            For a prefill step: int [B], the token of the step that is each request's last, and the tokens there are.
        window_extra
            Keys that a query in a sliding-window layer sees beyond the window's number: 0 in SGLang's Triton decode,
            which keeps that many, 1 in its extend kernels and `torch_native`, which count distances up to it.
        """
        self._batch = seq_lens.shape[0]
        self._window_extra = window_extra
        self._last_queries = last_queries
        buffers = self.buffers
        if last_queries is not None:
            buffers.table[:num_queries].fill_(-1)
        launch_plan(
            seq_lens=seq_lens,
            prompt_lens=prompt_lens,
            asked=asked,
            queries=last_queries,
            plan=buffers.plan,
            table=buffers.table,
            rows=self.shape.rows,
            capacity=self.shape.capacity,
            block=BLOCK,
        )

    def aux_tensors(self, index: int) -> list[torch.Tensor]:
        """`aux_tensors` beside ``score_mod=store_scores``, for captured layer number `index`."""
        return self._aux[index]

    def lse(self, index: int) -> torch.Tensor:
        """float32 [rows >= B, H, max_splits]: to stand in for ``forward_metadata.attn_lse`` in that layer."""
        return self.buffers.lse[index]

    def beside(self, index: int, *, query: torch.Tensor, keys: Keys, scaling: float, logit_cap: float = 0.0) -> None:
        """Compute the scores of captured layer number `index` from Q and the cached keys; `finish` with its splits.

        `query` is [B, H, D], or [tokens, H, D] in a step that was begun with `last_queries`. `scaling` includes the
        scale of an fp8 cache.
        """
        shape, buffers = self.shape, self.buffers
        cache = keys.cache
        heads, dim = query.shape[1], query.shape[2]
        group = heads // cache.shape[1]
        main, rest = _dimensions(dim)
        tiles = cache.shape[1] * triton.cdiv(group, _HEADS_AT_ONCE)
        beside_ops.scores_kernel[(self._batch, tiles, shape.max_splits)](
            query,
            cache,
            keys.slots,
            keys.slot_rows,
            self._last_queries,
            buffers.plan,
            buffers.windows,
            buffers.scores,
            buffers.lse,
            index,
            shape.capacity,
            buffers.lse.stride(0),
            self._window_extra,
            scaling,
            query.stride(0),
            query.stride(1),
            cache.stride(0),
            cache.stride(1),
            keys.slots.stride(0) if keys.slots.dim() == 2 else 1,
            HEADS=heads,
            GROUP=group,
            HB=_HEADS_AT_ONCE,
            DIM=dim,
            DIM_MAIN=main,
            DIM_REST=rest,
            BLOCK_N=32,
            S=shape.max_splits,
            ROWS=shape.rows,
            LOGIT_CAP=logit_cap,
            HAS_QUERY_ROWS=self._last_queries is not None,
            SLOTS_FROM_WINDOW=keys.slots_from_window,
            QUERY_AS_KEY=keys.query_as_key,
            num_warps=4,
            num_stages=2,
        )

    def normalise(self) -> None:
        """Make the log-sum-exps of stored scores whose kernel gives none: after a prefill step, before `finish`."""
        shape, buffers = self.shape, self.buffers
        beside_ops.normaliser_kernel[(self._batch, shape.num_heads, len(shape.distinct))](
            buffers.scores,
            buffers.lse,
            buffers.plan,
            buffers.windows,
            shape.capacity,
            buffers.lse.stride(0),
            self._window_extra,
            HEADS=shape.num_heads,
            S=shape.max_splits,
            ROWS=shape.rows,
            BLOCK=256,
            num_warps=4,
        )

    def finish(self, *, num_splits: torch.Tensor | None = None, recorded: bool = False) -> Captured:
        """The step's fingerprints: rows 0..B-1 of the batch, NaN and no positions where a request is not captured.

        `num_splits` is int32 [>= B], SGLang's ``forward_metadata.num_kv_splits``, where its decode kernels made the
        log-sum-exps; None after `beside`. After `normalise` pass `Buffers.one_split`. The tensors are views of one of
        two buffers used in turn: copy them, or `packed`, before the next but one step. `recorded`: the launches are
        recorded in a CUDA graph, and write to a third buffer, which `replayed` shows.
        """
        self._sums(num_splits, records=True)
        return self._rows(recorded=recorded, from_products=False)

    def replayed(self, batch: int) -> Captured:
        """What the graph that was replayed last gave for the first `batch` requests."""
        return unpack(self.buffers.outputs[_OF_GRAPHS][:batch], k=self.shape.top_k)

    def sums(self, *, num_splits: torch.Tensor | None = None) -> torch.Tensor:
        """The first half alone, where other ranks hold other heads: the float32 buffer to be summed over ranks."""
        self._sums(num_splits, records=False)
        shape, heads = self.shape, self.buffers.heads
        if heads is not None:
            finish_ops.heads_kernel[(self._batch,)](
                self.buffers.plan,
                heads.masses,
                heads.entropies,
                heads.matrix,
                heads.sampled_row,
                heads.products,
                heads.sampled,
                shape.all_heads,
                shape.first_head,
                ROWS=shape.rows,
                LAYERS=len(shape.distinct),
                HEADS=shape.num_heads,
                HC=_HEADS_PROJECTED,
                BLOCK=BLOCK,
                num_warps=4,
            )
        return self.buffers.sums

    def statistics(self, *, recorded: bool = False) -> Captured:
        """The second half alone, once `Buffers.sums` holds what all ranks have added up."""
        shape, buffers = self.shape, self.buffers
        finish_ops.records_kernel[(self._programs,)](
            buffers.sums,
            buffers.plan,
            buffers.edges,
            buffers.records,
            buffers.maxima,
            ROWS=shape.rows,
            BLOCK=BLOCK,
            num_warps=4,
        )
        return self._rows(recorded=recorded, from_products=True)

    def _sums(self, num_splits: torch.Tensor | None, *, records: bool) -> None:
        shape, buffers, heads = self.shape, self.buffers, self.buffers.heads
        lse, splits = buffers.lse, buffers.all_splits if num_splits is None else num_splits
        if shape.max_splits > _MOST_SPLITS_INLINE:
            self._combine(splits)
            lse, splits = buffers.normalisers, buffers.one_split
        finish_ops.sums_kernel[(self._programs,)](
            buffers.scores,
            lse,
            splits,
            buffers.plan,
            buffers.windows,
            buffers.weights,
            buffers.sinks,
            buffers.edges,
            buffers.sums,
            buffers.records,
            buffers.maxima,
            None if heads is None else heads.masses,
            None if heads is None else heads.entropies,
            shape.capacity,
            lse.stride(0),
            1.0 / shape.all_heads,
            self._window_extra,
            LAYERS=len(shape.distinct),
            HEADS=shape.num_heads,
            HB=finish_ops.heads_at_once(shape.num_heads, has_sinks=shape.has_sinks, single_heads=shape.heads),
            S=lse.shape[3],
            SP=triton.next_power_of_2(lse.shape[3]),
            ROWS=shape.rows,
            BLOCK=BLOCK,
            HAS_SINKS=shape.has_sinks,
            RECORDS=records,
            SINGLE_HEADS=heads is not None,
            num_warps=4,
            **self._sums_options,
        )

    def _combine(self, num_splits: torch.Tensor) -> None:
        shape, buffers = self.shape, self.buffers
        tiles = triton.cdiv(shape.num_heads, _HEADS_AT_ONCE)
        beside_ops.combine_kernel[(self._batch, tiles, len(shape.distinct))](
            buffers.lse,
            num_splits,
            buffers.plan,
            buffers.windows,
            buffers.normalisers,
            buffers.lse.stride(0),
            buffers.normalisers.stride(0),
            self._window_extra,
            HEADS=shape.num_heads,
            HB=_HEADS_AT_ONCE,
            S=shape.max_splits,
            SP=triton.next_power_of_2(shape.max_splits),
            ROWS=shape.rows,
            num_warps=4,
        )

    def _rows(self, *, recorded: bool, from_products: bool) -> Captured:
        shape, buffers, heads = self.shape, self.buffers, self.buffers.heads
        self._turn = _OF_GRAPHS if recorded else int(self._turn == 0)
        out = buffers.outputs[self._turn]
        k = triton.next_power_of_2(shape.top_k)
        best_blocks = k <= _MOST_BLOCKS_SORTED
        finish_ops.rows_kernel[(self._batch,)](
            buffers.sums,
            buffers.plan,
            buffers.records,
            buffers.maxima,
            buffers.slot_layers,
            None if heads is None else heads.masses,
            None if heads is None else heads.entropies,
            None if heads is None else heads.matrix,
            None if heads is None else heads.offset,
            None if heads is None else heads.sampled_row,
            None if heads is None else heads.products,
            None if heads is None else heads.sampled,
            out,
            shape.capacity,
            shape.top_k,
            out.stride(0),
            shape.all_heads,
            shape.first_head,
            ROWS=shape.rows,
            K=k,
            BLOCK=BLOCK,
            CHUNK=max(k, 256 if best_blocks else 2048),
            BEST_BLOCKS=best_blocks,
            LAYERS=len(shape.distinct),
            HEADS=shape.num_heads,
            HC=_HEADS_PROJECTED,
            SINGLE_HEADS=heads is not None,
            FROM_PRODUCTS=from_products,
            num_warps=8,
        )
        return unpack(out[: self._batch], k=shape.top_k)

    @property
    def packed(self) -> torch.Tensor:
        """float32 [B, 24 + 2 k], with single heads 21 more: all that the last `finish` gave, in one piece for one copy.

        See `unpack`.
        """
        return self.buffers.outputs[self._turn][: self._batch]


def unpack(packed: torch.Tensor, *, k: int) -> Captured:
    """The parts of `Capture.packed`, as views; with single heads also the sketch."""
    ends = NUM_OUTPUTS, NUM_OUTPUTS + k, NUM_OUTPUTS + 2 * k
    return Captured(
        vector=packed[:, :DIM],
        companions=packed[:, DIM:NUM_OUTPUTS],
        topk_probs=packed[:, ends[0] : ends[1]],
        topk_positions=packed[:, ends[1] : ends[2]].view(torch.int32),
        sketch=packed[:, ends[2] :] if packed.shape[1] > ends[2] else None,
    )


def _dimensions(dim: int) -> tuple[int, int]:
    """A head's dimensions as one or two powers of two (at least 16), so that 576 takes 512 + 64 and not 1024."""
    whole = max(triton.next_power_of_2(dim), 16)
    rest = dim - whole // 2
    if whole == dim or whole <= 128 or rest > whole // 4:
        return whole, 0
    return whole // 2, max(triton.next_power_of_2(rest), 16)
