"""`POST /fingerprint`: store one fingerprint and classify it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from attn_core.bundle import SCHEMA_VERSION
from attn_sidecar.api.bodies import FingerprintBody, decoded, instant_of, row_from_body, sketch_of
from attn_sidecar.api.endpoint import Endpoint
from attn_sidecar.api.quick import on_the_long_way
from attn_sidecar.classification import Manifold, one_answer
from attn_sidecar.discovery import Discovery
from attn_sidecar.store.jobs import PostedFingerprint, Stored
from attn_sidecar.store.writer import Writer


class FingerprintAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """201 where it is new; 200 with `stored` false where (request_id, step) was held already and stays as it is."""

    stored: bool
    request_id: str
    step: int
    manifold: Manifold
    schema_version: int
    run_id: str | None


def endpoints(writer: Writer, *, discovery: Discovery, now_us: Callable[[], int]) -> list[Endpoint]:
    """The endpoint, classifying with the served run on the event loop, storing through this writer."""
    decoder = msgspec.json.Decoder(FingerprintBody)

    async def add_fingerprint(raw: bytes) -> tuple[int, bytes]:
        body = decoded(raw, decoder, path="/fingerprint")
        rows = row_from_body(body)
        at_us = instant_of(body, now_us=now_us())
        found = one_answer(discovery.served.classifier, rows)
        stored = await store(
            writer,
            lambda answer: PostedFingerprint(
                request_id=body.request_id,
                step=body.step,
                captured_at_us=at_us,
                rows=rows,
                answers=found,
                row=0,
                sketch=sketch_of(body),
                answer=answer,
            ),
        )
        answer = FingerprintAnswer(
            stored=stored.stored,
            request_id=body.request_id,
            step=body.step,
            manifold=found.manifold(0, explain=body.explain),
            schema_version=SCHEMA_VERSION,
            run_id=found.run_id,
        )
        return 201 if stored.stored else 200, msgspec.json.encode(answer)

    return [
        Endpoint(
            method="POST",
            path="/fingerprint",
            handler=on_the_long_way(add_fingerprint, name="add_fingerprint"),
            quick=add_fingerprint,
            summary="Store and classify a fingerprint",
            body=FingerprintBody,
            answer=FingerprintAnswer,
            statuses=(201, 200),
            problems=(400, 413, 415, 422, 503),
        )
    ]


async def store(writer: Writer, job: Callable[[Callable[[Stored | Exception], None]], PostedFingerprint]) -> Stored:
    """Hand the job to the writing thread and wait for its commit; raises `StoreError`."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Stored] = loop.create_future()

    def settle(outcome: Stored | Exception) -> None:
        if answered.done():
            return
        if isinstance(outcome, Exception):
            answered.set_exception(outcome)
        else:
            answered.set_result(outcome)

    writer.post(job(lambda outcome: _tell(loop, settle, outcome)))
    return await answered


def _tell(
    loop: asyncio.AbstractEventLoop, settle: Callable[[Stored | Exception], None], outcome: Stored | Exception
) -> None:
    # While stopping the loop may be gone before the last commit; the row is stored all the same.
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle, outcome)
