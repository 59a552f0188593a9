"""The five zones: what each is made of, the one formula that scores them, and the numbers that fill it.

A zone is what the guide's table says of it. All values are of the attention beyond the sink (positions 0..3), made to
sum to 1; evenness is its entropy over the largest that it can be at that context length.

| zone             | its own characteristics    | open only if                              | decided where (`MUST`)   |
|------------------|----------------------------|-------------------------------------------|--------------------------|
| syntax_floor     | local share up, evenness   | local share >= usual or evenness <= usual | local >= 0.85 and        |
|                  | down                       |                                           | evenness <= 0.4          |
| semantic_bridge  | mid share up               | always                                    | mid >= 0.80, evenness <= |
|                  |                            |                                           | 0.6, periodicity <= usual|
| structure_ripple | periodicity up             | periodicity >= usual and >= 0.1           | periodicity >= 0.7       |
| long_range       | long share up              | n > 104 and long share >= 0.05            | n >= 300, long >= 0.80,  |
|                  |                            |                                           | the rest as mid share's  |
| diffuse          | evenness up                | evenness >= usual                         | n >= 50, evenness >= 0.97|

`syntax_floor` is closed too where the mid or the long share is 0.8 or more: attention that lies there is not near.

Each characteristic counts as ``z = (value - usual(n)) / spread(n)``, shares as log-odds, where `usual` and `spread` are
what this model does at that context length (`UsualValues`). A zone's score is its bias plus, for each of its own
characteristics, ``slope z + hinge_slope max(0, z - hinge)`` with slopes of at least 0; what the last column decides
comes on top, and outweighs everything else. The zone is the open one with the highest score. So raising a zone's own
characteristic never takes the zone away, whatever the numbers. Where two rows of the last column hold at once, the
order is syntax_floor, structure_ripple, diffuse, then the others (docs/decisions/0020-zones-by-characteristic.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attn_core.errors import CalibrationError
from attn_core.fingerprint import LOCAL_END, MID_END, SINK_POSITIONS
from attn_core.usual import KNOTS_LN_N, Usual

if TYPE_CHECKING:
    from attn_core.row_loops import Formula

ZONES: tuple[str, ...] = ("syntax_floor", "semantic_bridge", "structure_ripple", "long_range", "diffuse")

CHARACTERISTICS: tuple[str, ...] = ("local_share", "mid_share", "long_share", "evenness", "periodicity")
"""Values 0..1 of a token, beyond the sink, in the order of the columns below."""
LOCAL, MID, LONG, EVENNESS, PERIODICITY = range(5)

OWN: tuple[tuple[int, int, int], ...] = (
    (0, LOCAL, 1),
    (0, EVENNESS, -1),
    (1, MID, 1),
    (2, PERIODICITY, 1),
    (3, LONG, 1),
    (4, EVENNESS, 1),
)
"""(zone, characteristic, direction) of each term of a score."""

VALUES, USUAL, Z, N_COLUMN, HEADS = 0, 5, 10, 15, 16
NUM_EVIDENCE = 21
"""Columns of a token's evidence: 5 values, the usual value of each at this length, 5 z, the context length, and the
zones' evidence at specialist heads (0 where the token carries none)."""

MUST = (0.85, 0.4, 0.80, 0.6, 0.7, 300.0, 0.80, 0.6, 50.0, 0.97)
"""Thresholds of the last column, by rows: local share, evenness; mid share, evenness; periodicity; n, long share,
evenness; n, evenness."""
RANKS = (4.0, 1.0, 3.0, 1.0, 2.0)
DECISIVE = 1000.0
"""What a rank of the last column adds: more than all else together, `Z_LIMIT` and `LARGEST` being what they are."""
Z_LIMIT = 8.0
LARGEST = 10.0
"""No slope and no bias is larger, so that the last column holds for any numbers."""
USUAL_CAPS = (0.80, 1.0, 1.0, 0.96, 0.60)
"""A usual value counts as at most this where a zone opens: what the last column gives a zone is never closed."""
RIPPLE_LEAST = 0.1
LONG_LEAST_CONTEXT = float(SINK_POSITIONS + MID_END)
LONG_LEAST_SHARE = 0.05

