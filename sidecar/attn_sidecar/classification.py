"""Classifying: from vectors and what is known beside them to the answers of `/classify`, `/fingerprint` and the store.

One vector and many go the same way, and every way into the sidecar ends here or in `Classifier.classify`: the same
vector with the same companions has the same answer everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from attn_core.classify import Classified, Classifier, cluster_label
from attn_core.errors import InvalidFingerprint
from attn_core.features import features_from_vectors
from attn_core.fingerprint import DIM, HISTOGRAM, vectors_from_blobs, why_invalid
from attn_core.head_projection import NUM_EVIDENCE, NUM_SKETCH, to_float16
from attn_core.zones import CHARACTERISTICS, ZONES, ZoneFormula

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class Characteristic(msgspec.Struct, frozen=True, kw_only=True):
    """What made the zone: of the zone's own characteristics the one that speaks most for it (`attn_core.zones`)."""

    name: Annotated[str, Meta(extra_json_schema={"enum": list(CHARACTERISTICS)})]
    value: float
    """0..1, of the attention beyond the sink."""
    usual: float
    """What this model usually has at this context length."""


class Manifold(msgspec.Struct, frozen=True, kw_only=True):
    """Zone and cluster of one fingerprint: the guide's four fields, and where it was asked to explain, two more."""

    zone: str
    confidence: float
    cluster_id: int
    cluster_label: str
    cluster_confidence: float | msgspec.UnsetType = msgspec.UNSET
    """The chance that discovery itself would put it in this cluster (or in none)."""
    characteristic: Characteristic | msgspec.UnsetType = msgspec.UNSET
    x: float | msgspec.UnsetType | None = msgspec.UNSET
    """Where it lies on the served map, where it was asked for; null before the first map."""
    y: float | msgspec.UnsetType | None = msgspec.UNSET


@dataclass(frozen=True, kw_only=True)
class Rows:
    """m vectors with their companions, by columns, in the precision of the wire and of the store."""

    vectors: F32
    """[m, 20], not yet checked."""
    context_len: I64
    """[m], 0 where unknown."""
    sink_mass: F32
    """[m], NaN where unknown."""
    periodicity: F32
    """[m], NaN where unknown."""
    sketches: Sketches | None = None
    """None where no row has one."""


@dataclass(frozen=True, kw_only=True)
class Sketches:
    """The head sketches of m rows, by columns, as float16 holds them."""

    head_sketch: F32
    """[m, 16], NaN where a row has none."""
    zone_evidence: F32
    """[m, 5], NaN where a row has none."""
    head_projection: Sequence[str | None]
    """[m], hash of the matrix that made them."""

    @classmethod
    def of(cls, posted: Sequence[PostedSketch | None]) -> Sketches | None:
        """Of m rows, None where no row has one."""
        if not any(posted):
            return None
        found = cls(
            head_sketch=np.full((len(posted), NUM_SKETCH), np.nan, dtype=np.float32),
            zone_evidence=np.full((len(posted), NUM_EVIDENCE), np.nan, dtype=np.float32),
            head_projection=[None if one is None else one.head_projection for one in posted],
        )
        for i, one in enumerate(posted):
            if one is not None:
                found.head_sketch[i] = to_float16(np.asarray(one.head_sketch, dtype=np.float64))
                found.zone_evidence[i] = to_float16(np.asarray(one.zone_evidence, dtype=np.float64))
        return found


@dataclass(frozen=True, kw_only=True)
class PostedSketch:
    """The head sketch of one fingerprint, and the matrix that made it."""

    head_sketch: Sequence[float]
    """[NUM_SKETCH]"""
    zone_evidence: Sequence[float]
    """[NUM_EVIDENCE]"""
    head_projection: str


