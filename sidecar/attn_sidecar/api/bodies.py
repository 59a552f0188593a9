"""What callers send, decoded and checked by msgspec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from attn_core.fingerprint import DIM, MAX_CONTEXT_LEN
from attn_sidecar.admission import LATEST_INSTANT_US, MAX_ID_CHARS
from attn_sidecar.api.problems import Problem, vector_problem
from attn_sidecar.api.quick import JSON_HINT
from attn_sidecar.classification import Rows, rows_from_values

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
Explain = Annotated[bool, Meta(description="Whether the answer says what made the zone, and how sure the cluster is.")]


class ClassifyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vector to classify. What is known beside it makes the answer surer."""

    vector: Vector
    context_len: ContextLen | None = None
    sink_mass: Share | None = None
    periodicity: Share | None = None
    explain: Explain = False


class FingerprintBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fingerprint to store and classify; (request_id, step) is unique."""

    request_id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
    vector: Vector
    step: Annotated[int, Meta(ge=0, le=_INT32_MAX, description="Output token number, from 0.")]
    captured_at_us: Annotated[int, Meta(ge=0, le=LATEST_INSTANT_US)] | None = None
    context_len: ContextLen | None = None
    sink_mass: Share | None = None
    periodicity: Share | None = None
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


def rows_from_bodies(bodies: Sequence[ClassifyBody | FingerprintBody], *, numbered: bool) -> Rows:
    """A row each; raises `Problem` 422 where a vector has not 20 numbers, with its row where they are `numbered`."""
    for row, body in enumerate(bodies):
        if len(body.vector) != DIM:
            where = f"row {row}: " if numbered else ""
            raise vector_problem(f"{where}vector has {len(body.vector)} numbers; a fingerprint has {DIM}")
    return rows_from_values(
        [body.vector for body in bodies],
        context_len=[body.context_len for body in bodies],
        sink_mass=[body.sink_mass for body in bodies],
        periodicity=[body.periodicity for body in bodies],
    )
