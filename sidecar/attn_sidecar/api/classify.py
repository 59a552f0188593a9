"""`POST /classify`: zone, confidence and cluster of one vector."""

from __future__ import annotations

import msgspec

from attn_core.bundle import SCHEMA_VERSION
from attn_sidecar.api.bodies import ClassifyBody, decoded, question_from_body
from attn_sidecar.api.endpoint import Endpoint
from attn_sidecar.api.quick import on_the_long_way
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

    encoder = msgspec.json.Encoder()

    async def classify(raw: bytes) -> tuple[int, bytes]:
        question = question_from_body(decoded(raw, decoder, path="/classify"))
        manifold, run_id = desk.at_once(question) or await desk.classify(question)
        return 200, encoder.encode(ClassifyAnswer(manifold=manifold, schema_version=SCHEMA_VERSION, run_id=run_id))

    return [
        Endpoint(
            method="POST",
            path="/classify",
            handler=on_the_long_way(classify, name="classify"),
            quick=classify,
            summary="Classify a fingerprint",
            body=ClassifyBody,
            answer=ClassifyAnswer,
            problems=(400, 413, 415, 422),
        )
    ]
