"""The served classifier: arrays in, zone, confidence and cluster out.

A point belongs to the cluster of its nearest prototype, if that lies within the cluster's radius; its zone is then
weighed by the cluster's. A point that no cluster claims (`cluster_id` -1) has its zone scored alone: by the model's
calibration (`attn_core.zone_scorer`, its token head) where the bundle holds one, else by the rules of
`attn_core.zones`. The raw score of either way is mapped to a confidence by a curve learned on held-out points: among
answers near 0.8 about 80% agree with the offline label. Fitting lives with discovery; this module serves.

A vector that comes without its companions (`context_len`, `sink_mass`, `periodicity`) is classified under several
plausible values of them, and the answers averaged: the confidence falls by as much as the unknown matters.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from attn_core.bundle import Bundle
from attn_core.errors import BundleError, CalibrationError
from attn_core.features import FEATURES_VERSION, NUM_FEATURES, features_from_sink_free
from attn_core.fingerprint import ENTROPY, LAYER_ENTROPY, MASSES
from attn_core.sinkfree import sink_free
from attn_core.zone_scorer import FILE_NAME as CALIBRATION
from attn_core.zone_scorer import ZoneScorer
from attn_core.zones import ZONES, weigh_with_cluster, zone_probabilities_from_sink_free

NO_CLUSTER = -1
RULES_CONFIDENCE_CAP = 0.6
"""Before any calibration the rules' own probability is scaled to at most this: unproven, and saying so."""
_CHUNK_ROWS = 1024
"""Rows worked through together: what they take stays in a core's own cache."""
_DISTANCE_ROWS = 64
"""Rows whose distances to all prototypes, 2,048 of them, stay there too (measured: 64 in 1.8 us a row, 1,024 in 3)."""
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


