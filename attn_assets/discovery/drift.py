"""How far the newest hour of a window has left the hours before it, each figure beside what chance alone would give.

| figure   | meaning                                                                                              |
|----------|------------------------------------------------------------------------------------------------------|
| distance | sliced Wasserstein-1 between the two sets of features, in standard deviations of both together       |
| zones    | population stability index of the five zones: sum of (p - q) ln (p / q)                              |
| clusters | the same of the clusters, the rows of none among them                                                |
| outliers | share of the hour's rows in no cluster, less that share before                                       |

Chance: which requests came in the newest hour is drawn again and again (a permutation test). Requests move as a whole,
because tokens of one request resemble one another: a test that moved tokens would call any hour a change. Sliced
Wasserstein: Bonneel et al. 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.sample import sample_rows
from attn_core.store import HOUR_US

NUM_DIRECTIONS = 32
NUM_BINS = 32
NUM_DRAWS = 199
HIGH = 0.99
"""A figure above this quantile of its draws has changed: one hour in a hundred does without cause."""
MIN_REQUESTS = 3
"""On each side; with fewer nothing can be said."""
MAX_ROWS = 120_000
"""Of more rows a seeded sample is taken, with as large a part of either side: draws mix the two."""
MAX_UNITS = 64
"""Requests of the newest hour are dealt into at most so many groups that move as one, the others alike."""
_MIN_COUNT = 0.5
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure of the newest hour, and what it is when the hours are drawn at random."""

    value: float
    typical: float
    """Median of the draws."""
    high: float
    """`HIGH` quantile of the draws."""

    @property
    def beyond_chance(self) -> bool:
        """Whether chance would rarely give as much."""
        return self.value > self.high


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The newest hour against the hours before it."""

    distance: Change
    zones: Change
    clusters: Change
    outliers: Change
    outlier_share: float
    num_requests: int
    """Of the newest hour."""

    def figures(self) -> dict[str, float | int]:
        """For the run's metrics: each value with its typical and high one, and whether anything is beyond chance."""
        made: dict[str, float | int] = {"drift_num_requests": self.num_requests, "outlier_share": self.outlier_share}
        for name in ("distance", "zones", "clusters", "outliers"):
            change: Change = getattr(self, name)
            made |= {
                f"drift_{name}": change.value,
                f"drift_{name}_typical": change.typical,
                f"drift_{name}_high": change.high,
            }
        return made


def drift_of(
    features: F32,
    *,
    zone_index: npt.NDArray[np.integer],
    cluster_ids: I32,
    request_no: npt.NDArray[np.integer],
    captured_at_us: I64,
    end_us: int,
    seed: int,
) -> Drift | None:
    """The last hour before `end_us` against the rest; None where one of them has fewer than `MIN_REQUESTS` requests.

    `features` [m, d]; `zone_index`, `cluster_ids` (-1 for none), `request_no` (0..r-1) and `captured_at_us` are [m]. A
    request counts where its newest row does.
    """
    num_requests = int(request_no.max(initial=-1)) + 1
    newest = np.full(num_requests, np.iinfo(np.int64).min)
    np.maximum.at(newest, request_no, captured_at_us)
    is_new = newest >= end_us - HOUR_US
    if min(is_new.sum(), (~is_new).sum()) < MIN_REQUESTS:
        return None
    rows = sample_rows(len(request_no), size=MAX_ROWS, seed=seed)
    all_units, num_new = _units(is_new, seed=seed)
    unit = all_units[request_no[rows]]
    rng = np.random.default_rng(seed)
    clusters = np.unique(cluster_ids[rows], return_inverse=True)[1]
    histograms, step = _projected(features[rows].astype(np.float64), rng=rng)
    num_units = int(all_units.max()) + 1
    counted = [
        _counts(unit, columns, num_units=num_units, num_columns=width)
        for columns, width in (
            (histograms, NUM_DIRECTIONS * NUM_BINS),
            (zone_index[rows][:, None], int(zone_index.max()) + 1),
            (clusters[:, None], int(clusters.max()) + 1),
            ((cluster_ids[rows] < 0).astype(np.int64)[:, None], 2),
        )
    ]
    drawn = np.zeros((NUM_DRAWS + 1, num_units))
    drawn[0, :num_new] = 1.0
    for draw in drawn[1:]:
        draw[rng.permutation(num_units)[:num_new]] = 1.0
    sliced, zones, found, outliers = (_Sides(drawn @ counts, (1.0 - drawn) @ counts) for counts in counted)
    return Drift(
        distance=_change(_sliced_distance(sliced, step)),
        zones=_change(_stability_index(zones)),
        clusters=_change(_stability_index(found)),
        outliers=_change(_shares(outliers.new)[:, 1] - _shares(outliers.old)[:, 1]),
        outlier_share=float(_shares(outliers.new)[0, 1]),
        num_requests=int(is_new.sum()),
    )


