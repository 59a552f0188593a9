"""What callers send: read up to a bound, and decoded by msgspec."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request

from attn_core.fingerprint import DIM
from attn_sidecar.admission import LATEST_INSTANT_US, MAX_ID_CHARS
from attn_sidecar.api.problems import Problem, vector_problem
from attn_sidecar.manifold import Question

MAX_BODY_BYTES = 1 << 20
_INT32_MAX = 2**31 - 1
_JSON_HINT = "send JSON with the header content-type: application/json"

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


Body = TypeVar("Body", ClassifyBody, FingerprintBody)


async def read_body(request: Request, decoder: msgspec.json.Decoder[Body]) -> Body:
    """The decoded body; raises `Problem` 400, 413, 415 or 422."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Problem(
            415,
            "content-type",
            title="Not JSON by its content type",
            detail=f"content-type is {content_type[:100]!r}" if content_type else "there is no content-type header",
            mend=_JSON_HINT,
        )
    raw = await _read_bounded(request)
    if not raw:
        raise Problem(400, "empty-body", title="The body is empty", detail="no byte was sent", mend=_JSON_HINT)
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise Problem(
            422,
            "body-invalid",
            title="The body is not what this endpoint takes",
            detail=str(error),
            mend=f"fields of {request.url.path}: {', '.join(decoder.type.__struct_fields__)}; see GET /openapi.json",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(
            400,
            "not-json",
            title="The body is not JSON",
            detail=str(error),
            mend=f"{_JSON_HINT}, in UTF-8; NaN and Infinity are not JSON numbers, and no fingerprint holds them",
        ) from error


async def _read_bounded(request: Request) -> bytes:
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > MAX_BODY_BYTES:
        raise _too_large(f"content-length says {said} bytes")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _too_large(f"more than {MAX_BODY_BYTES} bytes were sent")
        parts.append(part)
    return b"".join(parts)


def _too_large(detail: str) -> Problem:
    return Problem(
        413,
        "body-too-large",
        title="The body is too large",
        detail=detail,
        mend=f"a body has at most {MAX_BODY_BYTES} bytes; one fingerprint needs about 400",
    )


def question_from_body(body: ClassifyBody | FingerprintBody) -> Question:
    """The body's vector and companions; raises `Problem` 422 where it has not 20 numbers."""
    if len(body.vector) != DIM:
        raise vector_problem(f"vector has {len(body.vector)} numbers; a fingerprint has {DIM}")
    return Question(
        vector=body.vector, context_len=body.context_len, sink_mass=body.sink_mass, periodicity=body.periodicity
    )
