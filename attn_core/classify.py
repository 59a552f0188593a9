"""The served classifier: arrays in, zone, confidence, cluster and place out.

The zone of a token is what `attn_core.zones` says of its attention, by the formula of its model; its confidence is the
chance that other heads of the model would have given the same zone. The cluster is the one that its nearest landmarks
vote for (`attn_core.landmarks`), in the run's space (`attn_core.space`): by its sketch where the map rests on sketches
of the same matrix, else by its averages; `cluster_confidence` is the chance, learned on landmarks whose own vote was
left out, that the vote is right. Neither changes the other. Discovery finds the clusters and fits the chances; all
rows, its own among them, are answered here, and one vector by the same compiled loop as a batch, with the same bytes.

A vector that comes without its companions (`context_len`, `sink_mass`, `periodicity`) is judged by the mean of its
evidence over their plausible values; the confidence falls by the share of these under which it had another zone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from attn_core import row_loops
from attn_core.bundle import Bundle
from attn_core.errors import BundleError, CalibrationError
from attn_core.features import FEATURES_VERSION, NUM_FEATURES, features_from_vectors
from attn_core.fingerprint import DIM
from attn_core.head_projection import NUM_SKETCH
from attn_core.landmarks import Landmarks
from attn_core.space import FILE_NAME as SPACE
from attn_core.space import Space
from attn_core.zones import FILE_NAME as FORMULAS
from attn_core.zones import NUM_EVIDENCE, ZONES, ZoneFormula, ZoneFormulas

NO_CLUSTER = -1
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
    position: F32
    """[m, 2], on the map (NaN where there is none), where it was asked for, else [0, 2]."""
    evidence: F32
    """[m, NUM_EVIDENCE] (`attn_core.zones`) where it was asked for, else [0, 0]."""

    def zones(self) -> list[str]:
        """The zone names, one a vector."""
        return [ZONES[i] for i in self.zone_index]

    def take(self, places: npt.NDArray[np.int64]) -> Classified:
        """The answers at these places, without their evidence and position."""
        return Classified(
            zone_index=self.zone_index[places],
            confidence=self.confidence[places],
            cluster_id=self.cluster_id[places],
            cluster_confidence=self.cluster_confidence[places],
            position=np.empty((0, 2), dtype=np.float32),
            evidence=np.empty((0, 0), dtype=np.float32),
        )


@dataclass(frozen=True, kw_only=True)
class ClassifierArrays:
    """What ``classifier.npz`` holds: the landmarks of c clusters."""

    cluster_ids: I32
    """[c], stable ids, at least 0."""
    averages: Landmarks = field(default_factory=lambda: Landmarks.none(NUM_FEATURES))
    """By what every token has."""
    sketch: Landmarks = field(default_factory=lambda: Landmarks.none(NUM_SKETCH))
    """By their sketches; none where the map rests on averages."""

    def save(self, path: Path) -> None:
        """Write as npz; no object arrays, so nothing in it can run code."""
        arrays = {f"{part}_{name}": one for part in _PARTS for name, one in vars(getattr(self, part)).items()}
        plain: dict[str, Any] = {name: one for name, one in arrays.items() if isinstance(one, np.ndarray)}
        np.savez(path, features_version=np.int32(FEATURES_VERSION), cluster_ids=self.cluster_ids, **plain)

    @classmethod
    def load(cls, path: Path) -> ClassifierArrays:
        """Read and check; raises `BundleError` where shapes, versions or values do not fit together."""
        try:
            with np.load(path, allow_pickle=False) as file:
                version, cluster_ids = int(file["features_version"]), file["cluster_ids"]
                if version == FEATURES_VERSION:
                    parts = {
                        part: Landmarks(**{name: file[f"{part}_{name}"] for name in Landmarks.__dataclass_fields__})
                        for part in _PARTS
                    }
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise BundleError(
                f"{path.name} is not a classifier of this version: {error}; run discovery again"
            ) from error
        if version != FEATURES_VERSION:
            raise BundleError(
                f"{path.name} is of features version {version}; this version reads {FEATURES_VERSION}: run discovery "
                "again"
            )
        arrays = cls(cluster_ids=cluster_ids, **parts)
        arrays.check()
        return arrays

    def check(self) -> None:
        """Raise `BundleError` where the arrays contradict one another."""
        ids = self.cluster_ids
        if ids.ndim != 1 or (len(ids) and int(ids.min()) < 0) or len(np.unique(ids)) != len(ids):
            raise BundleError("the classifier's cluster ids are not distinct whole numbers from 0")
        self.averages.check(num_columns=NUM_FEATURES, num_clusters=len(ids))
        self.sketch.check(num_columns=NUM_SKETCH, num_clusters=len(ids))


_PARTS = ("averages", "sketch")


def no_clusters() -> ClassifierArrays:
    """A classifier that claims nothing: the zone alone."""
    return ClassifierArrays(cluster_ids=np.zeros(0, dtype=np.int32))


class Classifier:
    """Classifies fingerprints with one run's arrays. Immutable, so it may be swapped between two requests."""

    def __init__(
        self,
        arrays: ClassifierArrays,
        *,
        run_id: str | None,
        formulas: ZoneFormulas | None = None,
        space: Space | None = None,
    ) -> None:
        self.arrays = arrays
        self.run_id = run_id
        self.formulas = formulas or ZoneFormulas.shipped()
        """The models' zone formulas; None: the one that comes with the package."""
        self.space = space or Space.plain()
        self._comparing: dict[int, row_loops.Comparing] = {}

    @classmethod
    def without_run(cls) -> Classifier:
        """The classifier before the first discovery run."""
        return cls(no_clusters(), run_id=None)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Classifier:
        """The classifier of a verified bundle; raises `BundleError`."""
        arrays = ClassifierArrays.load(bundle.path / "classifier.npz")
        space = Space.load(bundle.path / SPACE)
        try:
            formulas = ZoneFormulas.load(bundle.path / FORMULAS)
        except CalibrationError as error:
            raise BundleError(str(error)) from error
        return cls(arrays, run_id=bundle.run_id, formulas=formulas, space=space)

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
        head_sketch: npt.NDArray[np.floating] | None = None,
        zone_evidence: npt.NDArray[np.floating] | None = None,
        head_projection: str | None = None,
        model_id: str | None = None,
        threads: int = 1,
        with_evidence: bool = False,
        with_position: bool = False,
    ) -> Classified:
        """Zone, cluster and how sure either is, of float [m, 20] of one model (None: not known).

        Companions are arrays [m], or None where none is known; single ones are unknown where the context length is
        below 1, the sink mass or the periodicity NaN. `head_sketch` [m, 16] and `zone_evidence` [m, 5] are of the
        matrix with the hash `head_projection`, NaN in rows that have none; those of another matrix than the run's are
        not looked at. `threads` share the rows; the answers are the same for any
        number of them.
        """
        rows = row_loops.writable(vectors, np.float32).reshape(-1, DIM)
        m = len(rows)
        found = Classified(
            zone_index=np.empty(m, dtype=np.int8),
            confidence=np.empty(m, dtype=np.float32),
            cluster_id=np.empty(m, dtype=np.int32),
            cluster_confidence=np.empty(m, dtype=np.float32),
            position=np.empty((m, 2) if with_position else (0, 2), dtype=np.float32),
            evidence=np.empty((m, NUM_EVIDENCE) if with_evidence else (0, 0), dtype=np.float32),
        )
        n, sink = _column(context_len, m, missing=0.0), _column(sink_mass, m, missing=np.nan)
        formula, comparing = self.formula_of(model_id).numbers, self._comparing_of(model_id)
        period = _column(periodicity, m, missing=np.nan)
        heads = _NO_HEADS
        of_heads = self.formula_of(model_id).heads
        if zone_evidence is not None and of_heads is not None and head_projection == of_heads.projection:
            heads = row_loops.writable(zone_evidence, np.float32)
        sketch = self._own_sketches(head_sketch, head_projection)

        def answer(first: int, last: int) -> None:
            row_loops.zone_rows(
                formula, rows, n, sink, period, heads, first, last, found.zone_index, found.confidence, found.evidence
            )
            row_loops.compare_rows(
                comparing, rows, n, sink, sketch, first, last,
                found.cluster_id, found.cluster_confidence, found.position,
            )  # fmt: skip

        _over_rows(answer, m, threads=threads)
        return found

    def clusters_of(
        self,
        vectors: npt.NDArray[np.floating],
        *,
        context_len: npt.NDArray[np.integer] | F64,
        sink_mass: npt.NDArray[np.floating],
        head_sketch: npt.NDArray[np.floating] | None = None,
        head_projection: str | None = None,
        model_id: str | None = None,
        threads: int = 1,
    ) -> tuple[I32, F32]:
        """Cluster id and its confidence, [m] each, as `classify` gives them, without the zones."""
        rows = row_loops.writable(vectors, np.float32).reshape(-1, DIM)
        m = len(rows)
        cluster_id, confidence = np.empty(m, dtype=np.int32), np.empty(m, dtype=np.float32)
        n, sink = _column(context_len, m, missing=0.0), _column(sink_mass, m, missing=np.nan)
        comparing, sketch = self._comparing_of(model_id), self._own_sketches(head_sketch, head_projection)
        nowhere = np.empty((0, 2), dtype=np.float32)

        def answer(first: int, last: int) -> None:
            row_loops.compare_rows(comparing, rows, n, sink, sketch, first, last, cluster_id, confidence, nowhere)

        _over_rows(answer, m, threads=threads)
        return cluster_id, confidence

    def _own_sketches(self, head_sketch: npt.NDArray[np.floating] | None, head_projection: str | None) -> F32:
        if head_sketch is None or head_projection is None or head_projection != self.space.projection:
            return _NO_SKETCH
        return row_loops.writable(head_sketch, np.float32)

    def averages(
        self,
        vectors: npt.NDArray[np.floating],
        *,
        context_len: npt.NDArray[np.integer] | F64,
        sink_mass: npt.NDArray[np.floating],
        model_id: str | None = None,
    ) -> F32:
        """float32 [m, 21]: where these tokens lie by their averages, in the run's space."""
        features = features_from_vectors(vectors, context_len=context_len, sink_mass=sink_mass)
        return self.space.averages(features, context_len=context_len, model_id=model_id)

    def _comparing_of(self, model_id: str | None) -> row_loops.Comparing:
        usual = self.space.usual_of(model_id)
        found = self._comparing.get(id(usual))
        if found is None:
            sketch = self.space.sketch_usual
            none = self._no_sketch_usual
            found = self._comparing[id(usual)] = row_loops.Comparing(
                ids=np.ascontiguousarray(self.arrays.cluster_ids, dtype=np.int32),
                averages_mean=np.ascontiguousarray(usual.averages.mean),
                averages_spread=np.ascontiguousarray(usual.averages.spread),
                averages=self.arrays.averages.cells,
                sketch_mean=none if sketch is None else np.ascontiguousarray(sketch.mean),
                sketch_spread=none if sketch is None else np.ascontiguousarray(sketch.spread),
                sketch=self.arrays.sketch.cells,
            )
        return found

    @cached_property
    def _no_sketch_usual(self) -> F64:
        return np.ones((NUM_SKETCH, 2))


def _over_rows(answer: Callable[[int, int], None], num_rows: int, *, threads: int) -> None:
    if threads == 1 or num_rows < 2 * _CHUNK_ROWS:
        answer(0, num_rows)
        return
    chunks = -(-num_rows // _CHUNK_ROWS)
    ends = [min(chunks * k // threads * _CHUNK_ROWS, num_rows) for k in range(threads + 1)]
    with ThreadPoolExecutor(threads, thread_name_prefix="classify") as pool:
        for done in [pool.submit(answer, a, b) for a, b in pairwise(ends)]:
            done.result()


_NO_HEADS = np.full((1, len(ZONES)), np.nan, dtype=np.float32)
_NO_SKETCH = np.full((1, NUM_SKETCH), np.nan, dtype=np.float32)


def _column(values: npt.NDArray[np.generic] | None, m: int, *, missing: float) -> F64:
    return np.full(m, missing) if values is None else row_loops.writable(values, np.float64)
