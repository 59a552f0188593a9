"""`POST /classify`: zone and cluster of one vector, and how sure either is."""

from __future__ import annotations

import msgspec

from attn_core.bundle import SCHEMA_VERSION
from attn_sidecar.api.bodies import ClassifyBody, decoded, row_from_body
from attn_sidecar.api.endpoint import Endpoint
from attn_sidecar.api.quick import on_the_long_way
from attn_sidecar.classification import Manifold, one_answer
from attn_sidecar.discovery import Discovery


class ClassifyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`run_id` is null before the first discovery run."""

    manifold: Manifold
    schema_version: int
    run_id: str | None


def endpoints(discovery: Discovery) -> list[Endpoint]:
    """The endpoint, classifying with the served run on the event loop."""
    decoder = msgspec.json.Decoder(ClassifyBody)
    encoder = msgspec.json.Encoder()

    async def classify(raw: bytes) -> tuple[int, bytes]:
        body = decoded(raw, decoder, path="/classify")
        found = one_answer(discovery.served.classifier, row_from_body(body), with_position="position" in body.include)
        manifold = found.manifold(0, explain=body.explain)
        answer = ClassifyAnswer(manifold=manifold, schema_version=SCHEMA_VERSION, run_id=found.run_id)
        return 200, encoder.encode(answer)

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
