"""What callers send, decoded and checked by msgspec."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from attn_core.fingerprint import DIM, MAX_CONTEXT_LEN
from attn_core.head_projection import NUM_EVIDENCE, NUM_SKETCH, SKETCH_LARGEST
from attn_sidecar.admission import LATEST_INSTANT_US, MAX_ID_CHARS, why_no_instant
from attn_sidecar.api.problems import Problem, vector_problem
from attn_sidecar.api.quick import JSON_HINT
from attn_sidecar.classification import PostedSketch, Rows, Sketches, rows_from_values

_INT32_MAX = 2**31 - 1

Vector = Annotated[
    list[float],
    Meta(
        description="The fingerprint: 20 finite numbers that hold the invariants of its layout.",
        extra_json_schema={"minItems": DIM, "maxItems": DIM},
    ),
]
ContextLen = Annotated[int, Meta(ge=1, le=MAX_CONTEXT_LEN, description="Positions attended over, n.")]
Share = Annotated[float, Meta(ge=0, le=1)]
_SketchNumber = Annotated[float, Meta(ge=-SKETCH_LARGEST, le=SKETCH_LARGEST)]
HeadSketch = Annotated[
    list[_SketchNumber],
    Meta(min_length=NUM_SKETCH, max_length=NUM_SKETCH, description="What the captured heads did; kept as float16."),
]
ZoneEvidence = Annotated[
    list[_SketchNumber],
    Meta(min_length=NUM_EVIDENCE, max_length=NUM_EVIDENCE, description="A number a zone; kept as float16."),
]
PROJECTION_PATTERN = "^[0-9a-f]{64}$"
HeadProjectionHash = Annotated[
    str,
    # The length too, since a pattern's end lets a line break through.
    Meta(
        pattern=PROJECTION_PATTERN,
        max_length=64,
        description="SHA-256 of the matrix that made head_sketch and zone_evidence.",
    ),
]
HALF_A_SKETCH = "head_sketch, zone_evidence and head_projection come together or not at all"
Explain = Annotated[bool, Meta(description="Whether the answer says what made the zone, and how sure the cluster is.")]


Include = Annotated[
    list[Literal["position"]],
    Meta(description="What else to answer: `position`, where it lies on the served map, with `cluster_confidence`."),
]


class ClassifyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vector to classify. What is known beside it makes the answer surer."""

    vector: Vector
    context_len: ContextLen | None = None
    sink_mass: Share | None = None
    periodicity: Share | None = None
    head_sketch: HeadSketch | None = None
    zone_evidence: ZoneEvidence | None = None
    head_projection: HeadProjectionHash | None = None
    explain: Explain = False
    include: Include = []


class FingerprintBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fingerprint to store and classify; (request_id, step) is unique."""

    request_id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
    vector: Vector
    step: Annotated[int, Meta(ge=0, le=_INT32_MAX, description="Output token number, from 0.")]
    captured_at_us: Annotated[int, Meta(ge=0, le=LATEST_INSTANT_US)] | None = None
    context_len: ContextLen | None = None
    sink_mass: Share | None = None
    periodicity: Share | None = None
    head_sketch: HeadSketch | None = None
    zone_evidence: ZoneEvidence | None = None
    head_projection: HeadProjectionHash | None = None
    explain: Explain = False


Body = TypeVar("Body", bound=msgspec.Struct)


def decoded(raw: bytes, decoder: msgspec.json.Decoder[Body], *, path: str) -> Body:
    """The body as a struct; raises `Problem` 400 or 422."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise Problem(
            422,
            "body-invalid",
            title="The body is not what this endpoint takes",
            detail=str(error),
            mend=f"fields of {path}: {', '.join(decoder.type.__struct_fields__)}; see GET /openapi.json",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(
            400,
            "not-json",
            title="The body is not JSON",
            detail=str(error),
            mend=f"{JSON_HINT}, in UTF-8; NaN and Infinity are not JSON numbers, and no fingerprint holds them",
        ) from error