FILE_NAME = "zone_formulas.json"
"""Its name in a bundle."""
SCHEMA_VERSION = 3
PRIOR_TOKENS = 100.0
"""Tokens' worth of belief in the values that were there before."""
LEAST_SPREAD = np.array([0.1, 0.1, 0.1, 0.01, 0.02])
SHARE_EDGE = 1e-3
"""Shares are held this far from 0 and 1 before their log-odds are taken."""
_LEAST_CONTEXT = (SINK_POSITIONS + LOCAL_END, SINK_POSITIONS + LOCAL_END, SINK_POSITIONS + MID_END)
"""Contexts of at most so many positions say nothing of the local, mid and long share."""
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class UsualValues:
    """What a model usually does at each context length: mean and spread of each characteristic, shares as log-odds."""

    mean: F64
    """[5, k], at `KNOTS_LN_N`; beyond the ends they hold."""
    spread: F64
    """[5, k], standard deviations, above 0."""
    num_tokens: int
    """From how many tokens they were learned."""

    def __post_init__(self) -> None:
        shape = (len(CHARACTERISTICS), len(KNOTS_LN_N))
        for name, values in (("mean", self.mean), ("spread", self.spread)):
            if values.shape != shape or not np.isfinite(values).all():
                raise CalibrationError(f"usual values: {name} has shape {list(values.shape)}, expected {list(shape)}")
        if not (self.spread > 0).all():
            raise CalibrationError("usual values: a spread is not above 0")

    def learned_from(self, values: F64, context_len: npt.NDArray[np.integer]) -> UsualValues:
        """The usual values of these tokens, with the present ones as what is believed before.

        `values` is [m, 5] in the order of `CHARACTERISTICS` and `context_len` int [m] (`attn_core.usual`).
        """
        if not len(values):
            return self
        # No position is farther than the class begins: such tokens say nothing of its share.
        told = np.ones(values.shape, dtype=np.bool_)
        told[:, : LONG + 1] = np.asarray(context_len)[:, None] > np.array(_LEAST_CONTEXT)
        found = Usual(mean=self.mean, spread=self.spread).learned_from(
            on_scale(values), context_len, least_spread=LEAST_SPREAD, prior_tokens=PRIOR_TOKENS, told=told
        )
        return UsualValues(mean=found.mean, spread=found.spread, num_tokens=len(values))

    def at(self, context_len: npt.NDArray[np.integer] | float) -> F64:
        """The usual value of each characteristic at these context lengths, [m, 5], shares as shares."""
        ln_n = np.log(np.maximum(np.atleast_1d(np.asarray(context_len, dtype=np.float64)), 1.0))
        mean = np.column_stack([np.interp(ln_n, KNOTS_LN_N, row) for row in self.mean])
        mean[:, : LONG + 1] = 1.0 / (1.0 + np.exp(-mean[:, : LONG + 1]))
        usual: F64 = np.minimum(mean, USUAL_CAPS)
        return usual


def on_scale(values: F64) -> F64:
    """Characteristics [m, 5] on the scale on which they are compared: shares as log-odds."""
    scaled = np.array(values, dtype=np.float64)
    shares = np.clip(scaled[:, : LONG + 1], SHARE_EDGE, 1 - SHARE_EDGE)
    scaled[:, : LONG + 1] = np.log(shares / (1 - shares))
    return scaled


