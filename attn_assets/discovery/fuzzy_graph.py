"""UMAP's neighbourhood graph in NumPy: what `umap.umap_.fuzzy_simplicial_set` gives, without its compiler.

umap-learn compiles these few lines with Numba in every new process, which took 7 of the 15 seconds of a 2,000-row
discovery on two cores. A test holds this against umap-learn's own. McInnes, Healy, Melville, arXiv 1802.03426, 3.1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse  # type: ignore[import-untyped]

from attn_assets.discovery.neighbours import Neighbours

NUM_BISECTIONS = 64
TOLERANCE = 1e-5
LEAST_SCALE = 1e-3
"""A bandwidth is at least this part of the mean neighbour distance."""
F64 = npt.NDArray[np.float64]


def fuzzy_graph(near: Neighbours) -> sparse.coo_matrix:
    """Symmetric float32 [s, s]: how surely two rows are neighbours, from each row's k nearest (itself among them)."""
    size, k = near.index.shape
    distance = near.distance.astype(np.float64)
    rho, sigma = bandwidths(distance)
    # A row no farther than the nearest counts as a neighbour for sure.
    excess = np.maximum(distance - rho[:, None], 0.0)
    weight = np.exp(-excess / np.maximum(sigma, 1e-300)[:, None])
    weight[near.index == np.arange(size)[:, None]] = 0.0
    rows = np.repeat(np.arange(size), k)
    directed = sparse.csr_matrix((weight.ravel().astype(np.float32), (rows, near.index.ravel())), shape=(size, size))
    directed.eliminate_zeros()
    reverse = directed.T.tocsr()
    # The probabilistic union: an edge holds if either end holds it.
    union = directed + reverse - directed.multiply(reverse)
    union.eliminate_zeros()
    return union.tocoo()


def bandwidths(distance: F64) -> tuple[F64, F64]:
    """rho [s], the distance to the nearest other row, and sigma [s], so that the weights of a row sum to log2 k.

    `distance` is [s, k], ascending, the row itself first.
    """
    target = np.log2(distance.shape[1])
    positive = np.where(distance > 0, distance, np.inf).min(axis=1)
    rho = np.where(np.isfinite(positive), positive, 0.0)
    excess = np.maximum(distance[:, 1:] - rho[:, None], 0.0)
    low, high = np.zeros(len(distance)), np.full(len(distance), np.inf)
    sigma = np.ones(len(distance))
    for _ in range(NUM_BISECTIONS):
        total = np.exp(-excess / np.maximum(sigma, 1e-300)[:, None]).sum(axis=1)
        settled = np.abs(total - target) < TOLERANCE
        if settled.all():
            break
        above = total > target
        high = np.where(above & ~settled, sigma, high)
        low = np.where(~above & ~settled, sigma, low)
        middle = np.where(np.isinf(high), 2.0 * sigma, (low + np.where(np.isinf(high), 0.0, high)) / 2.0)
        sigma = np.where(settled, sigma, middle)
    own, overall = distance.mean(axis=1), distance.mean()
    return rho, np.maximum(sigma, LEAST_SCALE * np.where(rho > 0, own, overall))