Row = TypeVar("Row", bound=ClassifyBody | FingerprintBody)


@dataclass(frozen=True, kw_only=True)
class RowsOfBatch(Generic[Row]):
    """The rows of a body, each usable or refused alone."""

    rows: list[Row | None]
    """None where a row is refused."""
    explained: list[bool]
    refused: dict[int, str]
    """By row, why."""


def rows_of_batch(bodies: Sequence[Row], *, explain: bool, now_us: int | None = None) -> RowsOfBatch[Row]:
    """The rows of a decoded batch; those with a part of a sketch, or with an instant that cannot be at `now_us`, are
    refused alone.

    Raises `Problem` 422 where a vector has not 20 numbers, as where the body breaks its schema in any other way.
    """
    rows: list[Row | None] = list(bodies)
    refused: dict[int, str] = {}
    for i, body in enumerate(bodies):
        if len(body.vector) != DIM:
            raise vector_problem(f"row {i}: vector has {len(body.vector)} numbers; a fingerprint has {DIM}")
        reason = _why_no_sketch(body)
        if isinstance(body, FingerprintBody) and body.captured_at_us is not None and now_us is not None:
            reason = reason or why_no_instant(body.captured_at_us, now_us=now_us)
        if reason is not None:
            rows[i], refused[i] = None, reason
    return RowsOfBatch(rows=rows, explained=[explain or body.explain for body in bodies], refused=refused)


def rows_from_batch(bodies: Sequence[ClassifyBody | FingerprintBody | None]) -> Rows:
    """A row each; one that was refused is all NaN, which is no fingerprint."""
    nothing = [math.nan] * DIM
    return rows_from_values(
        [nothing if body is None else body.vector for body in bodies],
        context_len=[None if body is None else body.context_len for body in bodies],
        sink_mass=[None if body is None else body.sink_mass for body in bodies],
        periodicity=[None if body is None else body.periodicity for body in bodies],
        sketches=Sketches.of([sketch_of(body) for body in bodies]),
    )


def row_from_body(body: ClassifyBody | FingerprintBody) -> Rows:
    """The one row of this body; raises `Problem` 422 where its vector has not 20 numbers or its sketch is not whole."""
    if len(body.vector) != DIM:
        raise vector_problem(f"vector has {len(body.vector)} numbers; a fingerprint has {DIM}")
    if (reason := _why_no_sketch(body)) is not None:
        raise Problem(
            422,
            "body-invalid",
            title="The body is not what this endpoint takes",
            detail=reason,
            mend="send all three as they came beside the vector, or leave all three out",
        )
    return rows_from_batch([body])


def sketch_of(body: ClassifyBody | FingerprintBody | None) -> PostedSketch | None:
    """The head sketch of a checked body, None where it has none."""
    if body is None or body.head_sketch is None or body.zone_evidence is None or body.head_projection is None:
        return None
    return PostedSketch(
        head_sketch=body.head_sketch, zone_evidence=body.zone_evidence, head_projection=body.head_projection
    )


def _why_no_sketch(body: ClassifyBody | FingerprintBody) -> str | None:
    """Why these are not the parts of a head sketch, None where all or none of them are there."""
    given = [name for name in ("head_sketch", "zone_evidence", "head_projection") if getattr(body, name) is not None]
    return None if len(given) in (0, 3) else f"{' and '.join(given)} alone: {HALF_A_SKETCH}"


def instant_of(body: FingerprintBody, *, now_us: int) -> int:
    """When the fingerprint was captured, now where it does not say; raises `Problem` 422 where that cannot be."""
    if body.captured_at_us is None:
        return now_us
    if (reason := why_no_instant(body.captured_at_us, now_us=now_us)) is not None:
        raise Problem(
            422,
            "body-invalid",
            title="The body is not what this endpoint takes",
            detail=reason,
            mend="captured_at_us is UTC microseconds since 1970; leave it out for the present",
        )
    return body.captured_at_us
