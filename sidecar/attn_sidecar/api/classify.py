"""`POST /classify`: zone, confidence and cluster of one vector."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_core.bundle import SCHEMA_VERSION
from attn_sidecar.api.bodies import ClassifyBody, question_from_body, read_body
from attn_sidecar.api.endpoint import Endpoint, json_response
from attn_sidecar.desk import ClassifyDesk
from attn_sidecar.manifold import Manifold


class ClassifyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """As the guide prints it; `run_id` is null before the first discovery run."""

    manifold: Manifold
    schema_version: int
    run_id: str | None


def endpoints(desk: ClassifyDesk) -> list[Endpoint]:
    """The endpoint, answering from this desk."""
    decoder = msgspec.json.Decoder(ClassifyBody)

    async def classify(request: Request) -> Response:
        question = question_from_body(await read_body(request, decoder))
        manifold, run_id = await desk.classify(question)
        return json_response(ClassifyAnswer(manifold=manifold, schema_version=SCHEMA_VERSION, run_id=run_id))

    return [
        Endpoint(
            method="POST",
            path="/classify",
            handler=classify,
            summary="Classify a fingerprint",
            body=ClassifyBody,
            answer=ClassifyAnswer,
            problems=(400, 413, 415, 422),
        )
    ]
