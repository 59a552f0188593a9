"""The head sketch: what the captured heads did, each by itself, in a few numbers beside the fingerprint.

The fingerprint is a mean over heads, and means hide what the heads do. A model's heads hold more: five figures a head
(`HEAD_FIGURES`), some hundreds of numbers a token, too many to send for each. A `HeadProjection` turns them into
`NUM_SKETCH` numbers that keep most of what varies (principal components, learned without labels) and `NUM_EVIDENCE`
numbers, one a zone, each a weighted sum of the zone's own characteristics at a few specialist heads:

    (head_sketch, zone_evidence) = figures @ matrix + offset

It is linear, so ranks that hold different heads add up their parts, and blocks of positions theirs. Two sketches may be
compared where they come from one matrix alone: its hash goes with every batch, into the database and into the bundle.

A model's current matrix is one file in a folder, replaced whole: `put_projection` and `current_projection`. Discovery
keeps such a folder (`FOLDER`) beside its runs, a model server one in its state directory. Those that come with this
package are read by `shipped_projection`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from attn_core.errors import ProjectionError
from attn_core.zones import model_name

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
FOLDER = "head_projections"
"""The folder of the current matrices, under the discovery folder or a model server's state directory."""
_ODD = re.compile(r"[^A-Za-z0-9._-]")
_NAMED_CHARACTERS = 80
"""Of a model's name, in its file's: the rest of the file name is a hash, which tells apart what these do not."""
_NOT_A_FILE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    OverflowError,
    RuntimeError,
    BadZipFile,
    zlib.error,
    struct.error,
)
"""What NumPy and zipfile raise on bytes that are no .npz of arrays, or one that is damaged."""
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

    def is_of(self, model_id: str) -> bool:
        """Whether it was learned from this model, wherever that lies."""
        return self.model == model_name(model_id)

    def why_unfit(self, *, model_id: str, layers: tuple[int, ...], num_heads: int) -> str | None:
        """Why the captured layers (repeats allowed) and heads of this model cannot take it, or None where they can."""
        if not self.is_of(model_id):
            return f"it is of the model {self.model!r}, not of {model_name(model_id)!r}"
        if not self.fits(layers=layers, num_heads=num_heads):
            return (
                f"it is made for layers {list(self.layers)} of {self.num_heads} heads, and captured are layers "
                f"{sorted(set(layers))} of {num_heads}"
            )
        return None

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
            with ZipFile(io.BytesIO(data)) as packed:
                unpacked = sum(member.file_size for member in packed.infolist())
            if unpacked > MAX_BYTES:
                raise ProjectionError(f"head projection: {unpacked} bytes unpacked, at most {MAX_BYTES}")
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                matrix, offset = file["matrix"], file["offset"]
                told = json.loads(file["told"].astype(np.uint8).tobytes())
            version, model = told["schema_version"], str(told["model"])
            layers, num_heads = tuple(int(layer) for layer in told["layers"]), int(told["num_heads"])
            provenance = dict(told["provenance"])
        except _NOT_A_FILE as error:
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


def projection_file(model_id: str) -> str:
    """The name of the file that holds the matrix of this model, for any id: letters, digits, dots, dashes alone."""
    name = model_name(model_id)
    readable = _ODD.sub("_", name)[:_NAMED_CHARACTERS]
    return f"{readable}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}.npz"


def put_projection(folder: Path, projection: HeadProjection) -> Path:
    """Make this the current matrix of its model in `folder`, which is made where it is not there; the file.

    Whoever reads meanwhile finds the former file or this one, whole, also after a loss of power. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / projection_file(projection.model)
    half = folder / f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with half.open("wb") as file:
            file.write(projection.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path


def current_projection(folder: Path, model_id: str) -> HeadProjection | None:
    """The current matrix of this model in `folder`, or None where there is none.

    Raises `ProjectionError`, naming the file, where it is torn, cannot be read, or is of another model. Whether it fits
    the captured layers and heads is the caller's to ask (`HeadProjection.why_unfit`).
    """
    path = folder / projection_file(model_id)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ProjectionError(f"{path} cannot be read: {error}") from error
    try:
        projection = HeadProjection.load(path)
    except ProjectionError as error:
        raise ProjectionError(f"{path}: {error}") from error
    if not projection.is_of(model_id):
        raise ProjectionError(f"{path} is of the model {projection.model!r}, not of {model_name(model_id)!r}")
    return projection


@cache
def shipped_projection(model_id: str) -> HeadProjection | None:
    """The matrix that comes with this package for this model, or None; raises `ProjectionError` where one is damaged.

    Like `current_projection` it goes by the model's name; `HeadProjection.why_unfit` says whether the shape fits.
    """
    folder = resources.files("attn_core") / FOLDER
    if not folder.is_dir():
        return None
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        if file.name.endswith(".npz"):
            projection = HeadProjection.from_bytes(file.read_bytes())
            if projection.is_of(model_id):
                return projection
    return None
