"""The map's frame of reference: an hour is drawn on the map of the hours before it, so that who looks again finds
things where they were.

Rows that the last map held begin where they lay, new ones among their neighbours. A short layout lets all of them
settle, a rigid motion takes out what moved as a whole, and no row goes farther than `MAX_STEP` of the map's width.
Where that costs too much of the map's quality, the frame is renewed (`renewal`): a whole layout, laid over the last map
as well as a rigid motion can. docs/decisions/0018-stable-map.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.fuzzy_graph import fuzzy_graph
from attn_assets.discovery.layout import lay_out
from attn_assets.discovery.mapping import MIN_DIST, MIN_UMAP_ROWS, NUM_NEIGHBOURS, place
from attn_assets.discovery.neighbours import Frame
from attn_core.errors import BundleError
from attn_core.features import FEATURES_VERSION, NUM_FEATURES
from attn_core.head_projection import NUM_SKETCH

FILE_NAME = "frame.npz"
AVERAGES = "averages"
SETTLING_EPOCHS = 60
SETTLING_STEP = 0.2
"""The first epoch's step; a map from nothing begins with 1."""
MAX_STEP = 0.035
"""The farthest that a row moves from one map to the next, in widths of the map."""
MAX_ANCHORS = 4_000
MIN_SHARED = 20
"""With fewer rows of the last map in this window they say little of its frame; then the anchors are asked."""
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """What a run leaves behind of its map for runs that share none of its rows: `frame.npz` of the bundle."""

    features: F32
    """[a, d], a sample of the rows that the map was fitted on, in its space."""
    rests_on: str
    """What that space is: the hash of a head projection's matrix, or `AVERAGES`."""
    positions: F32
    """[a, 2]"""
    since_us: int
    """The newest capture of the window for which the frame was made: the frame's name."""
    trustworthiness: float
    """The map's when its frame was made; NaN where there were too few rows to say."""

    def save(self, path: Path) -> None:
        """Write as npz; no object arrays, so nothing in it can run code."""
        np.savez(
            path,
            features_version=np.int32(FEATURES_VERSION),
            features=self.features,
            rests_on=np.array(self.rests_on),
            positions=self.positions,
            since_us=np.int64(self.since_us),
            trustworthiness=np.float64(self.trustworthiness),
        )

    @classmethod
    def load(cls, path: Path) -> Anchors:
        """Read and check; raises `BundleError` where its arrays do not fit together or are of other features."""
        try:
            with np.load(path, allow_pickle=False) as file:
                version, features, positions = int(file["features_version"]), file["features"], file["positions"]
                since_us, trust = int(file["since_us"]), float(file["trustworthiness"])
                rests_on = str(file["rests_on"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise BundleError(f"{path.name} holds no frame: {error}") from error
        count = len(features) if features.ndim else 0
        num_columns = NUM_FEATURES if rests_on == AVERAGES else NUM_SKETCH
        fits = features.shape == (count, num_columns) and positions.shape == (count, 2)
        if (
            version != FEATURES_VERSION
            or not fits
            or not (np.isfinite(features).all() and np.isfinite(positions).all())
        ):
            raise BundleError(f"{path.name}: its arrays do not fit together, or are of another features version")
        return cls(
            features=features.astype(np.float32),
            rests_on=rests_on,
            positions=positions.astype(np.float32),
            since_us=since_us,
            trustworthiness=trust,
        )


def started(search: Frame, known: F32) -> F32:
    """Where each row begins: rows of the last map where they lay, the others among their neighbours. [s, 2].

    `known` [s, 2] is NaN for rows that the last map did not hold; at least one must be known.
    """
    shared = np.isfinite(known[:, 0])
    start = known.copy()
    if not shared.all():
        start[~shared] = place(Frame(search.features[shared]), known[shared], search.features[~shared])
    return start


def settle(search: Frame, start: F32, *, seed: int) -> F32:
    """A short layout from where the rows are, with nothing held: float32 [s, 2].

    UMAP's own descent on UMAP's own graph, but from a smaller step and for fewer epochs than a map from nothing.
    """
    graph = fuzzy_graph(search.nearest(search.features, k=NUM_NEIGHBOURS))
    return lay_out(graph, start, num_epochs=SETTLING_EPOCHS, min_dist=MIN_DIST, seed=seed, first_step=SETTLING_STEP)


def follow(search: Frame, known: F32, *, seed: int, bounds: F32 | None = None) -> F32:
    """The map of these rows in the frame of the last one: float32 [s, 2]. `known` as in `started`.

    Rows whose `bounds` [s, 2] (by default `known`) is finite move no farther from there than `MAX_STEP`.
    """
    start = started(search, known)
    settled = settle(search, start, seed=seed) if len(start) >= MIN_UMAP_ROWS else start
    limit = MAX_STEP * width(known[np.isfinite(known[:, 0])])
    return within(laid_over(settled, known), known if bounds is None else bounds, limit=limit)


def laid_over(positions: F32, known: F32) -> F32:
    """The map turned, mirrored and shifted (never stretched) so that known rows come closest to where they lay.

    Orthogonal Procrustes (Schoenemann 1966) on the rows whose `known` is finite; without any, the map as it is.
    """
    shared = np.isfinite(known[:, 0])
    if not shared.any():
        return positions
    here, there = positions[shared].astype(np.float64), known[shared].astype(np.float64)
    turn, _, back = np.linalg.svd((here - here.mean(axis=0)).T @ (there - there.mean(axis=0)))
    moved: F32 = ((positions - here.mean(axis=0)) @ (turn @ back) + there.mean(axis=0)).astype(np.float32)
    return moved


def within(positions: F32, known: F32, *, limit: float) -> F32:
    """The positions with no known row farther than `limit` from where it lay: [m, 2]."""
    shared = np.isfinite(known[:, 0])
    step = positions[shared].astype(np.float64) - known[shared]
    length = np.linalg.norm(step, axis=1, keepdims=True)
    held = positions.copy()
    held[shared] = known[shared] + step * np.minimum(1.0, limit / np.maximum(length, 1e-30))
    return held


def width(positions: F32) -> float:
    """The longer side of the box around [m, 2]; 0 without rows."""
    return float(np.ptp(positions, axis=0).max()) if len(positions) else 0.0


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How far the rows of two maps moved from the one to the other, in widths of the first."""

    num_shared: int
    median: float
    p99: float
    largest: float

    def figures(self) -> dict[str, float | int]:
        """For the run's metrics."""
        return {
            "num_shared": self.num_shared,
            "moved_median": self.median,
            "moved_p99": self.p99,
            "moved_max": self.largest,
        }


def movement(positions: F32, known: F32) -> Moved:
    """From where rows lie, [m, 2], and where they lay (NaN for new ones)."""
    shared = np.isfinite(known[:, 0])
    span = width(known[shared])
    if not span > 0:
        return Moved(num_shared=int(shared.sum()), median=0.0, p99=0.0, largest=0.0)
    step = np.linalg.norm(positions[shared].astype(np.float64) - known[shared], axis=1) / span
    median, p99, largest = (float(value) for value in np.quantile(step, (0.5, 0.99, 1.0)))
    return Moved(num_shared=int(shared.sum()), median=median, p99=p99, largest=largest)
