"""One attention shape at a time: SGLang's own kernels with the capture, held against the float64 definition.

Runs on a GPU, or on a CPU where ``TRITON_INTERPRET=1`` was set before triton was imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd
from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd, extend_attention_fwd_unified

from attn_core.fingerprint import MID_END
from attn_core.head_projection import HEAD_FIGURES, NUM_COLUMNS, NUM_HEAD_FIGURES, HeadProjection
from attn_kernels import reference
from attn_kernels.ops.buffers import CaptureShape
from attn_kernels.ops.capture import Capture, Keys, store_scores
from attn_kernels.torch_ops import Captured, Projection

T = TypeVar("T")
KINDS = ("decode", "extend", "unified", "beside")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
SPARE_SLOTS = 64
LONG = HEAD_FIGURES.index("long_mass")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A step of a few requests in a few captured layers."""

    kind: str = "decode"
    lens: tuple[int, ...] = (5, 130, 77)
    heads: int = 6
    kv_heads: int = 2
    dim: int = 64
    dtype: str = "fp32"
    """Of Q, K and V; fp8: K and V, with a scale, and bf16 for Q."""
    layers: int = 2
    """Distinct captured layers, repeated to the fingerprint's 8."""
    logit_cap: float = 0.0
    window: int = -1
    sinks: bool = False
    page_size: int = 1
    max_splits: int = 4
    top_k: int = 8
    skipped: int = -1
    """A request that does not ask, -1 for none."""
    paged_table: bool = False
    """Whether the beside kernel reads slots from a table ``[requests, positions]`` and not from one list."""
    halves: bool = False
    """Whether the two halves are launched one by one, as several ranks would."""
    gain: float = 2.0
    """How sharp the attention is."""
    single_heads: bool = True
    """Whether the single heads' figures and the sketch are made as well."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How far a shape's capture was from float64."""

    max_abs_error: float
    """Over masses, entropies, sink and prompt mass, residual and top-k probabilities."""
    periodicity_error: float
    topk_right: bool
    """Every position returned is one of the k most attended, but for ties within the tolerance, and in order."""
    same_output: bool
    """Whether the stock kernel's output and log-sum-exp are bitwise what they are without the capture."""
    head_figures_error: float
    """Over the single heads' masses and entropies of one request; 0 where they are not made."""
    sketch_error: float
    """Over the sketches of all requests, of a matrix that leaves them as large as the figures are."""


def tolerance(shape: Shape) -> float:
    """The largest error that is allowed: 1e-5 where scores are computed in float32, else 2e-3."""
    return 1e-5 if shape.dtype == "fp32" else 2e-3


def draw(choose: Callable[[Sequence[T]], T], *, seed: int) -> Shape:
    """A shape, its parts taken by `choose` from what there is."""
    pick: Callable[[Sequence[object]], object] = choose  # type: ignore[assignment]

    def number(options: Sequence[int]) -> int:
        return int(pick(options))  # type: ignore[call-overload]

    kind = str(pick(KINDS))
    mla = kind in ("decode", "beside") and number(range(8)) == 0
    dtype = str(pick(("fp32", "fp32", "bf16", "fp8") if kind in ("decode", "beside") else ("fp32", "bf16")))
    kv_heads = 1 if mla else number((1, 2, 3))
    group = number((4, 16, 20)) if mla else number((1, 2, 3, 4, 7))
    if dtype == "fp8" and group == 1:
        group = 2
    return Shape(
        kind=kind,
        lens=tuple(number(range(1, 180)) for _ in range(number((1, 1, 2)))),
        heads=kv_heads * group,
        kv_heads=kv_heads,
        dim=576 if mla else number((64, 64, 80, 96, 128, 192, 256)),
        dtype=dtype,
        layers=number((1, 1, 2)),
        logit_cap=(0.0, 0.0, 30.0, 50.0)[number(range(4))],
        window=number((-1, -1, 1, 16, 90)),
        sinks=number(range(4)) == 0,
        page_size=number((1, 1, 16)),
        max_splits=number((1, 2, 3, 5)),
        top_k=number((1, 8, 8, 32, 100)),
        skipped=number((-1, -1, 0)),
        paged_table=bool(number((0, 1))),
        halves=bool(number((0, 0, 1))),
        gain=(0.3, 1.0, 2.0, 4.0)[number(range(4))],
        single_heads=bool(number((0, 1, 1, 1))),
        seed=seed,
    )


