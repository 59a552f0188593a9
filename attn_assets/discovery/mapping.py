"""The map: UMAP on a sample, the other rows placed against it.

The sample is bounded, so time and memory are; the rest is placed in batches by a weighted mean of where its neighbours
in the sample lie. UMAP: McInnes, Healy, Melville, arXiv 1802.03426.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.fuzzy_graph import fuzzy_graph
from attn_assets.discovery.layout import lay_out
from attn_assets.discovery.neighbours import Frame, Neighbours

NUM_NEIGHBOURS = 15
MIN_DIST = 0.1
NUM_EPOCHS = 200
"""umap-learn takes 500 below 10,000 rows: twice the time for the same trustworthiness (docs/decisions/0004)."""
PLACE_NEIGHBOURS = 5
"""Neighbours that place a row that was not in the sample."""
MIN_UMAP_ROWS = 20
"""With fewer rows a neighbourhood graph says nothing: the two principal axes are drawn instead."""
F32 = npt.NDArray[np.float32]


def fit_map(frame: Frame, *, seed: int, init: F32 | None = None, num_axes: int = 2, min_dist: float = MIN_DIST) -> F32:
    """Map positions of the frame's rows: float32 [s, num_axes]. The same input and seed give the same bytes.

    `init` [s, num_axes] starts the layout somewhere else than on the principal axes (the map of an earlier hour).
    """
    features = frame.features
    start = principal_axes(features, num_axes=num_axes) if init is None else init
    if len(features) < MIN_UMAP_ROWS or np.ptp(start[:, 0]) == 0.0:
        return start
    flat = np.ptp(start, axis=0) == 0.0
    if flat.any():
        # Rows on a line: nothing would ever push them off it.
        start = start.copy()
        start[:, flat] = np.random.default_rng(seed).normal(size=(len(start), int(flat.sum())))
    graph = fuzzy_graph(frame.nearest(features, k=NUM_NEIGHBOURS))
    if init is None:
        start = 10.0 * (start - start.min(axis=0)) / np.ptp(start, axis=0)
    return lay_out(graph, start, num_epochs=NUM_EPOCHS, min_dist=min_dist, seed=seed)


def place(frame: Frame, frame_map: F32, queries: F32) -> F32:
    """Map positions float32 [m, 2] of rows outside the sample, from those of the sample: `frame_map` [s, 2].

    Weights fall off with distance as in UMAP's own graph: exp(-(d - d_1) / s), s the mean excess over the nearest.
    """
    return _weighted(frame.nearest(queries, k=PLACE_NEIGHBOURS), frame_map)


def _weighted(near: Neighbours, frame_map: F32) -> F32:
    excess = (near.distance - near.distance[:, :1]).astype(np.float64)
    scale = np.maximum(excess.mean(axis=1, keepdims=True), 1e-12)
    weight = np.exp(-excess / scale)
    weight /= weight.sum(axis=1, keepdims=True)
    position: F32 = np.einsum("mk,mkc->mc", weight, frame_map[near.index]).astype(np.float32)
    return position


def principal_axes(features: F32, *, num_axes: int = 2) -> F32:
    """The first principal components, scaled to a half-width of 10: float32 [s, num_axes].

    Each axis points to where its largest loading is positive, so that runs on similar data agree on left and right.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :num_axes]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(num_axes)])
    position = centred @ axes
    widest = np.abs(position).max(initial=0.0)
    scaled: F32 = (position * (10.0 / max(widest, 1e-12))).astype(np.float32)
    return scaled
