"""What callers send, decoded and checked by msgspec."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from attn_core.fingerprint import DIM
from attn_sidecar.admission import LATEST_INSTANT_US, MAX_ID_CHARS
from attn_sidecar.api.problems import Problem, vector_problem
from attn_sidecar.api.quick import JSON_HINT
from attn_sidecar.manifold import Question

_INT32_MAX = 2**31 - 1

Vector = Annotated[
    list[float],
    Meta(
        description="The fingerprint: 20 finite numbers that hold the invariants of its layout.",
        extra_json_schema={"minItems": DIM, "maxItems": DIM},
    ),
]
ContextLen = Annotated[int, Meta(ge=1, le=_INT32_MAX, description="Positions attended over, n.")]
Share = Annotated[float, Meta(ge=0, le=1)]


class ClassifyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vector to classify. What is known beside it makes the answer surer."""

    vector: Vector
    context_len: ContextLen | None = None
    sink_mass: Share | None = None
    periodicity: Share | None = None


class FingerprintBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fingerprint to store and classify; (request_id, step) is unique."""

    request_id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
    vector: Vector
    step: Annotated[int, Meta(ge=0, le=_INT32_MAX, description="Output token number, from 0.")]
    captured_at_us: Annotated[int, Meta(ge=0, le=LATEST_INSTANT_US)] | None = None
    context_len: ContextLen | None = None
    sink_mass: Share | None = None
    periodicity: Share | None = None


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


def question_from_body(body: ClassifyBody | FingerprintBody) -> Question:
    """The body's vector and companions; raises `Problem` 422 where it has not 20 numbers."""
    if len(body.vector) != DIM:
        raise vector_problem(f"vector has {len(body.vector)} numbers; a fingerprint has {DIM}")
    return Question(
        vector=body.vector, context_len=body.context_len, sink_mass=body.sink_mass, periodicity=body.periodicity
    )
