"""Where a fingerprint stands on the manifold: the answer of `/classify` and `/fingerprint`, for one vector or many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from attn_core.classify import Classified, Classifier, cluster_label
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
    reasons = why_invalid(vectors, np.array([q.context_len or 0 for q in questions], dtype=np.int64))
    answers: list[Manifold | InvalidFingerprint] = [InvalidFingerprint(reason or "") for reason in reasons]
    groups: dict[tuple[bool, bool, bool], list[int]] = {}
    for i, q in enumerate(questions):
        if reasons[i] is not None:
            continue
        known = (q.context_len is not None, q.sink_mass is not None, q.periodicity is not None)
        groups.setdefault(known, []).append(i)
    for (has_context, has_sink, has_period), members in groups.items():
        asked = [questions[i] for i in members]
        classified = classifier.classify(
            vectors[members],
            context_len=np.array([q.context_len for q in asked], dtype=np.int64) if has_context else None,
            sink_mass=np.array([q.sink_mass for q in asked], dtype=np.float64) if has_sink else None,
            periodicity=np.array([q.periodicity for q in asked], dtype=np.float64) if has_period else None,
        )
        for k, i in enumerate(members):
            answers[i] = manifold_of(classified, k)
    return answers


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
