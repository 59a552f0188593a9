"""The head sketch: what the captured heads did, each by itself, in a few numbers beside the fingerprint.

The fingerprint is a mean over heads, and means hide what the heads do. A model's heads hold more: five figures a head
(`HEAD_FIGURES`), some hundreds of numbers a token, too many to send for each. A `HeadProjection` turns them into
`NUM_SKETCH` numbers that keep most of what varies (principal components, learned without labels) and `NUM_EVIDENCE`
numbers, one a zone, each a weighted sum of the zone's own characteristics at a few specialist heads:

    (head_sketch, zone_evidence) = figures @ matrix + offset

It is linear, so ranks that hold different heads add up their parts, and blocks of positions theirs. Two sketches may be
compared where they come from one matrix alone: its hash goes with every batch, into the database and into the bundle.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from attn_core.errors import ProjectionError

HEAD_FIGURES: tuple[str, ...] = ("sink_mass", "local_mass", "mid_mass", "long_mass", "entropy")
"""Of one head's own distribution over the positions: masses on positions 0..3, at distances 0..9, 10..99 and from 100
on (the sink's positions count in their distance class too), and the entropy in nats."""
NUM_HEAD_FIGURES = len(HEAD_FIGURES)
NUM_SKETCH = 16
NUM_EVIDENCE = 5
NUM_COLUMNS = NUM_SKETCH + NUM_EVIDENCE
"""Of the matrix: `head_sketch`, then `zone_evidence` in the order of `attn_core.zones.ZONES`."""
SCHEMA_VERSION = 1
MAX_HEADS = 1 << 14
"""Captured heads (layers times heads) of any model; a file that claims more is refused before it is read."""
MAX_BYTES = 8 << 20
"""Of a projection's file."""
LARGEST = 1e4
"""No entry is larger, so that no sketch leaves float16's range for want of scale."""
SKETCH_LARGEST = 60_000.0
"""A sketch is held within this before it becomes float16 (largest 65,504): no infinity travels."""
F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class HeadProjection:
    """One model's matrix. Immutable: a new matrix is a new projection with another hash."""

    model: str
    """The served model's name without its path (`attn_core.zones.model_name`)."""
    layers: tuple[int, ...]
    """The captured layers' numbers without repeats, ascending."""
    num_heads: int
    """Query heads a layer, over all ranks."""
    matrix: F32
    """[layers * heads * NUM_HEAD_FIGURES, NUM_COLUMNS]; rows by layer, then head, then figure."""
    offset: F32
    """[NUM_COLUMNS], added once."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What it was learned from; not part of the hash."""

    def __post_init__(self) -> None:
        rows = len(self.layers) * self.num_heads * NUM_HEAD_FIGURES
        if not self.layers or not 0 < len(self.layers) * self.num_heads <= MAX_HEADS:
            raise ProjectionError(f"head projection: {len(self.layers)} layers of {self.num_heads} heads")
        if list(self.layers) != sorted(set(self.layers)):
            raise ProjectionError(f"head projection: layers {list(self.layers)} are not ascending without repeats")
        for name, values, shape in (
            ("matrix", self.matrix, (rows, NUM_COLUMNS)),
            ("offset", self.offset, (NUM_COLUMNS,)),
        ):
            if values.shape != shape or values.dtype != np.float32:
                raise ProjectionError(
                    f"head projection: {name} is {values.dtype}{list(values.shape)}, expected float32{list(shape)}"
                )
            if not np.isfinite(values).all() or not (abs(values) <= LARGEST).all():
                raise ProjectionError(f"head projection: {name} holds a number beyond {LARGEST:g}, or none")

    @cached_property
    def sha256(self) -> str:
        """Hash of all that decides a sketch: layers, heads, matrix, offset."""
        digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, list(self.layers), self.num_heads]).encode())
        for values in (self.matrix, self.offset):
            digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
        return digest.hexdigest()

    @property
    def has_evidence(self) -> bool:
        """Whether any specialist head was chosen: else the columns of zone evidence are 0."""
        return bool(self.matrix[:, NUM_SKETCH:].any())

    def fits(self, *, layers: tuple[int, ...], num_heads: int) -> bool:
        """Whether it is made for these captured layers (repeats allowed) and heads."""
        return self.layers == tuple(sorted(set(layers))) and self.num_heads == num_heads

    def project(self, figures: npt.NDArray[np.floating]) -> F32:
        """float32 [m, NUM_COLUMNS] of raw head figures, float [m, layers * heads * NUM_HEAD_FIGURES]."""
        wide = np.asarray(figures, dtype=np.float64).reshape(-1, len(self.matrix))
        found: F32 = (wide @ self.matrix.astype(np.float64) + self.offset).astype(np.float32)
        return found

    def to_bytes(self) -> bytes:
        """An .npz without object arrays, so nothing in it can run code."""
        told = {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "layers": list(self.layers),
            "num_heads": self.num_heads,
            "provenance": dict(self.provenance),
        }
        sink = io.BytesIO()
        np.savez(
            sink,
            matrix=self.matrix,
            offset=self.offset,
            told=np.frombuffer(json.dumps(told, sort_keys=True, allow_nan=False).encode(), dtype=np.uint8),
        )
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> HeadProjection:
        """The inverse of `to_bytes`; raises `ProjectionError` where it does not fit together."""
        if len(data) > MAX_BYTES:
            raise ProjectionError(f"head projection: {len(data)} bytes, at most {MAX_BYTES}")
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                matrix, offset = file["matrix"], file["offset"]
                told = json.loads(file["told"].astype(np.uint8).tobytes())
            version, model = told["schema_version"], str(told["model"])
            layers, num_heads = tuple(int(layer) for layer in told["layers"]), int(told["num_heads"])
            provenance = dict(told["provenance"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, RecursionError) as error:
            raise ProjectionError(f"this is not a head projection: {error!r}") from error
        if version != SCHEMA_VERSION:
            raise ProjectionError(f"head projection of version {version}; this version reads {SCHEMA_VERSION}")
        return cls(model=model, layers=layers, num_heads=num_heads, matrix=matrix, offset=offset, provenance=provenance)

    def save(self, path: Path) -> None:
        """Write `to_bytes`."""
        path.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> HeadProjection:
        """Read what `save` wrote; raises `ProjectionError`."""
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ProjectionError(f"{path.name} has more than {MAX_BYTES} bytes: no head projection")
            data = path.read_bytes()
        except OSError as error:
            raise ProjectionError(f"{path.name} cannot be read: {error}") from error
        return cls.from_bytes(data)


def to_float16(values: npt.NDArray[np.floating]) -> F16:
    """As a sketch travels and is stored: float16 of values held within `SKETCH_LARGEST`."""
    found: F16 = np.clip(values, -SKETCH_LARGEST, SKETCH_LARGEST).astype(np.float16)
    return found
