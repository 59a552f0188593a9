"""The buffers of the capture: sized at start, counted before they are allocated, never allocated again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch

from attn_core.errors import SettingsError
from attn_core.head_projection import NUM_COLUMNS, NUM_HEAD_FIGURES
from attn_kernels.ops.finish import BLOCK, DISTANCE_BINS, HEAD_MASSES, MATRIX_COLUMNS, RECORD, SLOTS

NUM_OUTPUTS = 24
"""Floats of a request's output before its top-k: the vector and its companions. After it comes the sketch, if any."""


class CaptureTooLarge(SettingsError):
    """The capture cannot be laid out in the buffers that are asked for."""


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()


@dataclass(frozen=True, kw_only=True)
class CaptureShape:
    """What is known when the server starts."""

    layers: tuple[int, ...]
    """The 8 layer numbers of `attn_core.fingerprint.captured_layers`; they may repeat."""
    num_heads: int
    """Query heads of this rank."""
    max_rows: int
    """Requests of the largest step."""
    positions: int
    """Positions that a step's captured requests may have together, see `positions_to_hold`."""
    max_splits: int
    """Splits of the attention backend's decode (SGLang: ``--triton-attention-num-kv-splits``)."""
    top_k: int = 32
    max_queries: int = 0
    """Tokens of the largest prefill step; 0 where only decode steps are captured by `store_scores`."""
    total_heads: int = 0
    """Query heads of all ranks together; 0: `num_heads`."""
    windows: tuple[int, ...] = ()
    """Sliding window of each of `layers` as SGLang counts it, -1 for none; empty: no layer has one."""
    has_sinks: bool = False
    """Whether the layers add attention-sink logits (`Buffers.sinks`)."""
    heads: bool = False
    """Whether the single heads' figures are made, and the sketch of them."""
    first_head: int = 0
    """Which of `total_heads` is this rank's first."""

    def __post_init__(self) -> None:
        if len(self.layers) != SLOTS:
            raise CaptureTooLarge(f"{len(self.layers)} layers to capture: the fingerprint has places for {SLOTS}")
        if self.windows and len(self.windows) != SLOTS:
            raise CaptureTooLarge(f"{len(self.windows)} windows for {SLOTS} layers: give one each, or none")
        if self.heads and not 0 <= self.first_head <= self.all_heads - self.num_heads:
            raise CaptureTooLarge(f"heads from {self.first_head} on, {self.num_heads} of {self.all_heads} in all")
        words = self.table_words + len(self.distinct) * self.num_heads * self.capacity
        if self.num_heads * self.capacity >= 1 << 31:
            raise CaptureTooLarge(
                f"{self.num_heads} heads x {self.capacity} positions are {words:,} scores: at most {(1 << 31) - 1:,} "
                "a layer; lower --max-running-requests or --context-length"
            )

    @property
    def distinct(self) -> tuple[int, ...]:
        """The layer numbers without repeats, in order; captured layer number c is the c-th of them."""
        return tuple(dict.fromkeys(self.layers))

    @property
    def all_heads(self) -> int:
        """Query heads of all ranks together."""
        return self.total_heads or self.num_heads

    @property
    def num_outputs(self) -> int:
        """Floats of a request's output."""
        return NUM_OUTPUTS + 2 * self.top_k + (NUM_COLUMNS if self.heads else 0)

    @property
    def capacity(self) -> int:
        """Positions of the buffers: each request's start at a multiple of BLOCK."""
        return ceil(self.positions / BLOCK) * BLOCK

    @property
    def num_blocks(self) -> int:
        """Blocks of `capacity`."""
        return self.capacity // BLOCK

    @property
    def rows(self) -> int:
        """Rows of the plan: a power of two."""
        return _power_of_two(max(self.max_rows, 16))

    @property
    def table_words(self) -> int:
        """Words before the scores: one a query."""
        return ceil(max(self.rows, self.max_queries) / BLOCK) * BLOCK

    def num_elements(self) -> dict[str, tuple[int, ...]]:
        """The shape of each buffer; all have elements of 4 bytes."""
        layers, blocks = len(self.distinct), self.num_blocks
        of_heads, sums_of_heads = self._elements_of_heads()
        return {
            "scores": (self.table_words + layers * self.num_heads * self.capacity,),
            "lse": (layers, self.rows, self.num_heads, self.max_splits),
            "normalisers": (layers, self.rows, self.num_heads, 1),
            "sums": (self.capacity + blocks * SLOTS + sums_of_heads,),
            "records": (blocks, RECORD),
            "maxima": (blocks,),
            "outputs": (3, self.max_rows, self.num_outputs),
            "plan": (3 * self.rows + 1,),
            "constants": (layers * (2 + self.num_heads) + 2 * RECORD + SLOTS + 2 * self.rows,),
            **of_heads,
        }

    def _elements_of_heads(self) -> tuple[dict[str, tuple[int, ...]], int]:
        """The buffers that only `heads` takes, and what it adds to `sums`."""
        if not self.heads:
            return {}, 0
        layers = len(self.distinct)
        captured = layers * self.num_heads
        shapes = {
            "head_masses": (self.max_rows, HEAD_MASSES, captured),
            "head_entropies": (self.num_blocks, captured),
            "projection": (captured * NUM_HEAD_FIGURES + 1, MATRIX_COLUMNS),
            "sampled_row": (1,),
        }
        return shapes, self.max_rows * NUM_COLUMNS + layers * self.all_heads * NUM_HEAD_FIGURES

    @property
    def num_bytes(self) -> int:
        """Bytes of device memory that `Buffers` takes."""
        return 4 * sum(prod(shape) for shape in self.num_elements().values())

    def describe(self) -> str:
        """One line for the server's log."""
        return (
            f"attention capture: {self.num_bytes / 2**20:.1f} MiB on the device "
            f"({len(self.distinct)} layers x {self.num_heads} heads x {self.capacity} positions, "
            f"{self.max_rows} requests a step)"
        )


