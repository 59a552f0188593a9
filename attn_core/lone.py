"""One vector at a time: the same answers as `attn_core.classify`, without NumPy's cost of a hundred small calls.

`Classifier.classify` spends some 300 us on a single row, nearly all of it on the calls themselves. Plain arithmetic on
floats takes a tenth of that, so a lone question can be answered where it arrives. The definition stays in
`attn_core.sinkfree`, `attn_core.zones` and `attn_core.classify`; tests/core/test_lone.py holds the two together.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import ceil, exp, isfinite, log, sqrt
from operator import mul

import numpy as np
import numpy.typing as npt

from attn_core.classify import NO_CLUSTER, Classifier
from attn_core.features import NUM_FEATURES
from attn_core.fingerprint import DIM, ENTROPY, HISTOGRAM, HISTOGRAM_EDGES, LAYER_ENTROPY, LOCAL_END, MASSES, MID_END
from attn_core.fingerprint import SINK_POSITIONS as SINK
from attn_core.fingerprint import SUM_TOLERANCE as TOLERANCE
from attn_core.zone_scorer import LENGTH_SCALE
from attn_core.zones import _MAX_LIFT, _TEMPERATURE, _TYPICAL, ZONES

_TINY = 1e-6
_FLOATS = struct.Struct(f"<{DIM}f")
_MASS_EDGES = (0, LOCAL_END, MID_END)
_EULER = 0.5772156649
_PERIODS = ((0.5, 0.2), (0.3, 0.3), (0.2, 0.45))
"""As in `attn_core.classify`: what the periodicity could be, with weights."""
Answer = tuple[int, float, int]
"""Index into `ZONES`, confidence, cluster id."""


def checked(vector: Sequence[float], context_len: int | None) -> tuple[float, ...] | None:
    """The vector as float32 holds it, or None where it is not surely a fingerprint: `why_invalid` then says why."""
    try:
        row = _FLOATS.unpack(_FLOATS.pack(*vector))
    except (struct.error, OverflowError):
        return None
    if not isfinite(sum(row)):
        return None
    masses, histogram = row[MASSES], row[HISTOGRAM]
    # A hair stricter than the definition, so that what lies on the border is decided in one place.
    within = 0.99 * TOLERANCE
    if abs(sum(masses) - 1) > within or abs(sum(histogram) - 1) > within:
        return None
    if min(masses) < 0 or min(histogram) < 0 or min(row[ENTROPY], *row[LAYER_ENTROPY]) < 0:
        return None
    limit = log(context_len) + within if context_len else float("inf")
    return row if max(row[ENTROPY], *row[LAYER_ENTROPY]) <= limit else None


class LoneClassifier:
    """Answers for one checked vector; immutable, as the classifier that it is made from."""

    def __init__(self, classifier: Classifier) -> None:
        arrays = classifier.arrays
        self.run_id = classifier.run_id
        self.num_prototypes = len(arrays.prototypes)
        self._prototypes = np.ascontiguousarray(arrays.prototypes)
        self._half_norms = 0.5 * (self._prototypes**2).sum(axis=1)
        self._start = arrays.prototype_start
        self._cluster_ids: list[int] = arrays.cluster_ids.tolist()
        self._radius: list[float] = arrays.cluster_radius.tolist()
        self._lift: list[list[float]] = arrays.cluster_zone_lift.tolist()
        self._claimed: tuple[list[float], list[float]] = tuple(arrays.claimed_curve.tolist())
        self._unclaimed: tuple[list[float], list[float]] = tuple(arrays.unclaimed_curve.tolist())
        self._scorer = classifier.scorer
        if classifier.scorer is not None:
            token = classifier.scorer.token
            self._by_feature = np.ascontiguousarray(token[:, :NUM_FEATURES])
            self._by_rest: list[list[float]] = token[:, NUM_FEATURES:].tolist()

    def classify(
        self, row: Sequence[float], *, context_len: int | None, sink_mass: float | None, periodicity: float | None
    ) -> Answer:
        """Zone, confidence and cluster of one `checked` vector; what is None is averaged over its plausible values."""
        if context_len is not None and sink_mass is not None and periodicity is not None:
            return self._answers(row, float(context_len), sink_mass, (periodicity,))[0]
        periods = [(1.0, periodicity)] if periodicity is not None else list(_PERIODS)
        found: list[tuple[float, Answer]] = []
        for weight, n, sink in _plausible(row, context_len, sink_mass):
            answers = self._answers(row, n, sink, [period for _, period in periods])
            found += [(weight * share, answer) for (share, _), answer in zip(periods, answers, strict=True)]
        zone_weight = [0.0] * len(ZONES)
        for weight, (zone, confidence, _) in found:
            zone_weight[zone] += weight * confidence
        best = zone_weight.index(max(zone_weight))
        agreeing = [weight if zone == best else 0.0 for weight, (zone, _, _) in found]
        return best, zone_weight[best], found[agreeing.index(max(agreeing))][1][2]

    def _answers(self, row: Sequence[float], n: float, sink_mass: float, periods: Sequence[float]) -> list[Answer]:
        """One answer for each of the periodicities, which only the zones depend on."""
        n, sink = max(n, 1.0), min(max(sink_mass, 0.0), 1.0)
        shares = _without_sink(row[MASSES], _MASS_EDGES, n, sink)
        evenness = _evenness(row[ENTROPY], n, sink)
        claim = None
        if self._cluster_ids or self._scorer is not None:
            features = _features(row, n, sink, shares, evenness)
            claim = self._nearest(features) if self._cluster_ids else None
            if self._scorer is not None:
                return [self._answer(own, claim) for own in self._calibrated(features, n, periods)]
        weights, top = _weights(shares, evenness, n)
        return [self._answer(_probabilities(weights, top, period), claim) for period in periods]

    def _calibrated(self, features: npt.NDArray[np.float32], n: float, periods: Sequence[float]) -> list[list[float]]:
        """The calibration's token head, for each of the periodicities."""
        if self._scorer is None:
            raise TypeError("this classifier has no calibration")
        length = log(min(max(n, self._scorer.shortest), self._scorer.longest) / LENGTH_SCALE)
        own = (self._by_feature @ features).tolist()
        found = []
        for period in periods:
            rest = (min(max(period, 0.0), 1.0), 1.0, length, length * length)
            scores = [score + sum(map(mul, weights, rest)) for score, weights in zip(own, self._by_rest, strict=True)]
            top = max(scores)
            raised = [exp(score - top) for score in scores]
            total = sum(raised)
            found.append([one / total for one in raised])
        return found

    def _nearest(self, features: npt.NDArray[np.float32]) -> tuple[int, float] | None:
        """The cluster (its place) that claims the vector and how deep inside it lies, 0..1; None where none does."""
        half = np.minimum.reduceat(self._half_norms - self._prototypes @ features, self._start)
        best = int(half.argmin())
        distance = sqrt(max(2.0 * (float(half[best]) + 0.5 * float(features @ features)), 0.0))
        radius = self._radius[best]
        return (best, 1.0 - distance / max(radius, 1e-9)) if distance <= radius else None

    def _answer(self, by_rules: list[float], claim: tuple[int, float] | None) -> Answer:
        if claim is None:
            score = max(by_rules)
            return by_rules.index(score), _interpolated(score, *self._unclaimed), NO_CLUSTER
        place, inside = claim
        joint = [max(p, 1e-6) * lift + 1e-12 for p, lift in zip(by_rules, self._lift[place], strict=True)]
        total = sum(joint)
        second, top = sorted(joint)[-2:]
        score = min(max(0.5 * (top - second) / total + 0.5 * inside, 0.0), 1.0)
        return joint.index(top), _interpolated(score, *self._claimed), self._cluster_ids[place]