def rows_from_values(
    vectors: Sequence[Sequence[float]],
    *,
    context_len: Sequence[int | None],
    sink_mass: Sequence[float | None],
    periodicity: Sequence[float | None],
    sketches: Sketches | None = None,
) -> Rows:
    """Rows from m lists of 20 numbers and m values of each companion, None where unknown."""
    with np.errstate(over="ignore"):
        # What is past float32's range becomes infinite, and is refused for that.
        found = np.array(vectors, dtype=np.float64).reshape(-1, DIM).astype(np.float32)
    return Rows(
        vectors=found,
        context_len=np.array([n or 0 for n in context_len], dtype=np.int64),
        # NumPy makes NaN of None.
        sink_mass=np.array(sink_mass, dtype=np.float32),
        periodicity=np.array(periodicity, dtype=np.float32),
        sketches=sketches,
    )


STORED = ("vector", "context_len", "sink_mass", "periodicity", "zone_evidence", "head_projection")
"""What `rows_from_stored` takes, by the store's names: all that a zone rests on."""


def rows_from_stored(stored: Sequence[tuple[Any, ...]]) -> Rows:
    """Rows from m stored tokens, the columns of `STORED`: vector and evidence as bytes, None where unknown."""
    blobs, context_len, sink_mass, periodicity, evidence, projections = (
        zip(*stored, strict=True) if stored else ((),) * len(STORED)
    )
    return Rows(
        # A copy: of arrays that cannot be written to Numba makes machine code of its own, which takes seconds.
        vectors=vectors_from_blobs(blobs).copy(),
        context_len=np.array([n or 0 for n in context_len], dtype=np.int64),
        # NumPy makes NaN of None.
        sink_mass=np.array(sink_mass, dtype=np.float32),
        periodicity=np.array(periodicity, dtype=np.float32),
        sketches=_evidence_from_stored(evidence, projections),
    )


def _evidence_from_stored(evidence: Sequence[bytes | None], projections: Sequence[str | None]) -> Sketches | None:
    if not any(projections):
        return None
    found = np.full((len(evidence), NUM_EVIDENCE), np.nan, dtype=np.float32)
    for i, blob in enumerate(evidence):
        if blob is not None and len(blob) == 2 * NUM_EVIDENCE:
            found[i] = np.frombuffer(blob, dtype="<f2")
    nothing = np.full((len(evidence), NUM_SKETCH), np.nan, dtype=np.float32)
    return Sketches(head_sketch=nothing, zone_evidence=found, head_projection=projections)