def positions_to_hold(*, pool_tokens: int, max_rows: int, max_context: int) -> int:
    """Positions that the requests of one step can have together, rounding of each to a block included.

    As many as the KV pool holds tokens, or as all requests at their longest, whichever is less. Requests that share a
    cached prefix can have more together than the pool has tokens: those that do not fit are not captured in that step.
    """
    return min(pool_tokens, max_rows * max_context) + max_rows * BLOCK


@dataclass(frozen=True, kw_only=True)
class HeadBuffers:
    """What the single heads take, where `CaptureShape.heads`; C captured heads of this rank, layers times heads."""

    masses: torch.Tensor
    """float32 [max_rows, HEAD_MASSES, C]."""
    entropies: torch.Tensor
    """float32 [blocks, C], what each block of positions adds."""
    projection: torch.Tensor
    """float32 [C * 5 + 1, MATRIX_COLUMNS], `matrix` and `offset` in one piece; columns from 21 on are not used."""
    sampled_row: torch.Tensor
    """int32 [1], the request whose figures are written out, -1 for none."""
    products: torch.Tensor
    """float32 [max_rows, 21], part of `Buffers.sums`: figures times matrix, where ranks add them up."""
    sampled: torch.Tensor
    """float32 [layers, heads of all ranks, 5], the end of `Buffers.sums`: the sampled request's figures."""

    @property
    def matrix(self) -> torch.Tensor:
        """float32 [C * 5, MATRIX_COLUMNS]."""
        return self.projection[:-1]

    @property
    def offset(self) -> torch.Tensor:
        """float32 [MATRIX_COLUMNS]; NaN while there is no projection, and so is every sketch then."""
        return self.projection[-1]


class Buffers:
    """The tensors of `CaptureShape`, on one device."""

    def __init__(self, shape: CaptureShape, *, device: torch.device | str) -> None:
        self.shape = shape
        sizes = shape.num_elements()
        layers = shape.distinct

        def empty(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(sizes[name], dtype=dtype, device=device)

        def constant(values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self.memory = empty("scores")
        self.table = self.memory[: shape.table_words].view(torch.int32)
        self.table.fill_(-1)
        self.scores = self.memory[shape.table_words :].view(len(layers), shape.num_heads, shape.capacity)
        self.lse = empty("lse")
        self.normalisers = empty("normalisers")
        self.sums = empty("sums")
        """P, then the layers' entropies, then what `heads` adds: what ranks add up (`Capture.sums`)."""
        self.records = empty("records")
        self.maxima = empty("maxima")
        self.outputs = empty("outputs")
        self.plan = torch.full(sizes["plan"], -1, dtype=torch.int32, device=device)

        windows = dict(zip(shape.layers, shape.windows or (-1,) * SLOTS, strict=True))
        self.windows = constant([windows[layer] for layer in layers], torch.int32)
        self.weights = constant(
            [shape.layers.count(layer) / SLOTS / shape.all_heads for layer in layers], torch.float32
        )
        self.slot_layers = constant([layers.index(layer) for layer in shape.layers], torch.int32)
        spare = [(1, 0)] * (RECORD - len(DISTANCE_BINS))
        self.edges = constant(
            [bound for column in zip(*DISTANCE_BINS, *spare, strict=True) for bound in column], torch.int32
        )
        self.one_split = torch.ones(shape.rows, dtype=torch.int32, device=device)
        self.all_splits = torch.full((shape.rows,), shape.max_splits, dtype=torch.int32, device=device)
        self.sinks = torch.full((len(layers), shape.num_heads), float("-inf"), dtype=torch.float32, device=device)
        """float32 [captured layers, heads]: attention-sink logits, where `has_sinks`."""
        self.heads: HeadBuffers | None = None
        if shape.heads:
            projection = torch.zeros(sizes["projection"], dtype=torch.float32, device=device)
            projection[-1].fill_(float("nan"))
            own = self.sums[shape.capacity + shape.num_blocks * SLOTS :].zero_()
            num_products = shape.max_rows * NUM_COLUMNS
            self.heads = HeadBuffers(
                masses=empty("head_masses"),
                entropies=empty("head_entropies"),
                projection=projection,
                sampled_row=torch.full(sizes["sampled_row"], -1, dtype=torch.int32, device=device),
                products=own[:num_products].view(shape.max_rows, NUM_COLUMNS),
                sampled=own[num_products:].view(len(layers), shape.all_heads, NUM_HEAD_FIGURES),
            )

    def aux_tensor(self, index: int) -> torch.Tensor:
        """What `store_scores` gets for captured layer number `index`: SGLang takes one 3-D tensor.

        Its start is the table of queries; the first stride leads from there to the layer's scores.
        """
        shape = self.shape
        to_scores = shape.table_words + index * shape.num_heads * shape.capacity
        return self.memory.as_strided((1, shape.num_heads, shape.capacity), (to_scores, shape.capacity, 1))