@dataclass(frozen=True, kw_only=True)
class UsualHeads:
    """What a model's zone evidence (`attn_core.head_projection`) usually is at each context length."""

    projection: str
    """Hash of the matrix that makes it."""
    usual: Usual
    """Of five columns."""

    def as_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back; numbers to 7 digits."""
        mean, spread = _rounded(self.usual.mean), _rounded(self.usual.spread)
        return {"projection": self.projection, "mean": mean, "spread": spread}

    @classmethod
    def from_json(cls, read: Any) -> UsualHeads:
        """The inverse of `as_json`; raises `ValueError`, `KeyError` or `TypeError` where it does not fit."""
        mean, spread = (np.array(read[name], dtype=np.float64) for name in ("mean", "spread"))
        usual = Usual(mean=mean, spread=spread)
        if not usual.fits(len(ZONES)):
            raise ValueError("usual head evidence is not a mean and a spread above 0 for each zone and length")
        return cls(projection=str(read["projection"]), usual=usual)


@dataclass(frozen=True, kw_only=True)
class ZoneFormula:
    """All numbers that give one model's tokens their zones; immutable."""

    usual: UsualValues
    slope: F64
    """[6], a row of `OWN` each; at least 0, as all slopes."""
    hinge_slope: F64
    hinge: F64
    """[6], in z: a high percentile of traffic, beyond which a characteristic counts more."""
    bias: F64
    """[5]"""
    head_slope: F64
    """[5], of the zone evidence of the model's head projection, relative to the length."""
    temperature: float
    """Over it the scores' softmax gives the zones' probabilities."""
    margin: F64
    """[t], margins of the best score over the second, ascending."""
    chance: F64
    """[t], at each the chance that the same zone would be given had other heads of the model been looked at."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What they were made from; `confidence_of` names the model that the table of confidence was fitted to."""
    heads: UsualHeads | None = None
    """What is usual of the heads' evidence; None: zones rest on the averages alone."""

    def __post_init__(self) -> None:
        shapes = {"slope": 6, "hinge_slope": 6, "hinge": 6, "bias": 5, "head_slope": 5}
        for name, length in shapes.items():
            values = getattr(self, name)
            if values.shape != (length,) or not np.isfinite(values).all() or not (abs(values) <= LARGEST).all():
                raise CalibrationError(f"zone formula: {name} must be {length} numbers of at most {LARGEST:g}")
        for name in ("slope", "hinge_slope", "head_slope", "hinge"):
            if not (getattr(self, name) >= 0).all():
                raise CalibrationError(
                    f"zone formula: {name} has a number below 0: more of a zone's own characteristic"
                )
        if not 1e-3 <= self.temperature <= 1e3:
            raise CalibrationError(f"zone formula: the temperature is {self.temperature}, expected 0.001 to 1000")
        table = self.margin.shape == self.chance.shape and self.margin.ndim == 1 and len(self.margin) > 1
        if (
            not table
            or not np.isfinite(self.margin).all()
            or not (np.diff(self.margin) > 0).all()
            or not (np.diff(self.chance) >= 0).all()
        ):
            raise CalibrationError(
                "zone formula: confidence must be a table from rising margins to chances never falling"
            )
        if not ((self.chance >= 0) & (self.chance <= 1)).all():
            raise CalibrationError("zone formula: a chance lies outside 0..1")

    def with_usual(self, usual: UsualValues, heads: UsualHeads | None = None) -> ZoneFormula:
        """The same formula around other usual values."""
        return replace(self, usual=usual, heads=heads)

    @cached_property
    def numbers(self) -> Formula:
        """As the compiled loops take them."""
        from attn_core.row_loops import Formula

        nothing = np.full((len(ZONES), 2), np.nan)
        return Formula(
            first_ln_n=float(KNOTS_LN_N[0]),
            ln_n_step=float(KNOTS_LN_N[1] - KNOTS_LN_N[0]),
            **{
                name: np.ascontiguousarray(values, dtype=np.float64)
                for name, values in (
                    ("mean", self.usual.mean),
                    ("spread", self.usual.spread),
                    ("slope", self.slope),
                    ("hinge_slope", self.hinge_slope),
                    ("hinge", self.hinge),
                    ("bias", self.bias),
                    ("head_slope", self.head_slope),
                    ("head_mean", nothing if self.heads is None else self.heads.usual.mean),
                    ("head_spread", nothing if self.heads is None else self.heads.usual.spread),
                    ("margin", self.margin),
                    ("chance", self.chance),
                )
            },
        )

    def zones_of(self, evidence: F64) -> ScoredZones:
        """Zone and confidence of the means of tokens' evidence, [r, NUM_EVIDENCE]: of requests, of sentences."""
        from attn_core.row_loops import score_rows

        rows = np.ascontiguousarray(evidence, dtype=np.float64).reshape(-1, NUM_EVIDENCE)
        found = ScoredZones(
            zone_index=np.empty(len(rows), dtype=np.int8),
            confidence=np.empty(len(rows), dtype=np.float32),
            scores=np.empty((len(rows), len(ZONES))),
        )
        score_rows(self.numbers, rows, found.zone_index, found.confidence, found.scores)
        return found

    def probabilities(self, scores: F64) -> F32:
        """Softmax over the temperature of scores [m, 5], 0 where a zone is closed: float32 [m, 5]."""
        scaled = scores / self.temperature
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True, initial=-np.inf))
        shares: F32 = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        return shares

    def reason(self, zone_index: int, evidence: F64) -> Reason:
        """The own characteristic that speaks most for this zone at this evidence [NUM_EVIDENCE]."""
        speaks = [
            (self.slope[k] * direction * evidence[Z + c], c)
            for k, (zone, c, direction) in enumerate(OWN)
            if zone == zone_index
        ]
        _, best = max(speaks)
        return Reason(
            characteristic=CHARACTERISTICS[best],
            value=float(evidence[VALUES + best]),
            usual=float(evidence[USUAL + best]),
        )

    def as_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back; numbers to 7 digits."""
        return {
            "usual": {
                "num_tokens": self.usual.num_tokens,
                "mean": _rounded(self.usual.mean),
                "spread": _rounded(self.usual.spread),
            },
            **{name: _rounded(getattr(self, name)) for name in ("slope", "hinge_slope", "hinge", "bias", "head_slope")},
            "heads": None if self.heads is None else self.heads.as_json(),
            "temperature": self.temperature,
            "confidence": {"margin": _rounded(self.margin), "chance": _rounded(self.chance)},
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, read: Any) -> ZoneFormula:
        """The inverse of `as_json`; raises `CalibrationError` where it does not fit."""
        try:
            numbers = {
                name: np.array(read[name], dtype=np.float64)
                for name in ("slope", "hinge_slope", "hinge", "bias", "head_slope")
            }
            usual = UsualValues(
                mean=np.array(read["usual"]["mean"], dtype=np.float64),
                spread=np.array(read["usual"]["spread"], dtype=np.float64),
                num_tokens=int(read["usual"]["num_tokens"]),
            )
            table = {name: np.array(read["confidence"][name], dtype=np.float64) for name in ("margin", "chance")}
            temperature, provenance = float(read["temperature"]), dict(read["provenance"])
            heads = None if read.get("heads") is None else UsualHeads.from_json(read["heads"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CalibrationError(f"this is not a zone formula: {error!r}") from error
        return cls(usual=usual, temperature=temperature, provenance=provenance, heads=heads, **numbers, **table)

    @property
    def version(self) -> str:
        """Its name in manifests and logs."""
        return str(self.provenance.get("version", "shipped"))

    def sha256(self) -> str:
        """Hash of all its numbers: two formulas with the same hash give the same zones."""
        plain = {name: value for name, value in self.as_json().items() if name != "provenance"}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ScoredZones:
    """Answers for r rows."""

    zone_index: npt.NDArray[np.int8]
    """Index into `ZONES`: [r]."""
    confidence: F32
    scores: F64
    """[r, 5], -inf where a zone is closed."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """The characteristic that made a zone."""

    characteristic: str
    """One of `CHARACTERISTICS`."""
    value: float
    """0..1"""
    usual: float
    """What this model usually has at this context length."""


@cache
def shipped_formula() -> ZoneFormula:
    """The formula that comes with the package: for the time before a model's first discovery run."""
    text = resources.files("attn_core").joinpath("zone_formula.json").read_text(encoding="utf-8")
    return ZoneFormula.from_json(json.loads(text))