def _features(
    row: Sequence[float], n: float, sink: float, shares: Sequence[float], evenness: float
) -> npt.NDArray[np.float32]:
    """As `attn_core.features`: [21]."""
    histogram = _without_sink(row[HISTOGRAM], HISTOGRAM_EDGES, n, sink)
    ln_n = max(log(n), _TINY)
    layers = [min(max(h / ln_n, 0.0), 1.0) if n > 1 else 0.0 for h in row[LAYER_ENTROPY]]
    roots = [sqrt(min(max(share, 0.0), 1.0)) for share in (*shares, *histogram)]
    return np.array([*roots, sqrt(sink), evenness, *layers], dtype=np.float32)


def _plausible(
    row: Sequence[float], context_len: int | None, sink_mass: float | None
) -> list[tuple[float, float, float]]:
    """(weight, context length, sink mass) of each assumption, as `attn_core.classify` makes them."""
    masses = row[MASSES]
    farthest = 2 if masses[2] > 1e-4 else 1 if masses[1] > 1e-4 else 0
    least = max(exp(max(row[ENTROPY], *row[LAYER_ENTROPY])), (5, 16, 128)[farthest])
    far_mass = masses[farthest]
    lengths = [float(context_len)] if context_len is not None else [float(ceil(least * k)) for k in (1.0, 3.0)]
    sinks = [(1.0, sink_mass)] if sink_mass is not None else [(0.6, 0.8 * far_mass), (0.4, 0.2 * far_mass)]
    return [(weight / len(lengths), n, sink) for n in lengths for weight, sink in sinks]


