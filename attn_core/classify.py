"""The served classifier: arrays in, zone, confidence and cluster out.

The zone of a token is what `attn_core.zones` says of its attention, by the formula of its model; its confidence is the
chance that other heads of the model would have given the same zone. The cluster is that of the nearest prototype, if
that lies within the cluster's radius and stands for no unclaimed point; `cluster_confidence` is the chance, learned on
held-out points, that discovery itself put the point there. Neither changes the other. Fitting lives with discovery;
this module serves, and one vector is answered by the same compiled loop as a batch, with the same bytes.

A vector that comes without its companions (`context_len`, `sink_mass`, `periodicity`) is judged by the mean of its
evidence over their plausible values; the confidence falls by the share of these under which it had another zone.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from attn_core import row_loops
from attn_core.bundle import Bundle
from attn_core.errors import BundleError, CalibrationError
from attn_core.features import FEATURES_VERSION, NUM_FEATURES
from attn_core.fingerprint import DIM
from attn_core.zones import FILE_NAME as FORMULAS
from attn_core.zones import NUM_EVIDENCE, ZONES, ZoneFormula, ZoneFormulas

NO_CLUSTER = -1
UNPROVEN = 0.5
"""`cluster_confidence` where no held-out point could tell."""
_CHUNK_ROWS = 1024
"""Rows that a thread takes at a time."""
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
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
    """0..1, of the zone: [m]."""
    cluster_id: I32
    """Stable cluster id, -1 where no cluster claims the vector: [m]."""
    cluster_confidence: F32
    """0..1, of the cluster, or of there being none: [m]."""
    evidence: F32
    """[m, NUM_EVIDENCE] (`attn_core.zones`) where it was asked for, else [0, 0]."""

    def zones(self) -> list[str]:
        """The zone names, one a vector."""
        return [ZONES[i] for i in self.zone_index]

    def take(self, places: npt.NDArray[np.int64]) -> Classified:
        """The answers at these places, without their evidence."""
        return Classified(
            zone_index=self.zone_index[places],
            confidence=self.confidence[places],
            cluster_id=self.cluster_id[places],
            cluster_confidence=self.cluster_confidence[places],
            evidence=np.empty((0, 0), dtype=np.float32),
        )


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
    cluster_curve: F32
    """[2, k], depth inside a cluster (0 at its radius, 1 at a prototype), ascending, to `cluster_confidence`."""
    unclaimed_prototypes: F32 = field(default_factory=lambda: np.zeros((0, NUM_FEATURES), dtype=np.float32))
    """[q, 21], where points lie that no cluster claims."""
    unclaimed_confidence: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.float32(UNPROVEN) * np.ones(1, np.float32)
    )
    """[1], `cluster_confidence` of a point that no cluster claims."""

    def save(self, path: Path) -> None:
        """Write as npz; no object arrays, so nothing in it can run code."""
        np.savez(path, features_version=np.int32(FEATURES_VERSION), **vars(self))

    @classmethod
    def load(cls, path: Path) -> ClassifierArrays:
        """Read and check; raises `BundleError` where shapes, versions or values do not fit together."""
        try:
            with np.load(path, allow_pickle=False) as file:
                version = int(file["features_version"])
                arrays = cls(**{name: file[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise BundleError(
                f"{path.name} is not a classifier of this version: {error}; run discovery again"
            ) from error
        if version != FEATURES_VERSION:
            raise BundleError(f"{path.name} is of features version {version}; this version reads {FEATURES_VERSION}")
        arrays.check()
        return arrays

    def check(self) -> None:
        """Raise `BundleError` where the arrays contradict one another."""
        clusters, start = len(self.cluster_ids), self.prototype_start
        curve = self.cluster_curve
        wrong = [
            any(a.ndim != 2 or a.shape[1] != NUM_FEATURES for a in (self.prototypes, self.unclaimed_prototypes)),
            not (len(start) == len(self.cluster_radius) == clusters),
            clusters > 0 and (start[0] != 0 or bool((np.diff(start) <= 0).any()) or start[-1] >= len(self.prototypes)),
            not all(np.isfinite(a).all() for a in (self.prototypes, self.unclaimed_prototypes, self.cluster_radius)),
            curve.ndim != 2
            or curve.shape[0] != 2
            or curve.shape[1] < 1
            or not np.isfinite(curve).all()
            or bool((np.diff(curve[0]) < 0).any())
            or not ((curve[1] >= 0) & (curve[1] <= 1)).all(),
            self.unclaimed_confidence.shape != (1,) or not 0 <= float(self.unclaimed_confidence[0]) <= 1,
        ]
        if any(wrong):
            raise BundleError(
                f"the classifier's arrays contradict one another (checks failed: {np.flatnonzero(wrong)})"
            )


def no_clusters() -> ClassifierArrays:
    """A classifier that claims nothing: the zone alone."""
    return ClassifierArrays(
        prototypes=np.zeros((0, NUM_FEATURES), dtype=np.float32),
        prototype_start=np.zeros(0, dtype=np.int32),
        cluster_ids=np.zeros(0, dtype=np.int32),
        cluster_radius=np.zeros(0, dtype=np.float32),
        cluster_curve=np.array([[0.0, 1.0], [UNPROVEN, UNPROVEN]], dtype=np.float32),
    )


class Classifier:
    """Classifies fingerprints with one run's arrays. Immutable, so it may be swapped between two requests."""

    def __init__(self, arrays: ClassifierArrays, *, run_id: str | None, formulas: ZoneFormulas | None = None) -> None:
        self.arrays = arrays
        self.run_id = run_id
        self.formulas = formulas or ZoneFormulas.shipped()
        """The models' zone formulas; None: the one that comes with the package."""
        self._clusters = _for_loops(arrays)

    @classmethod
    def without_run(cls) -> Classifier:
        """The classifier before the first discovery run."""
        return cls(no_clusters(), run_id=None)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Classifier:
        """The classifier of a verified bundle; raises `BundleError`."""
        arrays = ClassifierArrays.load(bundle.path / "classifier.npz")
        try:
            formulas = ZoneFormulas.load(bundle.path / FORMULAS)
        except CalibrationError as error:
            raise BundleError(str(error)) from error
        return cls(arrays, run_id=bundle.run_id, formulas=formulas)

    def formula_of(self, model_id: str | None) -> ZoneFormula:
        """The formula for tokens of this model."""
        return self.formulas.of(model_id)

    def classify(
        self,
        vectors: npt.NDArray[np.floating],
        *,
        context_len: npt.NDArray[np.integer] | F64 | None = None,
        sink_mass: npt.NDArray[np.floating] | None = None,
        periodicity: npt.NDArray[np.floating] | None = None,
        zone_evidence: npt.NDArray[np.floating] | None = None,
        model_id: str | None = None,
        threads: int = 1,
        with_evidence: bool = False,
    ) -> Classified:
        """Zone, cluster and how sure either is, of float [m, 20] of one model (None: not known).

        Companions are arrays [m], or None where none is known; single ones are unknown where the context length is
        below 1, the sink mass or the periodicity NaN. `zone_evidence` is [m, 5], relative to the length. `threads`
        share the rows; the answers are the same for any number of them.
        """
        rows = row_loops.writable(vectors, np.float32).reshape(-1, DIM)
        m = len(rows)
        found = Classified(
            zone_index=np.empty(m, dtype=np.int8),
            confidence=np.empty(m, dtype=np.float32),
            cluster_id=np.empty(m, dtype=np.int32),
            cluster_confidence=np.empty(m, dtype=np.float32),
            evidence=np.empty((m, NUM_EVIDENCE) if with_evidence else (0, 0), dtype=np.float32),
        )
        given = (
            self.formula_of(model_id).numbers,
            self._clusters,
            rows,
            _column(context_len, m, missing=0.0),
            _column(sink_mass, m, missing=np.nan),
            _column(periodicity, m, missing=np.nan),
            _NO_HEADS if zone_evidence is None else row_loops.writable(zone_evidence, np.float32),
        )
        answers = tuple(vars(found).values())

        def answer(first: int, last: int) -> None:
            row_loops.classify_rows(*given, first, last, *answers)

        if threads == 1 or m < 2 * _CHUNK_ROWS:
            answer(0, m)
            return found
        chunks = -(-m // _CHUNK_ROWS)
        ends = [min(chunks * k // threads * _CHUNK_ROWS, m) for k in range(threads + 1)]
        with ThreadPoolExecutor(threads, thread_name_prefix="classify") as pool:
            for done in [pool.submit(answer, a, b) for a, b in pairwise(ends)]:
                done.result()
        return found


_NO_HEADS = np.zeros((1, len(ZONES)), dtype=np.float32)


def _column(values: npt.NDArray[np.generic] | None, m: int, *, missing: float) -> F64:
    return np.full(m, missing) if values is None else row_loops.writable(values, np.float64)


def _for_loops(arrays: ClassifierArrays) -> row_loops.Clusters:
    points = np.concatenate([arrays.prototypes, arrays.unclaimed_prototypes]).astype(np.float32)
    counts = np.diff(arrays.prototype_start, append=len(arrays.prototypes))
    of_cluster = np.repeat(np.arange(len(arrays.cluster_ids), dtype=np.int32), counts)
    none = np.full(len(arrays.unclaimed_prototypes), NO_CLUSTER, dtype=np.int32)
    order = np.concatenate(_tiles(points, np.arange(len(points)))) if len(points) else np.zeros(0, dtype=np.int64)
    points, cluster = points[order], np.concatenate([of_cluster, none])[order]
    tiles = -(-len(points) // row_loops.TILE)
    padded = np.zeros((tiles * row_loops.TILE, NUM_FEATURES), dtype=np.float32)
    padded[: len(points)] = points
    half_norm = np.full(len(padded), np.inf, dtype=np.float32)
    half_norm[: len(points)] = 0.5 * (points**2).sum(axis=1)
    parts = [points[k : k + row_loops.TILE] for k in range(0, len(points), row_loops.TILE)]
    centre = np.array([part.mean(axis=0) for part in parts], dtype=np.float32).reshape(tiles, NUM_FEATURES)
    reach = [np.linalg.norm(part - middle, axis=1).max() for part, middle in zip(parts, centre, strict=True)]
    depth, chance = np.asarray(arrays.cluster_curve, dtype=np.float64)
    return row_loops.Clusters(
        columns=np.ascontiguousarray(padded.reshape(tiles, row_loops.TILE, NUM_FEATURES).transpose(0, 2, 1)),
        half_norm=half_norm.reshape(tiles, row_loops.TILE),
        centre=centre,
        reach=np.array(reach, dtype=np.float32),
        rows=np.ascontiguousarray(points),
        cluster=cluster,
        radius=np.ascontiguousarray(arrays.cluster_radius, dtype=np.float32),
        ids=np.ascontiguousarray(arrays.cluster_ids, dtype=np.int32),
        depth=np.ascontiguousarray(depth),
        chance=np.ascontiguousarray(chance),
        unclaimed_chance=float(arrays.unclaimed_confidence[0]),
    )


def _tiles(points: F32, index: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """`index` in parts of at most a tile, points that lie near one another together: halved along the widest side."""
    if len(index) <= row_loops.TILE:
        return [index]
    widest = int(np.ptp(points[index], axis=0).argmax())
    half = -(-len(index) // (2 * row_loops.TILE)) * row_loops.TILE
    order = np.argsort(points[index, widest], kind="stable")
    return [*_tiles(points, index[order[:half]]), *_tiles(points, index[order[half:]])]