@dataclass(frozen=True, kw_only=True)
class ZoneFormulas:
    """The formulas of a bundle: one a model, and the one for tokens whose model has none or is not known."""

    of_model: Mapping[str, ZoneFormula]
    """By model name (`model_name`)."""
    default: ZoneFormula

    @classmethod
    def shipped(cls) -> ZoneFormulas:
        """Before the first discovery run."""
        return cls(of_model={}, default=shipped_formula())

    def of(self, model_id: str | None) -> ZoneFormula:
        """The formula for a token of this model."""
        return self.default if model_id is None else self.of_model.get(model_name(model_id), self.default)

    def as_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {
            "schema_version": SCHEMA_VERSION,
            "zones": list(ZONES),
            "characteristics": list(CHARACTERISTICS),
            "default": self.default.as_json(),
            "of_model": {name: formula.as_json() for name, formula in sorted(self.of_model.items())},
        }

    @classmethod
    def from_json(cls, read: Any) -> ZoneFormulas:
        """The inverse of `as_json`; raises `CalibrationError` where it is of another version or does not fit."""
        meaning = {"schema_version": SCHEMA_VERSION, "zones": list(ZONES), "characteristics": list(CHARACTERISTICS)}
        if not isinstance(read, dict) or any(read.get(name) != value for name, value in meaning.items()):
            raise CalibrationError(f"these are not zone formulas of version {SCHEMA_VERSION}: run discovery again")
        if not isinstance(read.get("of_model"), dict):
            raise CalibrationError("these zone formulas name no models")
        formulas = {str(name): ZoneFormula.from_json(one) for name, one in read["of_model"].items()}
        return cls(of_model=formulas, default=ZoneFormula.from_json(read.get("default")))

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(self.as_json()) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> ZoneFormulas:
        """Read what `save` wrote; raises `CalibrationError`."""
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CalibrationError(f"{path.name} cannot be read: {error}") from error
        return cls.from_json(read)


def model_name(model_id: str) -> str:
    """The last part of a path or a hub name: what names a model wherever it lies."""
    return model_id.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _rounded(array: npt.NDArray[np.floating]) -> Any:
    return [[float(f"{x:.7g}") for x in row] for row in array] if array.ndim > 1 else [float(f"{x:.7g}") for x in array]
