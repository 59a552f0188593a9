"""The calibrated zone scorer of one model: linear, in NumPy, as plain numbers in a JSON file.

Two heads share their inputs, the features of `attn_core.features` (sink taken out), `periodicity` and, so that a token
is compared with what this model does at that context length, powers of ln n:

- the **token head** knows one token. It is what `/classify` answers with, and what the published zone of a token rests
  on, since the two have to agree.
- the **sequence head** knows a request up to some step: the mean of its tokens' inputs, and those of its first token,
  the prompt's last position. It is causal: the zone of a request so far, or of a whole one.

Softmax of linear scores; fitting and its figures lie in `attn_assets.calibration`. A scorer never changes: another
calibration is another file with another version, and says from what it was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_core.errors import CalibrationError
from attn_core.features import FEATURES_VERSION, NUM_FEATURES, features_from_sink_free
from attn_core.features import NAMES as FEATURE_NAMES
from attn_core.sinkfree import SinkFree
from attn_core.zones import ZONES

FILE_NAME = "zone_calibration.json"
"""Its name in a bundle, where it is optional."""
SCHEMA_VERSION = 1
LENGTH_SCALE = 200.0
INPUTS: tuple[str, ...] = (*FEATURE_NAMES, "periodicity", "one", "ln_length", "ln_length_squared")
NUM_INPUTS = len(INPUTS)
LENGTH_INPUTS = slice(NUM_FEATURES + 1, NUM_INPUTS)
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ZoneScorer:
    """Zone probabilities from one model's calibration."""

    token: F64
    """[5, 25], a score a zone from the inputs of one token."""
    sequence: F64
    """[5, 50], the same from the mean inputs of a request's tokens and the inputs of its first token."""
    shortest: float
    longest: float
    """Context lengths that the calibration has seen: beyond them the comparison by length stays what it is there."""
    centre: F64
    spread: F64
    """[25] each, mean and deviation of the inputs over the calibration's tokens: what evidence counts from."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Version, model, when, from what and with which figures."""

    def __post_init__(self) -> None:
        shapes = {
            "token": (len(ZONES), NUM_INPUTS),
            "sequence": (len(ZONES), 2 * NUM_INPUTS),
            "centre": (NUM_INPUTS,),
            "spread": (NUM_INPUTS,),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise CalibrationError(f"{name} has shape {list(array.shape)}: expected finite numbers {list(shape)}")
        if not (0 < self.shortest <= self.longest < np.inf and (self.spread > 0).all()):
            raise CalibrationError("the calibrated lengths and the spreads have to be above 0, the shortest first")

    @property
    def version(self) -> str:
        """The name of this calibration: two with the same name say the same."""
        return str(self.provenance.get("version", "unnamed"))

    def inputs(
        self,
        features: npt.NDArray[np.floating],
        *,
        context_len: npt.NDArray[np.number],
        periodicity: npt.NDArray[np.floating],
    ) -> F64:
        """[m, 25] from features [m, 21] and companions [m]."""
        n = np.clip(np.asarray(context_len, dtype=np.float64), self.shortest, self.longest)
        length = np.log(n / LENGTH_SCALE)
        period = np.clip(np.asarray(periodicity, dtype=np.float64), 0.0, 1.0)
        return np.column_stack([features, period, np.ones(len(n)), length, length**2]).astype(np.float64, copy=False)

    def token_probabilities(self, inputs: F64) -> F32:
        """How likely each token is of each zone, by itself alone: float32 [m, 5], rows sum to 1."""
        return _softmax(inputs @ self.token.T)

    def probabilities_from_sink_free(self, free: SinkFree, *, periodicity: npt.NDArray[np.floating]) -> F32:
        """The token head on fingerprints whose sink is taken out already: float32 [m, 5]."""
        features = features_from_sink_free(free)
        return self.token_probabilities(self.inputs(features, context_len=free.context_len, periodicity=periodicity))

    def sequence_probabilities(self, mean: F64, first: F64) -> F32:
        """The sequence head: float32 [r, 5] from the mean inputs so far and the first token's inputs, [r, 25] each."""
        return _softmax(np.concatenate([mean, first], axis=1) @ self.sequence.T)

    def request_probabilities(self, inputs: F64, start: npt.NDArray[np.integer]) -> F32:
        """[r, 5] for r whole requests: request k has the tokens start[k] .. start[k + 1] of [m, 25], none is empty."""
        sums = np.add.reduceat(inputs, start[:-1], axis=0)
        return self.sequence_probabilities(sums / np.diff(start)[:, None], inputs[start[:-1]])

    def so_far_probabilities(self, inputs: F64, start: npt.NDArray[np.integer]) -> F32:
        """[m, 5]: at each token, what its request is up to and with this token; later ones change nothing."""
        totals = np.cumsum(inputs, axis=0)
        lengths = np.diff(start)
        before = np.repeat(totals[start[:-1]] - inputs[start[:-1]], lengths, axis=0)
        count = np.arange(len(inputs)) - np.repeat(start[:-1], lengths) + 1
        first = np.repeat(inputs[start[:-1]], lengths, axis=0)
        return self.sequence_probabilities((totals - before) / count[:, None], first)

    def deciding(self, inputs: F64, usual: F64, zone: int, *, count: int = 3) -> list[tuple[str, float]]:
        """The inputs that speak most for this zone against the others, at mean inputs [25] beside the usual [25].

        Each with what it adds to the zone's score over the mean of all zones' scores, largest first. What the length
        adds is left out: it is no evidence.
        """
        relative = self.token[zone] - self.token.mean(axis=0)
        added = relative * (inputs - usual)
        added[LENGTH_INPUTS] = -np.inf
        order = np.argsort(-added)[:count]
        return [(INPUTS[k], float(added[k])) for k in order]

    def as_json(self) -> dict[str, Any]:
        """All of it, in numbers of six digits."""
        arrays = {name: getattr(self, name) for name in ("token", "sequence", "centre", "spread")}
        return {
            "schema_version": SCHEMA_VERSION,
            "features_version": FEATURES_VERSION,
            "zones": list(ZONES),
            "inputs": list(INPUTS),
            "provenance": dict(self.provenance),
            "lengths": [self.shortest, self.longest],
            **{name: _rounded(array) for name, array in arrays.items()},
        }

    def save(self, path: Path) -> None:
        """Write as JSON; the same scorer gives the same bytes."""
        path.write_text(json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> ZoneScorer:
        """Read and check; raises `CalibrationError`."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise CalibrationError(f"{path.name} is not a zone calibration: {error}") from error

    @classmethod
    def from_json(cls, read: Any) -> ZoneScorer:
        """The inverse of `as_json`; raises `CalibrationError` where it is of another version or does not fit."""
        try:
            versions = (read["schema_version"], read["features_version"], read["zones"], read["inputs"])
            arrays = {
                name: np.array(read[name], dtype=np.float64) for name in ("token", "sequence", "centre", "spread")
            }
            lengths, provenance = [float(one) for one in read["lengths"]], dict(read["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"this is not a zone calibration: {error!r}") from error
        if versions != (SCHEMA_VERSION, FEATURES_VERSION, list(ZONES), list(INPUTS)) or len(lengths) != 2:
            raise CalibrationError(
                f"this zone calibration is of versions {versions[:2]}, this program reads "
                f"{(SCHEMA_VERSION, FEATURES_VERSION)}: calibrate again (attn-discover calibrate --help)"
            )
        return cls(**arrays, shortest=lengths[0], longest=lengths[1], provenance=provenance)

    def fingerprint(self) -> str:
        """SHA-256 over all numbers: two calibrations with the same one score alike."""
        numbers = {key: value for key, value in self.as_json().items() if key != "provenance"}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


class SequenceSoFar:
    """The inputs of one request's tokens in the order of their steps, as far as they have come."""

    def __init__(self) -> None:
        self._sum = np.zeros(NUM_INPUTS)
        self._first: F64 | None = None
        self.num_tokens = 0

    def add(self, inputs: F64) -> None:
        """The next token's inputs [25]."""
        if self._first is None:
            self._first = inputs.copy()
        self._sum += inputs
        self.num_tokens += 1

    def probabilities(self, scorer: ZoneScorer) -> F32:
        """[5], what the request is so far; it needs one token at least."""
        if self._first is None:
            raise CalibrationError("a request without a token has no zone")
        probabilities: F32 = scorer.sequence_probabilities(self._sum[None] / self.num_tokens, self._first[None])[0]
        return probabilities


def same_model(one: str | None, other: str | None) -> bool:
    """Whether two model ids name one model: the last part of a path or a hub name counts."""
    return one is not None and other is not None and model_name(one) == model_name(other)


def model_name(model_id: str) -> str:
    """``SmolLM2-135M-Instruct`` of ``HuggingFaceTB/SmolLM2-135M-Instruct`` or of a folder of that name."""
    return model_id.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _softmax(scores: F64) -> F32:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    probabilities: F32 = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def _rounded(array: F64) -> Any:
    values: Sequence[Any] = [float(f"{value:.6g}") for value in array.ravel()]
    return np.array(values).reshape(array.shape).tolist()