def drawn(count: int, *, seed: int = 0) -> list[Shape]:
    """`count` shapes drawn by NumPy's generator: for where hypothesis is not."""
    rng = np.random.default_rng(seed)

    def choose(options: Sequence[T]) -> T:
        return options[int(rng.integers(len(options)))]

    return [draw(choose, seed=seed * 100_000 + i) for i in range(count)]


def random_projection(*, layers: int, heads: int, seed: int) -> HeadProjection:
    """One whose sketches are about as large as the figures, for layers 0, 1, ..."""
    rng = np.random.default_rng(seed)
    rows = layers * heads * NUM_HEAD_FIGURES
    return HeadProjection(
        model="random",
        layers=tuple(range(layers)),
        num_heads=heads,
        matrix=(rng.normal(size=(rows, NUM_COLUMNS)) / np.sqrt(rows)).astype(np.float32),
        offset=rng.normal(size=NUM_COLUMNS).astype(np.float32),
    )


class Step:
    """Random inputs of a shape on a device, and the launches over them."""

    def __init__(self, shape: Shape, *, device: str) -> None:
        self.shape, self.device = shape, device
        rng = np.random.default_rng(shape.seed)
        self.lens = list(shape.lens)
        num_slots = sum(self.lens) + SPARE_SLOTS
        num_slots += -num_slots % 16
        self.slots = torch.from_numpy(rng.permutation(num_slots)[: sum(self.lens)]).to(device)
        self.indptr = self._ints([0, *np.cumsum(self.lens)])
        self.prompt_lens = [int(rng.integers(1, n + 1)) for n in self.lens]
        self.num_splits = self._ints(rng.integers(1, shape.max_splits + 1, len(self.lens)))
        self.k_scale = 0.5 if shape.dtype == "fp8" else 1.0
        self.mla = shape.dim == 576
        self.v_dim = 512 if self.mla else shape.dim
        query_type = torch.bfloat16 if shape.dtype == "fp8" else DTYPES[shape.dtype]

        def normal(*size: int, dtype: torch.dtype = query_type) -> torch.Tensor:
            return torch.from_numpy(rng.normal(size=size).astype(np.float32)).to(device=device).to(dtype)

        # In a prefill step each request has some new tokens, the last of which is the query that counts.
        self.new = [int(rng.integers(1, n + 1)) if shape.kind in ("extend", "unified") else 1 for n in self.lens]
        self.queries = [normal(sum(self.new), shape.heads, shape.dim) * shape.gain for _ in range(shape.layers)]
        cache = DTYPES[shape.dtype]
        self.keys = [normal(num_slots, shape.kv_heads, shape.dim).to(cache) for _ in range(shape.layers)]
        self.values = [
            k[..., : self.v_dim] if self.mla else normal(num_slots, shape.kv_heads, self.v_dim).to(cache)
            for k in self.keys
        ]
        self.sinks = [
            torch.from_numpy(rng.normal(size=shape.heads).astype(np.float32)).to(device) if shape.sinks else None
            for _ in range(shape.layers)
        ]
        self.scaling = shape.dim**-0.5
        self.layer_ids = tuple(c * shape.layers // 8 for c in range(8))
        self.capture = Capture(
            CaptureShape(
                layers=self.layer_ids,
                num_heads=shape.heads,
                max_rows=len(self.lens),
                max_queries=sum(self.new),
                positions=sum(self.lens) + 128 * len(self.lens),
                max_splits=shape.max_splits,
                top_k=shape.top_k,
                windows=(shape.window,) * 8,
                has_sinks=shape.sinks,
                heads=shape.single_heads,
            ),
            device=device,
        )
        self.projection = random_projection(layers=shape.layers, heads=shape.heads, seed=shape.seed)
        self.sampled = shape.seed % len(self.lens)
        if shape.single_heads:
            own = Projection.of_rank(self.projection, num_heads=shape.heads)
            self.capture.set_projection(own.matrix, own.offset)
            self.capture.sample_row(self.sampled)
        for c, sinks in enumerate(self.sinks):
            if sinks is not None:
                self.capture.buffers.sinks[c] = sinks

    def _ints(self, values: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.tensor([int(v) for v in values], dtype=torch.int32, device=self.device)

    @property
    def window_extra(self) -> int:
        """SGLang's decode keeps `window` keys of a window, everything else one more."""
        return 0 if self.shape.kind == "decode" else 1

    def begin(self) -> None:
        prefill = self.shape.kind in ("extend", "unified")
        asked = self._ints([r != self.shape.skipped for r in range(len(self.lens))])
        self.capture.begin_step(
            seq_lens=self._ints(self.lens).long(),
            prompt_lens=self._ints(self.prompt_lens),
            asked=asked if self.shape.skipped >= 0 else None,
            last_queries=self._ints(np.cumsum(self.new) - 1) if prefill else None,
            num_queries=sum(self.new),
            window_extra=self.window_extra,
        )

    def run(self) -> tuple[Captured, bool]:
        """The capture, and whether the stock kernels' output was the same without it."""
        self.begin()
        same = True
        for c in range(self.shape.layers):
            same &= getattr(self, f"_{self.shape.kind}")(c)
        splits: torch.Tensor | None = None
        if self.shape.kind == "decode":
            splits = self.num_splits
        elif self.shape.kind != "beside":
            self.capture.normalise()
            splits = self.capture.buffers.one_split
        if self.shape.halves:
            self.capture.sums(num_splits=splits)
            return self.capture.statistics(), same
        return self.capture.finish(num_splits=splits), same

    def _windowed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``kv_indptr`` and ``kv_indices`` as SGLang's decode gets them: a window's slots alone where there is one."""
        if self.shape.window < 0:
            return self.indptr, self.slots
        kept = [min(n, self.shape.window + self.window_extra) for n in self.lens]
        ends = np.cumsum(self.lens)
        parts = [self.slots[int(end) - k : int(end)] for end, k in zip(ends, kept, strict=True)]
        return self._ints([0, *np.cumsum(kept)]), torch.cat(parts)

    def _decode(self, c: int) -> bool:
        shape, size = self.shape, (len(self.lens), self.shape.heads, self.shape.max_splits)
        indptr, slots = self._windowed()
        lse = self.capture.lse(c)
        lse.fill_(float("nan"))
        outputs = []
        for score_mod in (None, store_scores):
            out = torch.zeros(len(self.lens), shape.heads, self.v_dim, dtype=self.queries[c].dtype, device=self.device)
            lse = self.capture.lse(c)[: len(self.lens)] if score_mod else torch.full(size, float("nan")).to(self.device)
            decode_attention_fwd(
                self.queries[c],
                self.keys[c],
                self.values[c],
                out,
                indptr,
                slots,
                torch.zeros(*size, self.v_dim, device=self.device),
                lse,
                self.num_splits,
                shape.max_splits,
                self.scaling,
                self.k_scale,
                self.k_scale,
                logit_cap=shape.logit_cap,
                sinks=self.sinks[c],
                has_mla=self.mla,
                page_size=shape.page_size,
                score_mod=score_mod,
                aux_tensors=self.capture.aux_tensors(c) if score_mod else None,
            )
            outputs.append((out, lse.clone()))
        (plain, plain_lse), (ours, our_lse) = outputs
        return torch.equal(plain, ours) and torch.equal(plain_lse.nan_to_num(-1), our_lse.nan_to_num(-1))

    def _extend(self, c: int) -> bool:
        shape = self.shape
        prefix = [n - new for n, new in zip(self.lens, self.new, strict=True)]
        kept = [min(p, shape.window) if shape.window >= 0 else p for p in prefix]
        starts = self.indptr.tolist()
        of_prefix = [self.slots[s + p - k : s + p] for s, p, k in zip(starts, prefix, kept, strict=False)]
        of_new = torch.cat([self.slots[s + p : s + n] for s, p, n in zip(starts, prefix, self.lens, strict=False)])
        outputs = []
        for score_mod in (None, store_scores):
            out = torch.zeros_like(self.queries[c])
            extend_attention_fwd(
                self.queries[c],
                self.keys[c][of_new].contiguous(),
                self.values[c][of_new].contiguous(),
                out,
                self.keys[c],
                self.values[c],
                self._ints([0, *np.cumsum(self.new)]),
                self._ints([0, *np.cumsum(kept)]),
                torch.cat(of_prefix),
                None,
                True,
                None,
                max(self.new),
                1.0,
                1.0,
                sm_scale=self.scaling,
                logit_cap=shape.logit_cap,
                sliding_window_size=shape.window,
                sinks=self.sinks[c],
                page_size=shape.page_size,
                score_mod=score_mod,
                aux_tensors=self.capture.aux_tensors(c) if score_mod else None,
            )
            outputs.append(out)
        return torch.equal(*outputs)

    def _unified(self, c: int) -> bool:
        shape = self.shape
        prefix = [n - new for n, new in zip(self.lens, self.new, strict=True)]
        outputs = []
        for score_mod in (None, store_scores):
            out = torch.zeros_like(self.queries[c])
            extend_attention_fwd_unified(
                self.queries[c],
                out,
                self.keys[c],
                self.values[c],
                1.0,
                1.0,
                self._ints([0, *np.cumsum(self.new)]),
                self.indptr,
                self.slots,
                self._ints(prefix),
                max(self.new),
                sm_scale=self.scaling,
                logit_cap=shape.logit_cap,
                sliding_window_size=shape.window,
                sinks=self.sinks[c],
                page_size=shape.page_size,
                score_mod=score_mod,
                aux_tensors=self.capture.aux_tensors(c) if score_mod else None,
            )
            outputs.append(out)
        return torch.equal(*outputs)

    def _beside(self, c: int) -> bool:
        indptr, slots, rows, from_window = self.indptr, self.slots, self.indptr, False
        if self.shape.paged_table:
            table = torch.full((len(self.lens) + 1, max(self.lens)), 1 << 20, dtype=torch.int32, device=self.device)
            for r, n in enumerate(self.lens):
                table[len(self.lens) - r, :n] = self.slots[int(indptr[r]) : int(indptr[r]) + n]
            slots, rows = table, self._ints(range(len(self.lens), 0, -1))
        elif self.shape.window >= 0:
            rows, slots = self._windowed()
            from_window = True
        keys = Keys(
            cache=self.keys[c],
            slots=slots,
            slot_rows=rows,
            slots_from_window=from_window,
            query_as_key=self.shape.dtype == "fp8" and self.shape.seed % 2 == 0,
        )
        self.capture.beside(
            c,
            query=self.queries[c],
            keys=keys,
            scaling=self.scaling * self.k_scale,
            logit_cap=self.shape.logit_cap,
        )
        return True

    def expected(self, row: int) -> reference.Fingerprint:
        """What float64 makes of the same numbers."""
        shape, n = self.shape, self.lens[row]
        slots = self.slots[int(self.indptr[row]) :][:n]
        query_row = int(np.cumsum(self.new)[row]) - 1
        rounded = shape.dtype == "fp8" and (shape.kind == "decode" or shape.seed % 2 == 0)
        by_layer = []
        for c in range(shape.layers):
            query = self.queries[c][query_row]
            if rounded:
                # SGLang's grouped decode rounds the query to the cache's type, but not the last 64 of MLA's 576.
                whole = query.to(torch.float8_e4m3fn).double()
                keep = 512 if self.mla and shape.kind == "decode" else shape.dim
                query = torch.cat([whole[:, :keep], query[:, keep:].double()], dim=1)
            keys = self.keys[c][slots]
            if shape.kind == "decode" and shape.heads == shape.kv_heads and query.dtype == keys.dtype:
                # SGLang's decode for one key head a query head rounds each product to the cache's type.
                query, keys = torch.ones_like(query), keys * query
            sinks = self.sinks[c]
            by_layer.append(
                reference.probabilities(
                    query.double().cpu().numpy(),
                    keys.double().cpu().numpy() * self.k_scale,
                    scaling=self.scaling,
                    logit_cap=shape.logit_cap,
                    sliding_window=shape.window - 1 + self.window_extra if shape.window >= 0 else -1,
                    sinks=None if sinks is None else sinks.double().cpu().numpy(),
                )
            )
        rows = np.stack([by_layer[layer] for layer in self.layer_ids])
        mean = rows.mean(axis=(0, 1))
        self.last_p = mean / mean.sum()
        self.last_figures = reference.head_figures(rows, layers=self.layer_ids).reshape(-1)
        return reference.fingerprint(rows, prompt_len=self.prompt_lens[row], k=shape.top_k)


def check(shape: Shape, *, device: str) -> Outcome:
    """Run a shape and hold every number against float64."""
    step = Step(shape, device=device)
    captured, same = step.run()
    vector, beside = captured.vector.double().cpu().numpy(), captured.companions.double().cpu().numpy()
    probs, positions = captured.topk_probs.double().cpu().numpy(), captured.topk_positions.cpu().numpy()
    worst, worst_period, right, limit = 0.0, 0.0, True, tolerance(shape)
    of_heads = SingleHeads(step, captured)
    for row, n in enumerate(step.lens):
        if row == shape.skipped:
            right &= bool(np.isnan(vector[row]).all() and (positions[row] == -1).all())
            of_heads.skip(row)
            continue
        want = step.expected(row)
        of_heads.compare(row)
        kept = len(want.topk_probs)
        worst = max(
            worst,
            np.abs(vector[row] - want.vector).max(),
            np.abs(beside[row, [0, 1, 3]] - [want.sink_mass, want.prompt_mass, want.residual_mass]).max(),
            np.abs(probs[row, :kept] - want.topk_probs).max(),
        )
        worst_period = max(worst_period, abs(beside[row, 2] - want.periodicity))
        got = positions[row, :kept]
        right &= len(set(got)) == kept and bool((got >= 0).all() and (got < n).all())
        right &= bool((positions[row, kept:] == -1).all() and (probs[row, kept:] == 0).all())
        right &= right and bool((step.last_p[got] >= want.topk_probs[-1] - limit).all())
        right &= right and bool((np.abs(step.last_p[got] - probs[row, :kept]) <= limit).all())
        right &= bool((np.diff(probs[row, :kept]) <= 0).all())
    if not np.isfinite(worst):
        worst = float("inf")
    return Outcome(
        max_abs_error=float(worst),
        periodicity_error=worst_period,
        topk_right=right,
        same_output=same,
        head_figures_error=of_heads.figures_error,
        sketch_error=of_heads.sketch_error,
    )


class SingleHeads:
    """How far a step's head figures and sketches are from float64; infinite where one is there that should not be."""

    def __init__(self, step: Step, captured: Captured) -> None:
        self.step, self.figures_error, self.sketch_error = step, 0.0, 0.0
        if (captured.sketch is not None) != step.shape.single_heads:
            self.sketch_error = float("inf")
        self._sketch = None if captured.sketch is None else captured.sketch.double().cpu().numpy()
        self._figures = step.capture.sampled_figures.double().cpu().numpy() if step.shape.single_heads else None

    def compare(self, row: int) -> None:
        """Hold a captured request against what `Step.expected` found for it just now."""
        if self._sketch is None or self._figures is None:
            return
        figures, projection = self.step.last_figures, self.step.projection
        want = reference.head_sketch(figures, matrix=projection.matrix, offset=projection.offset)
        self.sketch_error = _worse(self.sketch_error, self._sketch[row] - want)
        if row == self.step.sampled:
            self.figures_error = _worse(self.figures_error, self._figures - figures)
            # What no position can have is 0, and not what rounding left of the other masses.
            if self.step.lens[row] <= MID_END and self._figures[LONG::NUM_HEAD_FIGURES].any():
                self.figures_error = float("inf")

    def skip(self, row: int) -> None:
        """A request that is not captured has no sketch and no figures."""
        if self._sketch is None or self._figures is None:
            return
        absent = np.isnan(self._sketch[row]).all() and (row != self.step.sampled or np.isnan(self._figures).all())
        if not absent:
            self.sketch_error = float("inf")


def _worse(error: float, differences: np.ndarray) -> float:
    found = float(np.abs(differences).max())
    return max(error, found) if np.isfinite(found) else float("inf")


_BASE = Shape(lens=(5, 130), layers=1)
NAMED: dict[str, Shape] = {
    "two layers": replace(_BASE, layers=2, lens=(5, 130, 77)),
    "multi-head": replace(_BASE, heads=3, kv_heads=3, page_size=16),
    "multi-head, rounded products": replace(_BASE, heads=3, kv_heads=3, dim=128, dtype="bf16"),
    "multi-query": replace(_BASE, heads=5, kv_heads=1, dim=128, dtype="bf16"),
    # SGLang's own decode reads the wrong keys for groups above 16 that are no multiple of it.
    "groups beyond a tile": replace(_BASE, heads=64, kv_heads=2, lens=(40, 3)),
    "groups beyond a tile, beside": replace(_BASE, kind="beside", heads=40, kv_heads=2, lens=(40, 3)),
    "latent": replace(_BASE, heads=20, kv_heads=1, dim=576, dtype="bf16", lens=(33, 70)),
    "latent, beside": replace(_BASE, kind="beside", heads=20, kv_heads=1, dim=576, lens=(33, 70)),
    "window": replace(_BASE, window=40, lens=(5, 40, 41, 170)),
    "window, beside": replace(_BASE, kind="beside", window=40, lens=(5, 40, 41, 170)),
    "window, table, beside": replace(_BASE, kind="beside", window=40, lens=(5, 41, 170), paged_table=True),
    "sinks": replace(_BASE, sinks=True),
    "logit cap": replace(_BASE, logit_cap=30.0, gain=6.0),
    "fp8": replace(_BASE, dtype="fp8", dim=128),
    "fp8, beside": replace(_BASE, kind="beside", dtype="fp8", dim=128, seed=1),
    "head of 80": replace(_BASE, dim=80),
    "head of 256": replace(_BASE, dim=256, dtype="bf16", heads=4),
    "one request not asked for": replace(_BASE, skipped=1),
    "many splits": replace(_BASE, max_splits=40, sinks=True),
    "halves": replace(_BASE, halves=True, layers=2),
    "halves, one request not asked for": replace(_BASE, halves=True, skipped=1, seed=1),
    "no single heads": replace(_BASE, layers=2, single_heads=False, lens=(5, 130, 77)),
    "no single heads, halves": replace(_BASE, halves=True, single_heads=False, sinks=True),
    "distances about 100": replace(_BASE, kind="beside", lens=(100, 101, 99, 228, 229), heads=2, kv_heads=1),
    "just beyond distance 100": replace(_BASE, kind="beside", lens=(101, 256), heads=2, kv_heads=1, gain=0.3),
    "more blocks than are added at once": replace(_BASE, kind="beside", lens=(16_500,), heads=2, kv_heads=1),
    "more heads than are projected at once": replace(_BASE, kind="beside", heads=35, kv_heads=7, layers=3, seed=1),
    "top 100": replace(_BASE, top_k=100, lens=(5, 400)),
    "top 1": replace(_BASE, top_k=1),
    "eight layers": replace(_BASE, layers=8, lens=(20, 129)),
    "one position": replace(_BASE, lens=(1, 1, 4, 128)),
    "prefill": replace(_BASE, kind="extend"),
    "prefill, window": replace(_BASE, kind="extend", window=20, lens=(60, 15, 150)),
    "prefill, sinks, cap": replace(_BASE, kind="extend", sinks=True, logit_cap=20.0),
    "prefill, one stage": replace(_BASE, kind="unified"),
    "prefill, one stage, window": replace(_BASE, kind="unified", window=20, lens=(60, 15, 150)),
    "longer than the blocks looked at": replace(_BASE, lens=(1300, 700), heads=2, kv_heads=1, top_k=2),
}
"""The kinds of attention one by one; `draw` mixes them."""
