"""How well zones are told: macro-F1, the confusion table, and whether the confidence is worth its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_assets.discovery.quality import expected_calibration_error, reliability
from attn_core.zones import ZONES

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Answers of known zone beside the zones they were given."""

    macro_f1: float
    accuracy: float
    ece: float
    """Expected calibration error of the given zone's probability."""
    confusion: I64
    """[5, 5], answers of the row's zone that were given the column's."""
    reliability: Sequence[dict[str, float]]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, rounded."""
        return {
            "macro_f1": round(self.macro_f1, 4),
            "accuracy": round(self.accuracy, 4),
            "ece": round(self.ece, 4),
            "confusion": self.confusion.tolist(),
            "reliability": [{key: round(value, 4) for key, value in row.items()} for row in self.reliability],
        }

    def table(self) -> str:
        """The confusion table as a person reads it: expected zones down, given ones across."""
        width = max(map(len, ZONES)) + 2
        lines = [" " * width + "".join(f"{name:>{width}}" for name in ZONES)]
        for name, row in zip(ZONES, self.confusion.tolist(), strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{count:>{width}}" for count in row))
        return "\n".join(lines)


def evaluate(zone_index: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating]) -> Evaluation:
    """From the true zones [r] and the probabilities [r, 5] that they were given."""
    given = probabilities.argmax(axis=1)
    confusion = np.zeros((len(ZONES), len(ZONES)), dtype=np.int64)
    np.add.at(confusion, (zone_index, given), 1)
    right, confidence = given == zone_index, probabilities.max(axis=1)
    return Evaluation(
        macro_f1=macro_f1(zone_index, given),
        accuracy=float(right.mean()),
        ece=expected_calibration_error(confidence, right),
        confusion=confusion,
        reliability=reliability(confidence, right),
    )


def macro_f1(zone_index: npt.NDArray[np.integer], given: npt.NDArray[np.integer]) -> float:
    """The mean over the zones of the harmonic mean of precision and recall; 0 for a zone neither met nor given."""
    scores = []
    for zone in range(len(ZONES)):
        hit = int(((given == zone) & (zone_index == zone)).sum())
        total = int((given == zone).sum() + (zone_index == zone).sum())
        scores.append(2 * hit / total if total else 0.0)
    return float(np.mean(scores))
