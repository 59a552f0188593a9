"""Classifying: from vectors and what is known beside them to the answers of `/classify`, `/fingerprint` and the store.

One vector and many go the same way, and every way into the sidecar ends here or in `Classifier.classify`: the same
vector with the same companions has the same answer everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from attn_core.classify import Classified, Classifier, cluster_label
from attn_core.errors import InvalidFingerprint
from attn_core.features import features_from_vectors
from attn_core.fingerprint import DIM, HISTOGRAM, vectors_from_blobs, why_invalid
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


def rows_from_values(
    vectors: Sequence[Sequence[float]],
    *,
    context_len: Sequence[int | None],
    sink_mass: Sequence[float | None],
    periodicity: Sequence[float | None],
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
    )


def rows_from_stored(stored: Sequence[tuple[Any, ...]]) -> Rows:
    """Rows from m stored tokens: (vector as 80 bytes, context_len, sink_mass, periodicity), None where unknown."""
    blobs, context_len, sink_mass, periodicity = zip(*stored, strict=True) if stored else ((), (), (), ())
    return Rows(
        # A copy: of arrays that cannot be written to Numba makes machine code of its own, which takes seconds.
        vectors=vectors_from_blobs(blobs).copy(),
        context_len=np.array([n or 0 for n in context_len], dtype=np.int64),
        # NumPy makes NaN of None.
        sink_mass=np.array(sink_mass, dtype=np.float32),
        periodicity=np.array(periodicity, dtype=np.float32),
    )


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
        zone, cluster_id = int(classified.zone_index[row]), int(classified.cluster_id[row])
        return Manifold(
            zone=ZONES[zone],
            # Six decimals: float32 holds no more, and 0.85 reads as 0.85.
            confidence=round(float(classified.confidence[row]), 6),
            cluster_id=cluster_id,
            cluster_label=cluster_label(cluster_id),
            cluster_confidence=round(float(classified.cluster_confidence[row]), 6) if explain else msgspec.UNSET,
            characteristic=self.characteristic(row, zone=zone) if explain else msgspec.UNSET,
        )

    def characteristic(self, row: int, *, zone: int) -> Characteristic:
        """What speaks most for this zone (an index into `ZONES`) in one row."""
        return characteristic_of(self.formula, zone, self.classified.evidence[row])


def answers_of(classifier: Classifier, rows: Rows, *, model_id: str | None = None) -> Answers:
    """Check the rows and classify them; one row takes about 20 us."""
    invalid = why_invalid(rows.vectors, rows.context_len)
    vectors = rows.vectors
    if any(invalid):
        # The compiled loops take fingerprints and nothing else.
        broken = np.array([reason is not None for reason in invalid], dtype=np.bool_)
        vectors = np.where(broken[:, None], _ALL_ON_ITSELF, vectors)
    classified = classifier.classify(
        vectors,
        context_len=rows.context_len,
        sink_mass=rows.sink_mass,
        periodicity=rows.periodicity,
        model_id=model_id,
        with_evidence=True,
    )
    return Answers(
        classified=classified, invalid=invalid, formula=classifier.formula_of(model_id), run_id=classifier.run_id
    )


def one_answer(classifier: Classifier, rows: Rows) -> Answers:
    """The answer to a single row; raises `InvalidFingerprint`."""
    found = answers_of(classifier, rows)
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
