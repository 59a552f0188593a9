"""The zone of a sequence of tokens: of a whole answer, or of one of its sentences.

It is the formula of the request's model on the mean of the tokens' evidence (`attn_core.zones`). The mean is taken in
float64, in order of step, so that the same tokens give the same zone and the same confidence, bit for bit, wherever
they are read. A token whose vector breaks an invariant is left out of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from attn_core.classify import Classifier, no_clusters
from attn_core.zones import ZONES, ZoneFormula
from attn_sidecar.classification import Characteristic, Rows, answers_of, characteristic_of
from attn_sidecar.sentences import sentence_ranges


@dataclass(frozen=True, kw_only=True)
class SequenceZone:
    """What the formula says of the mean evidence of some tokens."""

    zone: str
    confidence: float
    """0..1, a float32 value that is not rounded."""
    characteristic: Characteristic
    """What speaks most for the zone: the means of its value and of its usual value."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence of m tokens of one request, in order of step."""

    rows: npt.NDArray[np.float64]
    """[m, NUM_EVIDENCE]"""
    valid: npt.NDArray[np.bool_]
    """[m], False where the token's vector breaks an invariant."""
    formula: ZoneFormula

    def zone(self, first: int = 0, end: int | None = None) -> SequenceZone | None:
        """The zone of tokens first..end (exclusive; None: to the last), None where none of them is valid."""
        part = slice(first, end)
        rows = self.rows[part][self.valid[part]]
        if not len(rows):
            return None
        mean = rows.mean(axis=0)
        found = self.formula.zones_of(mean)
        zone = int(found.zone_index[0])
        return SequenceZone(
            zone=ZONES[zone],
            confidence=float(found.confidence[0]),
            characteristic=characteristic_of(self.formula, zone, mean),
        )


def evidence_of(classifier: Classifier, rows: Rows, *, model_id: str | None) -> Evidence:
    """The evidence of m rows, in order of step, by the classifier's formula for this model (None: not known)."""
    # Evidence does not depend on the clusters, and finding the nearest would take most of the time.
    zones_alone = Classifier(no_clusters(), run_id=classifier.run_id, formulas=classifier.formulas)
    answers = answers_of(zones_alone, rows, model_id=model_id)
    return Evidence(
        rows=answers.classified.evidence.astype(np.float64),
        valid=np.array([reason is None for reason in answers.invalid], dtype=np.bool_),
        formula=answers.formula,
    )


class SentenceZone(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence of an answer and its zone; null where no token of it has a valid vector."""

    from_step: int
    to_step: int
    """Inclusive."""
    text: str
    zone: str | None
    confidence: float | None
    """0..1"""
    characteristic: Characteristic | None
    """What speaks most for the zone, on the mean evidence of the tokens."""


def sentence_zones(
    evidence: Evidence, *, steps: Sequence[int], texts: Sequence[str | None]
) -> list[SentenceZone] | None:
    """The sentences of m tokens with their zones; None where the text of a token is missing.

    `steps` and `texts` are [m], in the order of the evidence.
    """
    known = [text for text in texts if text is not None]
    if len(known) < len(texts):
        return None
    sentences = []
    for first, end in sentence_ranges(known):
        found = evidence.zone(first, end)
        sentences.append(
            SentenceZone(
                from_step=steps[first],
                to_step=steps[end - 1],
                text="".join(known[first:end]),
                zone=None if found is None else found.zone,
                confidence=None if found is None else found.confidence,
                characteristic=None if found is None else found.characteristic,
            )
        )
    return sentences