def characteristic_of(formula: ZoneFormula, zone: int, evidence: npt.NDArray[Any]) -> Characteristic:
    """What speaks most for this zone (an index into `ZONES`) at this evidence, [NUM_EVIDENCE]."""
    reason = formula.reason(zone, evidence)
    return Characteristic(name=reason.characteristic, value=round(reason.value, 4), usual=round(reason.usual, 4))


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one classifier says of m rows, which all have no model or the same."""

    classified: Classified
    """With evidence; what it says of a row in `invalid` means nothing."""
    invalid: list[str | None]
    """[m], the first invariant that the row breaks, None where it holds them all."""
    formula: ZoneFormula
    run_id: str | None
    """The run that says so, None before the first."""

    def manifold(self, row: int, *, explain: bool = False) -> Manifold:
        """The answer to one row, with what made it where it is to `explain`."""
        classified = self.classified
        x, y = classified.position[row].tolist() if len(classified.position) else (msgspec.UNSET, msgspec.UNSET)
        sure = explain or x is not msgspec.UNSET
        zone, cluster_id = int(classified.zone_index[row]), int(classified.cluster_id[row])
        return Manifold(
            zone=ZONES[zone],
            # Six decimals: float32 holds no more, and 0.85 reads as 0.85.
            confidence=round(float(classified.confidence[row]), 6),
            cluster_id=cluster_id,
            cluster_label=cluster_label(cluster_id),
            cluster_confidence=round(float(classified.cluster_confidence[row]), 6) if sure else msgspec.UNSET,
            characteristic=self.characteristic(row, zone=zone) if explain else msgspec.UNSET,
            x=_coordinate(x),
            y=_coordinate(y),
        )

    def characteristic(self, row: int, *, zone: int) -> Characteristic:
        """What speaks most for this zone (an index into `ZONES`) in one row."""
        return characteristic_of(self.formula, zone, self.classified.evidence[row])


def _coordinate(value: float | msgspec.UnsetType) -> float | msgspec.UnsetType | None:
    if value is msgspec.UNSET or isinstance(value, msgspec.UnsetType):
        return msgspec.UNSET
    return None if np.isnan(value) else round(value, 5)


def answers_of(
    classifier: Classifier, rows: Rows, *, model_id: str | None = None, with_position: bool = False
) -> Answers:
    """Check the rows and classify them; one row takes about 20 us."""
    invalid = why_invalid(rows.vectors, rows.context_len)
    vectors = rows.vectors
    if any(invalid):
        # The compiled loops take fingerprints and nothing else.
        broken = np.array([reason is not None for reason in invalid], dtype=np.bool_)
        vectors = np.where(broken[:, None], _ALL_ON_ITSELF, vectors)
    classified = _classified(classifier, replace(rows, vectors=vectors), model_id=model_id, with_position=with_position)
    return Answers(
        classified=classified, invalid=invalid, formula=classifier.formula_of(model_id), run_id=classifier.run_id
    )


def _classified(classifier: Classifier, rows: Rows, *, model_id: str | None, with_position: bool) -> Classified:
    """The answers to valid rows; sketches of several matrices are answered matrix by matrix."""

    def answer(places: I64 | slice, sketches: Sketches | None, projection: str | None) -> Classified:
        return classifier.classify(
            rows.vectors[places],
            context_len=rows.context_len[places],
            sink_mass=rows.sink_mass[places],
            periodicity=rows.periodicity[places],
            head_sketch=None if sketches is None else sketches.head_sketch[places],
            zone_evidence=None if sketches is None else sketches.zone_evidence[places],
            head_projection=projection,
            model_id=model_id,
            with_evidence=True,
            with_position=with_position,
        )

    everything = slice(None)
    if rows.sketches is None:
        return answer(everything, None, None)
    names = rows.sketches.head_projection
    if len(set(names)) == 1:
        return answer(everything, rows.sketches, names[0])
    parts = []
    for name in dict.fromkeys(names):
        places = np.array([i for i, one in enumerate(names) if one == name], dtype=np.int64)
        parts.append((places, answer(places, rows.sketches, name)))
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for _, part in parts])[order]
        for field in fields(Classified)
        if field.name != "position" or with_position
    }
    return Classified(**({"position": np.empty((0, 2), dtype=np.float32)} | columns))


def one_answer(classifier: Classifier, rows: Rows, *, with_position: bool = False) -> Answers:
    """The answer to a single row; raises `InvalidFingerprint`."""
    found = answers_of(classifier, rows, with_position=with_position)
    if found.invalid[0] is not None:
        raise InvalidFingerprint(found.invalid[0])
    return found


def load_compiled_loops() -> None:
    """Load the machine code that classifies, or make it where none is kept on disk, which takes some seconds.

    Done at the start: on the first vector it would hold up everything else.
    """
    rows = Rows(
        vectors=_ALL_ON_ITSELF[None].copy(),
        context_len=np.ones(1, dtype=np.int64),
        sink_mass=np.zeros(1, dtype=np.float32),
        periodicity=np.zeros(1, dtype=np.float32),
    )
    answers_of(Classifier.without_run(), rows)
    features_from_vectors(rows.vectors, context_len=rows.context_len, sink_mass=rows.sink_mass)


def _all_on_itself() -> F32:
    vector = np.zeros(DIM, dtype=np.float32)
    vector[[0, HISTOGRAM.start]] = 1.0
    return vector


_ALL_ON_ITSELF = _all_on_itself()
"""The fingerprint of a token that attends to its own position only: valid at any context length."""
