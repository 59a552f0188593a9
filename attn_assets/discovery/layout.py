"""UMAP's layout: from a neighbourhood graph and a start to positions, the same bytes for the same seed.

McInnes, Healy, Melville, arXiv 1802.03426, 3.2; the schedule of samples and the forces are those of umap-learn, whose
quality docs/decisions/0015 measures it against.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse  # type: ignore[import-untyped]
from scipy.optimize import curve_fit  # type: ignore[import-untyped]

F32 = npt.NDArray[np.float32]
FIRST_STEP = 1.0


def lay_out(
    graph: sparse.csr_matrix,
    start: F32,
    *,
    num_epochs: int,
    min_dist: float,
    seed: int,
    first_step: float = FIRST_STEP,
) -> F32:
    """Positions float32 [s, 2] of the rows of a symmetric graph of weights in 0..1, from `start` [s, 2].

    Steps fall from `first_step` to 0.
    """
    # Imported here: compiled loops take a second to load.
    from attn_assets.discovery import layout_loops

    graph = graph.tocsr()
    graph.data[graph.data < graph.data.max(initial=0.0) / num_epochs] = 0.0
    graph.eliminate_zeros()
    graph.sort_indices()
    positions = np.ascontiguousarray(start, dtype=np.float32).copy()
    if not graph.nnz:
        return positions
    edges = graph.tocoo()
    head, tail = edges.row.astype(np.int32), edges.col.astype(np.int32)
    every = (edges.data.max() / edges.data).astype(np.float32)
    due, negative_due = every.copy(), every / layout_loops.NEGATIVE_SAMPLES
    state = np.uint64(np.random.default_rng(seed).integers(1, 2**63))
    pull, push = layout_loops.forces(*curve_of(min_dist))
    for epoch in range(num_epochs):
        alpha = first_step * (1.0 - epoch / num_epochs)
        # As its own type each time: a plain int would be another compilation.
        state = np.uint64(
            layout_loops.move(head, tail, every, due, negative_due, positions, pull, push, alpha, epoch, state)
        )
    return positions


def curve_of(min_dist: float, *, spread: float = 1.0) -> tuple[float, float]:
    """a and b so that 1 / (1 + a d^2b) falls off beyond `min_dist` as exp(-(d - min_dist) / spread) does."""
    distance = np.linspace(0, 3 * spread, 300)
    wanted = np.where(distance < min_dist, 1.0, np.exp(-(distance - min_dist) / spread))
    (a, b), _ = curve_fit(lambda d, a, b: 1.0 / (1.0 + a * d ** (2 * b)), distance, wanted)
    return float(a), float(b)