def cluster_label(cluster_id: int) -> str:
    """The name a person sees: ``Cluster 3``, or ``Unclustered`` for -1."""
    return "Unclustered" if cluster_id == NO_CLUSTER else f"Cluster {cluster_id}"


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Answers for m vectors."""

    zone_index: npt.NDArray[np.int8]
    """Index into `attn_core.zones.ZONES`: [m]."""
    confidence: F32
    """0..1: [m]."""
    cluster_id: I32
    """Stable cluster id, -1 where no cluster claims the vector: [m]."""

    def zones(self) -> list[str]:
        """The zone names, one a vector."""
        return [ZONES[i] for i in self.zone_index]


@dataclass(frozen=True, kw_only=True)
class ClassifierArrays:
    """What ``classifier.npz`` holds: p prototypes of c clusters in the feature space, grouped by cluster."""

    prototypes: F32
    """[p, 21], rows of one cluster together."""
    prototype_start: I32
    """[c], first prototype of each cluster, ascending from 0."""
    cluster_ids: I32
    """[c], stable ids, at least 0."""
    cluster_radius: F32
    """[c], a point farther than this from every prototype of the cluster is not claimed by it."""
    cluster_zone_lift: F32
    """[c, 5], how much more its members are of each zone than all tokens are (`zones.weigh_with_cluster`)."""
    claimed_curve: F32
    """[2, k], raw score (ascending) to confidence for claimed points."""
    unclaimed_curve: F32
    """[2, k], the same for points that no cluster claims."""

    def save(self, path: Path) -> None:
        """Write as npz; no object arrays, so nothing in it can run code."""
        np.savez(path, features_version=np.int32(FEATURES_VERSION), zones=json.dumps(ZONES), **vars(self))

    @classmethod
    def load(cls, path: Path) -> ClassifierArrays:
        """Read and check; raises `BundleError` where shapes, versions or values do not fit together."""
        try:
            with np.load(path, allow_pickle=False) as file:
                version, zones = int(file["features_version"]), json.loads(str(file["zones"]))
                arrays = cls(**{name: file[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise BundleError(f"{path.name} is not a classifier: {error}") from error
        if version != FEATURES_VERSION or tuple(zones) != ZONES:
            raise BundleError(f"{path.name} is of features version {version}; this version reads {FEATURES_VERSION}")
        arrays.check()
        return arrays

    def check(self) -> None:
        """Raise `BundleError` where the arrays contradict one another."""
        clusters, start = len(self.cluster_ids), self.prototype_start
        wrong = [
            self.prototypes.ndim != 2 or self.prototypes.shape[1] != NUM_FEATURES,
            not (len(start) == len(self.cluster_radius) == clusters),
            self.cluster_zone_lift.shape != (clusters, len(ZONES)),
            clusters > 0 and (start[0] != 0 or bool((np.diff(start) <= 0).any()) or start[-1] >= len(self.prototypes)),
            not np.isfinite(self.prototypes).all() or not np.isfinite(self.cluster_radius).all(),
            not (np.isfinite(self.cluster_zone_lift) & (self.cluster_zone_lift >= 0)).all(),
            any(curve.ndim != 2 or curve.shape[0] != 2 for curve in (self.claimed_curve, self.unclaimed_curve)),
        ]
        if any(wrong):
            raise BundleError(
                f"the classifier's arrays contradict one another (checks failed: {np.flatnonzero(wrong)})"
            )


def no_clusters() -> ClassifierArrays:
    """A classifier that claims nothing: the zone rules alone, with their cautious confidence."""
    cautious = np.array([[0.0, 1.0], [0.0, RULES_CONFIDENCE_CAP]], dtype=np.float32)
    return ClassifierArrays(
        prototypes=np.zeros((0, NUM_FEATURES), dtype=np.float32),
        prototype_start=np.zeros(0, dtype=np.int32),
        cluster_ids=np.zeros(0, dtype=np.int32),
        cluster_radius=np.zeros(0, dtype=np.float32),
        cluster_zone_lift=np.zeros((0, len(ZONES)), dtype=np.float32),
        claimed_curve=cautious,
        unclaimed_curve=cautious,
    )


@dataclass(frozen=True, kw_only=True)
class RawScores:
    """Answers before the confidence curves: what fitting needs to learn them."""

    zone_index: npt.NDArray[np.int8]
    cluster_id: I32
    score: F32
    """0..1, comparable only among claimed points or among unclaimed points."""


class Classifier:
    """Classifies fingerprints with one run's arrays. Immutable, so it may be swapped between two requests."""

    def __init__(self, arrays: ClassifierArrays, *, run_id: str | None, scorer: ZoneScorer | None = None) -> None:
        self.arrays = arrays
        self.run_id = run_id
        self.scorer = scorer
        """The model's zone calibration; None: the zones are those of the rules."""
        half_norms = 0.5 * (arrays.prototypes**2).sum(axis=1, keepdims=True)
        # With a feature of 1 added to each row, one matrix product gives |y|^2 / 2 - x.y for every prototype y.
        against = np.concatenate([-arrays.prototypes, half_norms], axis=1).astype(np.float32)
        self._against = np.ascontiguousarray(against.T)  # [22, p]
        counts = np.diff(arrays.prototype_start, append=len(arrays.prototypes))
        self._cluster_of = np.repeat(np.arange(len(counts)), counts)  # [p], index into `cluster_ids`

    @classmethod
    def rules(cls) -> Classifier:
        """The classifier before the first discovery run."""
        return cls(no_clusters(), run_id=None)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Classifier:
        """The classifier of a verified bundle; raises `BundleError`."""
        arrays = ClassifierArrays.load(bundle.path / "classifier.npz")
        calibration = bundle.path / CALIBRATION
        try:
            scorer = ZoneScorer.load(calibration) if calibration.exists() else None
        except CalibrationError as error:
            raise BundleError(str(error)) from error
        return cls(arrays, run_id=bundle.run_id, scorer=scorer)

    def classify(
        self,
        vectors: npt.NDArray[np.floating],
        *,
        context_len: npt.NDArray[np.integer] | None = None,
        sink_mass: npt.NDArray[np.floating] | None = None,
        periodicity: npt.NDArray[np.floating] | None = None,
        threads: int = 1,
    ) -> Classified:
        """Zone, confidence and cluster of float [m, 20]. Companions are arrays [m], or None where unknown.

        With all companions known, `threads` share the rows; the answers are the same for any number of them.
        """
        rows = np.asarray(vectors, dtype=np.float32)
        if context_len is not None and sink_mass is not None and periodicity is not None:
            raw = self.raw(rows, context_len=context_len, sink_mass=sink_mass, periodicity=periodicity, threads=threads)
            return Classified(zone_index=raw.zone_index, confidence=self._confidence(raw), cluster_id=raw.cluster_id)
        return self._average(rows, context_len=context_len, sink_mass=sink_mass, periodicity=periodicity)

    def raw(
        self,
        vectors: npt.NDArray[np.floating],
        *,
        context_len: npt.NDArray[np.integer],
        sink_mass: npt.NDArray[np.floating],
        periodicity: npt.NDArray[np.floating],
        threads: int = 1,
    ) -> RawScores:
        """Zone, cluster and uncalibrated score of float [m, 20] with all companions known, [m] each."""
        rows = np.asarray(vectors, dtype=np.float32)
        raw = RawScores(
            zone_index=np.empty(len(rows), dtype=np.int8),
            cluster_id=np.full(len(rows), NO_CLUSTER, dtype=np.int32),
            score=np.empty(len(rows), dtype=np.float32),
        )

        def answer(start: int, stop: int) -> None:
            # Kept from part to part: fresh memory would be faulted in each time.
            room = np.empty((_DISTANCE_ROWS, self._against.shape[1]), dtype=np.float32)
            for first in range(start, stop, _CHUNK_ROWS):
                part = slice(first, min(first + _CHUNK_ROWS, stop))
                free = sink_free(rows[part], context_len=context_len[part], sink_mass=sink_mass[part])
                features = features_from_sink_free(free) if len(self.arrays.cluster_ids) or self.scorer else None
                if self.scorer is not None and features is not None:
                    seen = self.scorer.inputs(features, context_len=free.context_len, periodicity=periodicity[part])
                    own = self.scorer.token_probabilities(seen)
                else:
                    own = zone_probabilities_from_sink_free(free, periodicity=periodicity[part])
                raw.zone_index[part] = own.argmax(axis=1)
                raw.score[part] = own.max(axis=1)
                if len(self.arrays.cluster_ids) and features is not None:
                    mine = (raw.zone_index[part], raw.score[part], raw.cluster_id[part])
                    self._claim(features, own, *mine, room=room)

        if threads == 1 or len(rows) < 2 * _CHUNK_ROWS:
            answer(0, len(rows))
            return raw
        # In whole chunks, so that a row's answer does not depend on the number of threads.
        chunks = -(-len(rows) // _CHUNK_ROWS)
        ends = [min(chunks * k // threads * _CHUNK_ROWS, len(rows)) for k in range(threads + 1)]
        with ThreadPoolExecutor(threads, thread_name_prefix="classify") as pool:
            for done in [pool.submit(answer, a, b) for a, b in pairwise(ends)]:
                done.result()
        return raw

    def _claim(
        self, features: F32, own: F32, zone_index: npt.NDArray[np.int8], score: F32, cluster_id: I32, *, room: F32
    ) -> None:
        """Overwrite, in place, the answers of the rows that a cluster claims; `room` is for `_nearest`."""
        arrays = self.arrays
        nearest = self._nearest(features, room=room)
        best = self._cluster_of[nearest]
        # From the difference itself: the products cancel where a point lies close to its prototype.
        first = np.linalg.norm(features - arrays.prototypes[nearest], axis=1)
        radius = arrays.cluster_radius[best]
        claimed = first <= radius
        chosen = best[claimed]
        weighed = weigh_with_cluster(own[claimed], arrays.cluster_zone_lift[chosen])
        zone_index[claimed] = weighed.argmax(axis=1)
        cluster_id[claimed] = arrays.cluster_ids[chosen]
        # Surest where the zone is clear and the point lies deep inside its cluster.
        second, top = np.partition(weighed, -2, axis=1)[:, -2:].T
        inside = 1.0 - first[claimed] / np.maximum(radius[claimed], 1e-9)
        score[claimed] = np.clip(0.5 * (top - second) + 0.5 * inside, 0.0, 1.0)

    def _nearest(self, features: F32, *, room: F32) -> npt.NDArray[np.intp]:
        """The nearest prototype of each row, [m]; `room` is float32 [_DISTANCE_ROWS, p]."""
        index = np.empty(len(features), dtype=np.intp)
        against_one = np.concatenate([features, np.ones((len(features), 1), dtype=np.float32)], axis=1)
        for start in range(0, len(features), _DISTANCE_ROWS):
            some = against_one[start : start + _DISTANCE_ROWS]
            # |x - y|^2 / 2 less |x|^2 / 2, which is the same for every prototype.
            half = np.matmul(some, self._against, out=room[: len(some)])
            half.argmin(axis=1, out=index[start : start + len(some)])
        return index

    def _confidence(self, raw: RawScores) -> F32:
        claimed = np.interp(raw.score, *self.arrays.claimed_curve)
        unclaimed = np.interp(raw.score, *self.arrays.unclaimed_curve)
        return np.where(raw.cluster_id == NO_CLUSTER, unclaimed, claimed).astype(np.float32)

    def _average(
        self,
        rows: F32,
        *,
        context_len: npt.NDArray[np.integer] | None,
        sink_mass: npt.NDArray[np.floating] | None,
        periodicity: npt.NDArray[np.floating] | None,
    ) -> Classified:
        every = np.arange(len(rows))
        options = _plausible(rows, context_len=context_len, sink_mass=sink_mass, periodicity=periodicity)
        # All assumptions of all rows in one call: for a lone vector the cost is that of NumPy's calls.
        raw = self.raw(
            np.tile(rows, (len(options), 1)),
            context_len=np.concatenate([option.context_len for option in options]),
            sink_mass=np.concatenate([option.sink_mass for option in options]),
            periodicity=np.concatenate([option.periodicity for option in options]),
        )
        shape = (len(options), len(rows))
        zones, clusters = raw.zone_index.reshape(shape), raw.cluster_id.reshape(shape)
        confidences = self._confidence(raw).reshape(shape)
        zone_weight = np.zeros((len(rows), len(ZONES)), dtype=np.float64)
        for option, zone, confidence in zip(options, zones, confidences, strict=True):
            zone_weight[every, zone] += option.weight * confidence
        zone_index = zone_weight.argmax(axis=1).astype(np.int8)
        # The cluster is that of the weightiest assumption that agrees with the zone.
        weights = np.array([option.weight for option in options])[:, None]
        best = np.where(zones == zone_index, weights, 0.0).argmax(axis=0)
        cluster_id = clusters[best, every]
        averaged = zone_weight[every, zone_index].astype(np.float32)
        return Classified(zone_index=zone_index, confidence=averaged, cluster_id=cluster_id)


@dataclass(frozen=True, kw_only=True)
class _Assumed:
    weight: float
    context_len: npt.NDArray[np.integer]
    sink_mass: npt.NDArray[np.floating]
    periodicity: npt.NDArray[np.floating]


def _plausible(
    rows: F32,
    *,
    context_len: npt.NDArray[np.integer] | None,
    sink_mass: npt.NDArray[np.floating] | None,
    periodicity: npt.NDArray[np.floating] | None,
) -> list[_Assumed]:
    """Values that the missing companions could have, with weights that sum to 1.

    The context must be long enough for the vector's entropies (n >= e^H) and for the farthest distance class that holds
    mass; the sink can hold at most the mass of that class, which is where position 0 lies.
    """
    least = np.exp(np.maximum(rows[:, ENTROPY], rows[:, LAYER_ENTROPY].max(axis=1)))
    masses = rows[:, MASSES]
    farthest = np.where(masses[:, 2] > 1e-4, 2, np.where(masses[:, 1] > 1e-4, 1, 0))
    least = np.maximum(least, np.array([5, 16, 128])[farthest])
    far_mass = masses[np.arange(len(rows)), farthest].astype(np.float64)
    options = [_Assumed(weight=1.0, context_len=np.zeros(0, np.int64), sink_mass=far_mass, periodicity=far_mass)]
    lengths = [context_len] if context_len is not None else [np.ceil(least * k).astype(np.int64) for k in (1.0, 3.0)]
    options = [replace(o, weight=o.weight / len(lengths), context_len=n) for o in options for n in lengths]
    sinks = [(1.0, sink_mass)] if sink_mass is not None else [(0.6, 0.8 * far_mass), (0.4, 0.2 * far_mass)]
    options = [replace(o, weight=o.weight * w, sink_mass=s) for o in options for w, s in sinks]
    if periodicity is not None:
        periods: list[tuple[float, npt.NDArray[np.floating]]] = [(1.0, periodicity)]
    else:
        periods = [(w, np.full(len(rows), value)) for w, value in ((0.5, 0.2), (0.3, 0.3), (0.2, 0.45))]
    return [replace(o, weight=o.weight * w, periodicity=p) for o in options for w, p in periods]