def _without_sink(masses: Sequence[float], edges: tuple[int, ...], n: float, sink: float) -> list[float]:
    rest = list(masses)
    remaining = sink
    for position in range(SINK):
        distance = n - 1 - position
        if distance < 0:
            break
        place = bisect_right(edges, distance) - 1
        take = min(remaining, rest[place])
        rest[place] -= take
        remaining -= take
    total = sum(rest)
    return [mass / total for mass in rest] if total > 1e-3 else [0.0] * len(rest)


def _evenness(entropy: float, n: float, sink: float) -> float:
    free = 1.0 - sink
    binary = -(sink * log(max(sink, _TINY)) + free * log(max(free, _TINY)))
    most = log(max(n - SINK, 1.0))
    if most <= 0:
        return 0.0
    return min(max((entropy - binary) / max(free, _TINY), 0.0), most) / max(most, _TINY)


def _weights(shares: Sequence[float], evenness: float, n: float) -> tuple[list[float], float]:
    """The zones' weights before they are made to sum to 1, and the score that weighs 1.

    The place of the zone that the periodicity decides is left at 0: `_probabilities` fills it in.
    """
    if sum(shares) > 0:
        lifts = [
            -_MAX_LIFT if usual is None else min(max(_logit(share) - usual, -_MAX_LIFT), _MAX_LIFT)
            for share, usual in zip(shares, _usual_logits(n), strict=True)
        ]
    else:
        lifts = [-_MAX_LIFT] * 3
    if _usual_logits(n)[1] is None:
        lifts[0] = 0.0
    (c0, c1, c2, c3, _), (s0, s1, s2, s3, _) = _TYPICAL.centre, _TYPICAL.spread
    even = (evenness - c3) / s3
    scores = (0.7 * (lifts[0] - c0) / s0 - 0.7 * even, (lifts[1] - c1) / s1, (lifts[2] - c2) / s2, even)
    top = max(scores)
    near, between, far, flat = (exp((score - top) / _TEMPERATURE) for score in scores)
    return [near, between, 0.0, far, flat], top


def _probabilities(weights: list[float], top: float, periodicity: float) -> list[float]:
    """What each zone has of the whole, once the periodicity has its weight too."""
    period = (min(max(periodicity, 0.0), 1.0) - _TYPICAL.centre[4]) / _TYPICAL.spread[4]
    near, between, _, far, flat = weights
    ripple = exp((period - top) / _TEMPERATURE)
    total = near + between + ripple + far + flat
    return [near / total, between / total, ripple / total, far / total, flat / total]


@lru_cache(maxsize=4096)
def _usual_logits(n: float) -> tuple[float | None, ...]:
    """Log-odds of the three shares that attention falling off as 1/(d + 1) has; None for one that n cannot hold."""
    reach = max(n - SINK, 1.0)
    total, local, mid = (log(k + 0.5) + _EULER for k in (reach, min(reach, 10.0), min(reach, 100.0)))
    shares = (local / total, (mid - local) / total, (total - mid) / total)
    return tuple(_logit(share) if share > 0 else None for share in shares)


def _logit(p: float) -> float:
    inside = 1e-3 if p < 1e-3 else 1 - 1e-3 if p > 1 - 1e-3 else p
    return log(inside / (1 - inside))


def _interpolated(x: float, xs: list[float], ys: list[float]) -> float:
    """As `np.interp`: the ends hold beyond them."""
    right = bisect_right(xs, x)
    if right == 0:
        return ys[0]
    if right == len(xs):
        return ys[-1]
    left = right - 1
    return ys[left] + (ys[right] - ys[left]) * (x - xs[left]) / (xs[right] - xs[left])
