"""A model's head projection, learned from the raw figures of its heads at a sample of tokens.

The columns of the sketch are the principal components of the figures relative to what is usual at each context length
(`attn_core.usual`): without labels, and without the length, which would otherwise be the first of them. On the device
there is no length to be relative to, so the matrix is linear in the figures themselves, and discovery takes the sketch
relative to the length afterwards. Of a head's figures the masses at middle and long distances are left out of the
sketch: contexts up to 100 have no long mass, and the sketch would tell them apart (docs/decisions/0024).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_core.errors import ProjectionError
from attn_core.head_projection import (
    FOLDER,
    HEAD_FIGURES,
    NUM_COLUMNS,
    NUM_HEAD_FIGURES,
    NUM_SKETCH,
    HeadProjection,
    current_projection,
    put_projection,
)
from attn_core.store import open_reader, read_head_figures
from attn_core.usual import usual_of
from attn_core.zones import model_name

MAX_TOKENS = 20_000
MIN_TOKENS, MIN_REQUESTS = 1_000, 30
"""With fewer sampled tokens or requests the directions would be those of a few answers."""
LEAST_STABILITY = 0.8
"""Of `Learned.stability`: below it, a matrix of the other half of the sample would be another one."""
SKETCHED = ("sink_mass", "local_mass", "entropy")
LEAST_SPREAD = 1e-3
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The raw figures of m tokens of one model."""

    figures: F32
    """[m, layers * heads * 5]"""
    context_len: I64
    request_no: I64
    """[m], 0..r-1."""
    layers: tuple[int, ...]
    num_heads: int

    def rows(self, chosen: npt.NDArray[np.bool_]) -> Sample:
        """These tokens only."""
        return Sample(
            figures=self.figures[chosen],
            context_len=self.context_len[chosen],
            request_no=self.request_no[chosen],
            layers=self.layers,
            num_heads=self.num_heads,
        )


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A matrix and what speaks for it."""

    projection: HeadProjection
    variance_held: float
    """Share of the figures' variance, relative to the length, that 16 columns hold; learned on half of the requests
    and judged on the others."""
    stability: float
    """0..1: how far the directions of the two halves span the same space (mean squared cosine of their principal
    angles); 16 random directions of n share 16 / n."""
    num_tokens: int
    num_requests: int


def sample_of(table: pa.Table) -> Sample:
    """From `attn_core.store.read_head_figures`; tokens of other layers or heads than the newest one's are left out.

    Raises `ProjectionError` where there are too few.
    """
    shapes = [(tuple(layers), heads) for layers, heads in zip(
        table.column("layers").to_pylist(), table.column("num_heads").to_pylist(), strict=True
    )]  # fmt: skip
    mine = np.array([one == shapes[-1] for one in shapes], dtype=np.bool_) if shapes else np.zeros(0, np.bool_)
    kept = table.filter(pa.array(mine))
    requests = kept.column("request_id").combine_chunks().dictionary_encode()
    num_requests = len(requests.dictionary)
    if kept.num_rows < MIN_TOKENS or num_requests < MIN_REQUESTS:
        raise ProjectionError(
            f"{kept.num_rows} tokens of {num_requests} requests have raw head figures, and {MIN_TOKENS} of "
            f"{MIN_REQUESTS} are needed: send more varied requests, and start the model server with "
            "--attention-head-sample 8 or less"
        )
    layers, num_heads = shapes[-1]
    width = len(layers) * num_heads * NUM_HEAD_FIGURES
    flat = kept.column("figures").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Sample(
        figures=flat.astype(np.float32).reshape(-1, width),
        context_len=kept.column("context_len").to_numpy().astype(np.int64),
        request_no=np.asarray(requests.indices, dtype=np.int64),
        layers=layers,
        num_heads=num_heads,
    )


def learn(sample: Sample, *, model_id: str, evidence: tuple[F64, F64] | None = None) -> Learned:
    """The matrix of these tokens; the same tokens give the same bytes.

    `evidence` is the matrix [layers * heads * 5, 5] and the offset [5] of the zones' columns, None without a
    calibration: then they are 0.
    """
    directions = _directions(_relative(sample), sample)
    mean = sample.figures.mean(axis=0, dtype=np.float64)
    spread = np.maximum(sample.figures.std(axis=0, dtype=np.float64), LEAST_SPREAD)
    matrix, offset = np.zeros((len(mean), NUM_COLUMNS)), np.zeros(NUM_COLUMNS)
    matrix[:, :NUM_SKETCH] = directions / spread[:, None]
    offset[:NUM_SKETCH] = -mean @ matrix[:, :NUM_SKETCH]
    if evidence is not None:
        matrix[:, NUM_SKETCH:], offset[NUM_SKETCH:] = evidence
    held, stability = _by_halves(sample)
    num_requests = int(sample.request_no.max()) + 1
    provenance = {
        "num_tokens": len(sample.figures),
        "num_requests": num_requests,
        "variance_held": round(held, 4),
        "stability": round(stability, 4),
        "figures": list(SKETCHED),
    }
    projection = HeadProjection(
        model=model_name(model_id),
        layers=sample.layers,
        num_heads=sample.num_heads,
        matrix=matrix.astype(np.float32),
        offset=offset.astype(np.float32),
        provenance=provenance,
    )
    return Learned(
        projection=projection,
        variance_held=held,
        stability=stability,
        num_tokens=len(sample.figures),
        num_requests=num_requests,
    )


def learn_from_database(
    db: Path, discovery_dir: Path, *, model_id: str, evidence: Callable[[Sample], tuple[F64, F64]] | None = None
) -> tuple[Learned, str | None]:
    """Learn from the newest sampled tokens and make it the model's current matrix; also the hash it replaces.

    Raises `ProjectionError` where there are too few tokens or the halves of the sample disagree; nothing is changed
    then.
    """
    with closing(open_reader(db)) as connection:
        sample = sample_of(read_head_figures(connection, model_id=model_id, limit=MAX_TOKENS))
    learned = learn(sample, model_id=model_id, evidence=None if evidence is None else evidence(sample))
    if learned.stability < LEAST_STABILITY:
        raise ProjectionError(
            f"not kept: two halves of the sample give matrices that share {learned.stability:.2f} of their space "
            f"(at least {LEAST_STABILITY}); let the server sample more requests"
        )
    folder = discovery_dir / FOLDER
    try:
        former = current_projection(folder, model_id)
    except ProjectionError:
        # What cannot be read is replaced.
        former = None
    put_projection(folder, learned.projection)
    return learned, None if former is None else former.sha256


def _relative(sample: Sample) -> F32:
    return usual_of(sample.figures, sample.context_len).relative(sample.figures, sample.context_len)


def _columns() -> npt.NDArray[np.bool_]:
    """[5], which figures of a head the sketch rests on."""
    return np.array([name in SKETCHED for name in HEAD_FIGURES], dtype=np.bool_)


def _directions(relative: F32, sample: Sample) -> F64:
    """[layers * heads * 5, 16]: principal directions, the widest first, each with its largest entry positive."""
    told = np.tile(_columns(), len(sample.layers) * sample.num_heads)
    kept = relative[:, told].astype(np.float64)
    kept -= kept.mean(axis=0)
    _, vectors = np.linalg.eigh(kept.T @ kept)
    axes = vectors[:, ::-1][:, :NUM_SKETCH]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    found = np.zeros((len(told), NUM_SKETCH))
    found[told, : axes.shape[1]] = axes
    return found


def _by_halves(sample: Sample) -> tuple[float, float]:
    """Variance held and stability, from two halves of the requests."""
    first = sample.request_no % 2 == 0
    halves = sample.rows(first), sample.rows(~first)
    relative = tuple(_relative(one) for one in halves)
    directions = tuple(_directions(moved, one) for moved, one in zip(relative, halves, strict=True))
    told = np.tile(_columns(), len(sample.layers) * sample.num_heads)
    judged = relative[1][:, told].astype(np.float64)
    judged -= judged.mean(axis=0)
    held = float(((judged @ directions[0][told]) ** 2).sum() / max(float((judged**2).sum()), 1e-12))
    return held, float(((directions[0].T @ directions[1]) ** 2).sum() / NUM_SKETCH)