@dataclass(frozen=True)
class _Sides:
    """Counts of each draw, [draws, columns]; the first draw is what was."""

    new: F64
    old: F64


def _units(is_new: npt.NDArray[np.bool_], *, seed: int) -> tuple[I64, int]:
    """Each request's group, those of the newest hour first, and how many they are: about equally large groups."""
    unit = np.zeros(len(is_new), dtype=np.int64)
    num_new = min(int(is_new.sum()), MAX_UNITS)
    num_old = min(int((~is_new).sum()), max(1, round(num_new * (~is_new).sum() / is_new.sum())))
    rng = np.random.default_rng(seed)
    for side, first, count in ((is_new, 0, num_new), (~is_new, num_new, num_old)):
        unit[side] = first + rng.permutation(int(side.sum())) % count
    return unit, num_new


def _projected(features: F64, *, rng: np.random.Generator) -> tuple[I64, F64]:
    """Each row's bin in each of the histograms, [m, directions], and the bins' widths, [directions, bins - 1].

    Widths are in standard deviations of a projection, and edges are quantiles: each bin holds as many rows.
    """
    directions = rng.normal(size=(features.shape[1], NUM_DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    along = features @ directions
    edges = np.quantile(along, np.linspace(0, 1, NUM_BINS + 1), axis=0)  # [bins + 1, directions]
    bins = np.empty(along.shape, dtype=np.int64)
    for k in range(NUM_DIRECTIONS):
        bins[:, k] = k * NUM_BINS + np.searchsorted(edges[1:-1, k], along[:, k], side="right")
    # The distribution functions are compared at inner edges, each standing for half a bin to each side.
    middles = (edges[1:] + edges[:-1]) / 2
    spread = max(float(np.sqrt(along.var(axis=0).mean())), 1e-12)
    return bins, np.diff(middles, axis=0).T / spread


def _counts(unit: I64, columns: npt.NDArray[np.integer], *, num_units: int, num_columns: int) -> F64:
    flat = (unit[:, None] * num_columns + columns).ravel()
    counts = np.bincount(flat, minlength=num_units * num_columns)
    return counts.reshape(num_units, num_columns).astype(np.float64)


def _shares(counts: F64) -> F64:
    shares: F64 = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1.0)
    return shares


def _sliced_distance(sides: _Sides, step: F64) -> F64:
    def below(counts: F64) -> F64:
        shares = counts.reshape(len(counts), NUM_DIRECTIONS, NUM_BINS)
        return np.cumsum(_shares(shares), axis=2)[:, :, :-1]

    distance: F64 = (np.abs(below(sides.new) - below(sides.old)) * step).sum(axis=2).mean(axis=1)
    return distance


def _stability_index(sides: _Sides) -> F64:
    p, q = ((one + _MIN_COUNT) / (one + _MIN_COUNT).sum(axis=1, keepdims=True) for one in (sides.new, sides.old))
    index: F64 = ((p - q) * np.log(p / q)).sum(axis=1)
    return index


def _change(draws: F64) -> Change:
    typical, high = np.quantile(draws[1:], (0.5, HIGH))
    return Change(value=float(draws[0]), typical=float(typical), high=float(high))
