"""The space in which tokens are compared: by map, clusters, drift and the served classifier alike.

Two sets of columns, each relative to what the token's model usually does at that context length (`attn_core.usual`):
the averages over heads (`attn_core.features`), which every token has, and the head sketch, which a token has where its
model has a head projection (`attn_core.head_projection`). The averages are one continuum; the sketch has clusters in
it. So a map of tokens with sketches rests on the sketch alone, and a token without one is placed by its averages
among those that have both. A map without sketches rests on the averages, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_core.errors import BundleError
from attn_core.features import FEATURES_VERSION, NUM_FEATURES
from attn_core.head_projection import NUM_SKETCH
from attn_core.usual import KNOTS_LN_N, Usual
from attn_core.zones import model_name

FILE_NAME = "space.json"
"""Its name in a bundle."""
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class UsualNumbers:
    """What one model usually does: its averages, and its sketch where it has one."""

    averages: Usual
    """Of `NUM_FEATURES` columns."""
    sketch: Usual | None
    """Of `NUM_SKETCH` columns."""
    num_tokens: int
    """From how many tokens they were learned."""

    def as_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back, to the bit."""
        return {
            "averages": _json_of(self.averages),
            "sketch": None if self.sketch is None else _json_of(self.sketch),
            "num_tokens": self.num_tokens,
        }

    @classmethod
    def from_json(cls, read: Any) -> UsualNumbers:
        """The inverse of `as_json`; raises `BundleError`."""
        try:
            sketch = None if read["sketch"] is None else _usual_of(read["sketch"], NUM_SKETCH)
            averages, count = _usual_of(read["averages"], NUM_FEATURES), int(read["num_tokens"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{FILE_NAME} holds no usual values: {error!r}") from error
        return cls(averages=averages, sketch=sketch, num_tokens=count)


@dataclass(frozen=True, kw_only=True)
class Space:
    """One run's space; immutable."""

    of_model: Mapping[str, UsualNumbers]
    """By model name (`attn_core.zones.model_name`)."""
    default: UsualNumbers
    """For tokens whose model has none or is not known."""
    projection: str | None
    """Hash of the matrix whose sketches the map rests on; None: it rests on the averages."""
    projected_model: str | None
    """Name of the model that the matrix is of."""
    sketch_scale: F64
    """[NUM_SKETCH], what a spread of each column weighs: 1 for the first, less for those that hold less."""

    def __post_init__(self) -> None:
        if self.sketch_scale.shape != (NUM_SKETCH,) or not (self.sketch_scale > 0).all():
            raise BundleError(f"{FILE_NAME}: sketch_scale is not {NUM_SKETCH} numbers above 0")

    @classmethod
    def plain(cls) -> Space:
        """Before the first run: nothing is usual, so averages are as they are."""
        usual = Usual(mean=np.zeros((NUM_FEATURES, len(KNOTS_LN_N))), spread=np.ones((NUM_FEATURES, len(KNOTS_LN_N))))
        return cls(
            of_model={},
            default=UsualNumbers(averages=usual, sketch=None, num_tokens=0),
            projection=None,
            projected_model=None,
            sketch_scale=np.ones(NUM_SKETCH),
        )

    def usual_of(self, model_id: str | None) -> UsualNumbers:
        """The usual values for tokens of this model."""
        return self.default if model_id is None else self.of_model.get(model_name(model_id), self.default)

    @cached_property
    def sketch_usual(self) -> Usual | None:
        """The usual sketch, its spread over the column's weight: relative to it a sketch lies in the space."""
        if self.projection is None or self.projected_model is None:
            return None
        found = self.of_model.get(self.projected_model, self.default).sketch
        return None if found is None else Usual(mean=found.mean, spread=found.spread / self.sketch_scale[:, None])

    def averages(
        self, features: npt.NDArray[np.floating], *, context_len: npt.NDArray[np.number], model_id: str | None
    ) -> F32:
        """float32 [m, NUM_FEATURES]: `features_from_vectors` of one model's tokens, relative to the length."""
        return self.usual_of(model_id).averages.relative(features, context_len)

    def sketches(self, sketch: npt.NDArray[np.floating], *, context_len: npt.NDArray[np.number]) -> F32:
        """float32 [m, NUM_SKETCH] of sketches of `projection`, in the space; raises `ValueError` where it has none."""
        if self.sketch_usual is None:
            raise ValueError("this space has no sketch")
        return self.sketch_usual.relative(sketch, context_len)

    def as_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back, to the bit."""
        return {
            "features_version": FEATURES_VERSION,
            "knots_ln_n": KNOTS_LN_N.tolist(),
            "projection": self.projection,
            "projected_model": self.projected_model,
            "sketch_scale": self.sketch_scale.tolist(),
            "default": self.default.as_json(),
            "of_model": {name: usual.as_json() for name, usual in sorted(self.of_model.items())},
        }

    @classmethod
    def from_json(cls, read: Any) -> Space:
        """The inverse of `as_json`; raises `BundleError` where it is of another version or does not fit."""
        meaning = {"features_version": FEATURES_VERSION, "knots_ln_n": KNOTS_LN_N.tolist()}
        if not isinstance(read, dict) or any(read.get(name) != value for name, value in meaning.items()):
            raise BundleError(f"{FILE_NAME} is of another version than {FEATURES_VERSION}: run discovery again")
        try:
            scale = np.array(read["sketch_scale"], dtype=np.float64)
            projection, model = read["projection"], read["projected_model"]
            of_model = {str(name): UsualNumbers.from_json(one) for name, one in read["of_model"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"{FILE_NAME} does not fit together: {error!r}") from error
        return cls(
            of_model=of_model,
            default=UsualNumbers.from_json(read.get("default")),
            projection=None if projection is None else str(projection),
            projected_model=None if model is None else str(model),
            sketch_scale=scale,
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(self.as_json()) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Space:
        """Read what `save` wrote; raises `BundleError`."""
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path.name} cannot be read: {error}; run discovery again") from error
        return cls.from_json(read)


def _json_of(usual: Usual) -> dict[str, Any]:
    return {"mean": usual.mean.tolist(), "spread": usual.spread.tolist()}


def _usual_of(read: Any, num_columns: int) -> Usual:
    usual = Usual(mean=np.array(read["mean"], dtype=np.float64), spread=np.array(read["spread"], dtype=np.float64))
    if not usual.fits(num_columns):
        raise ValueError(f"they are not finite numbers of {num_columns} columns")
    return usual
