"""Where a fingerprint stands on the manifold: the answer of `/classify` and `/fingerprint`, for one vector or many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from attn_core.classify import NO_CLUSTER, Classified, Classifier, cluster_label
from attn_core.errors import InvalidFingerprint
from attn_core.fingerprint import DIM, why_invalid
from attn_core.zones import ZONES


class Manifold(msgspec.Struct, frozen=True, kw_only=True):
    """Zone, confidence and cluster of one fingerprint, as the guide prints it."""

    zone: str
    confidence: float
    cluster_id: int
    cluster_label: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """One vector to classify and what is known beside it."""

    vector: list[float]
    """20 numbers, as they were sent: not yet checked."""
    context_len: int | None
    sink_mass: float | None
    periodicity: float | None


def manifolds(classifier: Classifier, questions: Sequence[Question]) -> list[Manifold | InvalidFingerprint]:
    """The answer to each question, in order: where a vector breaks an invariant, what it breaks.

    Questions that know the same companions are answered in one go.
    """
    with np.errstate(over="ignore"):
        # Past float32's range becomes infinite, and is refused for that.
        vectors = np.array([q.vector for q in questions], dtype=np.float64).reshape(-1, DIM).astype(np.float32)
    rows = Rows(
        vectors=vectors,
        context_len=np.array([q.context_len or 0 for q in questions], dtype=np.int64),
        sink_mass=np.array([np.nan if q.sink_mass is None else q.sink_mass for q in questions], dtype=np.float64),
        periodicity=np.array([np.nan if q.periodicity is None else q.periodicity for q in questions], dtype=np.float64),
    )
    classified, reasons = classified_rows(classifier, rows)
    return [
        manifold_of(classified, i) if reason is None else InvalidFingerprint(reason) for i, reason in enumerate(reasons)
    ]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """m questions by columns."""

    vectors: npt.NDArray[np.float32]
    """[m, 20], not yet checked."""
    context_len: npt.NDArray[np.int64]
    """[m], 0 where unknown."""
    sink_mass: npt.NDArray[np.float64]
    """[m], NaN where unknown."""
    periodicity: npt.NDArray[np.float64]
    """[m], NaN where unknown."""


def classified_rows(classifier: Classifier, rows: Rows) -> tuple[Classified, list[str | None]]:
    """The answer to each row, and what is wrong with it: an answer means nothing where something is."""
    m = len(rows.vectors)
    reasons = why_invalid(rows.vectors, rows.context_len)
    zone_index, confidence = np.zeros(m, dtype=np.int8), np.zeros(m, dtype=np.float32)
    cluster_id = np.full(m, NO_CLUSTER, dtype=np.int32)
    knows = (rows.context_len > 0, ~np.isnan(rows.sink_mass), ~np.isnan(rows.periodicity))
    kind = sum(known.astype(np.int8) << bit for bit, known in enumerate(knows))
    valid = np.array([reason is None for reason in reasons], dtype=np.bool_)
    for which in np.unique(np.asarray(kind)[valid]):
        members = np.flatnonzero(valid & (kind == which))
        classified = classifier.classify(
            rows.vectors[members],
            context_len=rows.context_len[members] if which & 1 else None,
            sink_mass=rows.sink_mass[members] if which & 2 else None,
            periodicity=rows.periodicity[members] if which & 4 else None,
        )
        zone_index[members], cluster_id[members] = classified.zone_index, classified.cluster_id
        confidence[members] = classified.confidence
    return Classified(zone_index=zone_index, confidence=confidence, cluster_id=cluster_id), reasons


def manifold_of(classified: Classified, row: int) -> Manifold:
    """Row `row` of a batch of answers."""
    zone, confidence = int(classified.zone_index[row]), float(classified.confidence[row])
    return manifold_from_answer(zone, confidence, int(classified.cluster_id[row]))


def manifold_from_answer(zone_index: int, confidence: float, cluster_id: int) -> Manifold:
    """The manifold as it is printed."""
    return Manifold(
        zone=ZONES[zone_index],
        # Six decimals: float32 holds no more, and 0.85 reads as 0.85.
        confidence=round(confidence, 6),
        cluster_id=cluster_id,
        cluster_label=cluster_label(cluster_id),
    )
