"""`POST /classify/batch` and `POST /fingerprint/batch`: many fingerprints at once, as JSON or Arrow, in or out.

A question asked in vain costs the others nothing: `/classify/batch` answers every row, and says of the invalid ones
what is wrong. What is to be stored is stored whole or not at all: one invalid row refuses a `/fingerprint/batch`, with
its number, before anything is written. Sending a batch again is always safe: (request_id, step) is stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from attn_core.bundle import SCHEMA_VERSION
from attn_core.zones import CHARACTERISTICS, ZONES
from attn_sidecar.api.arrow_bodies import COMPANIONS, places_from_table, rows_from_table, table_from_body
from attn_sidecar.api.asked import ARROW_STREAM
from attn_sidecar.api.bodies import ClassifyBody, Explain, FingerprintBody, decoded, rows_from_bodies
from attn_sidecar.api.endpoint import Endpoint
from attn_sidecar.api.fingerprint import store
from attn_sidecar.api.problems import vector_problem
from attn_sidecar.api.quick import read_body
from attn_sidecar.classification import Answers, Manifold, Rows, answers_of
from attn_sidecar.discovery import Discovery
from attn_sidecar.store.jobs import PostedFingerprint, Stored
from attn_sidecar.store.writer import Writer

MAX_BATCH_BYTES = 16 << 20
MAX_QUESTIONS, MAX_FINGERPRINTS = 65_536, 8_192


class ClassifyBatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Vectors to classify, each with what is known beside it."""

    fingerprints: Annotated[list[ClassifyBody], Meta(min_length=1, max_length=MAX_QUESTIONS)]
    explain: Explain = False
    """For all of them, whatever the single ones say."""


class FingerprintBatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fingerprints to store and classify."""

    fingerprints: Annotated[list[FingerprintBody], Meta(min_length=1, max_length=MAX_FINGERPRINTS)]
    explain: Explain = False
    """For all of them, whatever the single ones say."""


class InvalidRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is no fingerprint, counted from 0."""

    row: int
    detail: str


class ClassifyBatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A manifold a row, in order; null where the row is in `invalid`."""

    manifolds: list[Manifold | None]
    invalid: list[InvalidRow]
    schema_version: int
    run_id: str | None


class FingerprintBatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """201 where one is new, 200 where all were held already. `stored` is false where (request_id, step) was held."""

    num_stored: int
    stored: list[bool]
    manifolds: list[Manifold]
    schema_version: int
    run_id: str | None


def endpoints(discovery: Discovery, *, writer: Writer, now_us: Callable[[], int]) -> list[Endpoint]:
    """The endpoints, classifying with the served run and storing through this writer."""
    asked_decoder = msgspec.json.Decoder(ClassifyBatchBody)
    posted_decoder = msgspec.json.Decoder(FingerprintBatchBody)

    def questions(body: bytes, kind: str) -> tuple[Rows, Sequence[bool]]:
        if kind == ARROW_STREAM:
            table = table_from_body(body, needed=("vector",), also=COMPANIONS, most_rows=MAX_QUESTIONS)
            return rows_from_table(table), [False] * table.num_rows
        batch = decoded(body, asked_decoder, path="/classify/batch")
        return rows_from_bodies(batch.fingerprints, numbered=True), _explained(batch)

    def posted(body: bytes, kind: str) -> tuple[Rows, list[tuple[str, int, int]], Sequence[bool]]:
        if kind == ARROW_STREAM:
            needed, also = ("request_id", "step", "vector"), ("captured_at_us", *COMPANIONS)
            table = table_from_body(body, needed=needed, also=also, most_rows=MAX_FINGERPRINTS)
            return rows_from_table(table), places_from_table(table, now_us=now_us()), [False] * table.num_rows
        batch = decoded(body, posted_decoder, path="/fingerprint/batch")
        held = batch.fingerprints
        now = now_us()
        places = [(f.request_id, f.step, now if f.captured_at_us is None else f.captured_at_us) for f in held]
        return rows_from_bodies(held, numbered=True), places, _explained(batch)

    async def classify_batch(request: Request) -> Response:
        body, kind = await read_body(
            request.scope["headers"], request.receive, also=(ARROW_STREAM,), most=MAX_BATCH_BYTES
        )

        def answer() -> Response:
            rows, explained = questions(body, kind)
            found = answers_of(discovery.served.classifier, rows)
            return _response(found, explained, as_arrow=_wants_arrow(request))

        return await asyncio.to_thread(answer)

    async def add_fingerprints(request: Request) -> Response:
        body, kind = await read_body(
            request.scope["headers"], request.receive, also=(ARROW_STREAM,), most=MAX_BATCH_BYTES
        )
        rows, places, explained = await asyncio.to_thread(posted, body, kind)
        found = await asyncio.to_thread(answers_of, discovery.served.classifier, rows)
        wrong = next((i for i, reason in enumerate(found.invalid) if reason is not None), None)
        if wrong is not None:
            raise vector_problem(f"row {wrong}: {found.invalid[wrong]}; nothing was stored")
        jobs = _jobs(rows, places, found)
        stored = [one.stored for one in await asyncio.gather(*(store(writer, job) for job in jobs))]
        return await asyncio.to_thread(_stored_response, found, stored, explained, as_arrow=_wants_arrow(request))

    return [
        Endpoint(
            method="POST",
            path="/classify/batch",
            handler=classify_batch,
            summary="Classify many fingerprints",
            body=ClassifyBatchBody,
            also_takes=(ARROW_STREAM,),
            answer=ClassifyBatchAnswer,
            also_answers=(ARROW_STREAM,),
            problems=(400, 413, 415, 422),
        ),
        Endpoint(
            method="POST",
            path="/fingerprint/batch",
            handler=add_fingerprints,
            summary="Store and classify many fingerprints, all or none",
            body=FingerprintBatchBody,
            also_takes=(ARROW_STREAM,),
            answer=FingerprintBatchAnswer,
            also_answers=(ARROW_STREAM,),
            statuses=(201, 200),
            problems=(400, 413, 415, 422, 503),
        ),
    ]


def _explained(batch: ClassifyBatchBody | FingerprintBatchBody) -> list[bool]:
    return [batch.explain or one.explain for one in batch.fingerprints]


def _response(found: Answers, explained: Sequence[bool], *, as_arrow: bool) -> Response:
    if as_arrow:
        columns = {**_columns(found), "invalid": pa.array(found.invalid, pa.string())}
        return _arrow_response(columns, run_id=found.run_id, status=200)
    answer = ClassifyBatchAnswer(
        manifolds=[
            found.manifold(i, explain=explain) if reason is None else None
            for i, (reason, explain) in enumerate(zip(found.invalid, explained, strict=True))
        ],
        invalid=[InvalidRow(row=i, detail=reason) for i, reason in enumerate(found.invalid) if reason is not None],
        schema_version=SCHEMA_VERSION,
        run_id=found.run_id,
    )
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _stored_response(found: Answers, stored: list[bool], explained: Sequence[bool], *, as_arrow: bool) -> Response:
    status = 201 if any(stored) else 200
    if as_arrow:
        return _arrow_response({"stored": pa.array(stored), **_columns(found)}, run_id=found.run_id, status=status)
    answer = FingerprintBatchAnswer(
        num_stored=sum(stored),
        stored=stored,
        manifolds=[found.manifold(row, explain=explain) for row, explain in enumerate(explained)],
        schema_version=SCHEMA_VERSION,
        run_id=found.run_id,
    )
    return Response(msgspec.json.encode(answer), status_code=status, media_type="application/json")


def _jobs(
    rows: Rows, places: Sequence[tuple[str, int, int]], found: Answers
) -> list[Callable[[Callable[[Stored | Exception], None]], PostedFingerprint]]:
    def job(row: int, answer: Callable[[Stored | Exception], None]) -> PostedFingerprint:
        request_id, step, at_us = places[row]
        return PostedFingerprint(
            request_id=request_id,
            step=step,
            captured_at_us=at_us,
            rows=rows,
            answers=found,
            row=row,
            answer=answer,
        )

    return [partial(job, row) for row in range(len(places))]


def _wants_arrow(request: Request) -> bool:
    return ARROW_STREAM in request.headers.get("accept", "")


def _columns(found: Answers) -> dict[str, pa.Array]:
    """The answers by columns, null where a row is invalid."""
    classified = found.classified
    wrong = np.array([reason is not None for reason in found.invalid], dtype=np.bool_)
    reasons = [found.characteristic(row, zone=int(zone)) for row, zone in enumerate(classified.zone_index)]
    names = np.array([CHARACTERISTICS.index(reason.name) for reason in reasons], dtype=np.int8)
    value, usual = (
        np.array([getattr(reason, name) for reason in reasons], dtype=np.float32) for name in ("value", "usual")
    )
    return {
        "zone": pa.DictionaryArray.from_arrays(pa.array(classified.zone_index, mask=wrong), pa.array(ZONES)),
        "confidence": pa.array(classified.confidence, mask=wrong),
        "cluster_id": pa.array(classified.cluster_id, mask=wrong),
        "cluster_confidence": pa.array(classified.cluster_confidence, mask=wrong),
        "characteristic": pa.DictionaryArray.from_arrays(pa.array(names, mask=wrong), pa.array(CHARACTERISTICS)),
        "characteristic_value": pa.array(value, mask=wrong),
        "usual_value": pa.array(usual, mask=wrong),
    }


def _arrow_response(columns: dict[str, Any], *, run_id: str | None, status: int) -> Response:
    table = pa.table(columns).replace_schema_metadata({"run_id": run_id or "", "schema_version": str(SCHEMA_VERSION)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return Response(sink.getvalue().to_pybytes(), status_code=status, media_type=ARROW_STREAM)
