"""Where a fingerprint stands on the manifold: the answer of `/classify` and `/fingerprint`, for one vector or many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from attn_core.classify import Classified, Classifier, cluster_label
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

    vector: npt.NDArray[np.float32]
    """[20], holds the invariants."""
    context_len: int | None
    sink_mass: float | None
    periodicity: float | None


def manifolds(classifier: Classifier, questions: Sequence[Question]) -> list[Manifold]:
    """The answer to each question, in order. Questions that know the same companions are answered in one go."""
    answers: list[Manifold | None] = [None] * len(questions)
    groups: dict[tuple[bool, bool, bool], list[int]] = {}
    for i, q in enumerate(questions):
        known = (q.context_len is not None, q.sink_mass is not None, q.periodicity is not None)
        groups.setdefault(known, []).append(i)
    for (has_context, has_sink, has_period), members in groups.items():
        asked = [questions[i] for i in members]
        classified = classifier.classify(
            np.stack([q.vector for q in asked]),
            context_len=np.array([q.context_len for q in asked], dtype=np.int64) if has_context else None,
            sink_mass=np.array([q.sink_mass for q in asked], dtype=np.float64) if has_sink else None,
            periodicity=np.array([q.periodicity for q in asked], dtype=np.float64) if has_period else None,
        )
        for k, i in enumerate(members):
            answers[i] = manifold_of(classified, k)
    return [answer for answer in answers if answer is not None]


def manifold_of(classified: Classified, row: int) -> Manifold:
    """Row `row` of a batch of answers."""
    cluster_id = int(classified.cluster_id[row])
    return Manifold(
        zone=ZONES[classified.zone_index[row]],
        # Six decimals: float32 holds no more, and 0.85 reads as 0.85.
        confidence=round(float(classified.confidence[row]), 6),
        cluster_id=cluster_id,
        cluster_label=cluster_label(cluster_id),
    )
