"""`POST /classify/batch` and `POST /fingerprint/batch`: many fingerprints at once, as JSON or Arrow, in or out.

A question asked in vain costs the others nothing: `/classify/batch` answers every row, and says of the invalid ones
what is wrong. What is to be stored is stored whole or not at all: one invalid row refuses a `/fingerprint/batch`, with
its number, before anything is written. Sending a batch again is always safe: (request_id, step) is stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from attn_core.bundle import SCHEMA_VERSION
from attn_core.classify import Classified, Classifier
from attn_core.fingerprint import DIM
from attn_core.zones import ZONES
from attn_sidecar.api.arrow_bodies import COMPANIONS, places_from_table, rows_from_table, table_from_body
from attn_sidecar.api.asked import ARROW_STREAM
from attn_sidecar.api.bodies import ClassifyBody, FingerprintBody, decoded
from attn_sidecar.api.endpoint import Endpoint
from attn_sidecar.api.fingerprint import store
from attn_sidecar.api.problems import vector_problem
from attn_sidecar.api.quick import read_body
from attn_sidecar.discovery import Discovery
from attn_sidecar.manifold import Manifold, Question, Rows, classified_rows, manifold_of
from attn_sidecar.store.jobs import PostedFingerprint, Stored
from attn_sidecar.store.writer import Writer

MAX_BATCH_BYTES = 16 << 20
MAX_QUESTIONS, MAX_FINGERPRINTS = 65_536, 8_192


class ClassifyBatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Vectors to classify, each with what is known beside it."""

    fingerprints: Annotated[list[ClassifyBody], Meta(min_length=1, max_length=MAX_QUESTIONS)]


class FingerprintBatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fingerprints to store and classify."""

    fingerprints: Annotated[list[FingerprintBody], Meta(min_length=1, max_length=MAX_FINGERPRINTS)]


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

    def questions(body: bytes, kind: str) -> Rows:
        if kind == ARROW_STREAM:
            table = table_from_body(body, needed=("vector",), also=COMPANIONS, most_rows=MAX_QUESTIONS)
            return rows_from_table(table)
        return _rows_from_json(decoded(body, asked_decoder, path="/classify/batch").fingerprints)

    def posted(body: bytes, kind: str) -> tuple[Rows, list[tuple[str, int, int]]]:
        if kind == ARROW_STREAM:
            needed, also = ("request_id", "step", "vector"), ("captured_at_us", *COMPANIONS)
            table = table_from_body(body, needed=needed, also=also, most_rows=MAX_FINGERPRINTS)
            return rows_from_table(table), places_from_table(table, now_us=now_us())
        held = decoded(body, posted_decoder, path="/fingerprint/batch").fingerprints
        now = now_us()
        places = [(f.request_id, f.step, now if f.captured_at_us is None else f.captured_at_us) for f in held]
        return _rows_from_json(held), places

    async def classify_batch(request: Request) -> Response:
        body, kind = await read_body(
            request.scope["headers"], request.receive, also=(ARROW_STREAM,), most=MAX_BATCH_BYTES
        )
        return await asyncio.to_thread(
            lambda: _classified(discovery.served.classifier, questions(body, kind), as_arrow=_wants_arrow(request))
        )

    async def add_fingerprints(request: Request) -> Response:
        body, kind = await read_body(
            request.scope["headers"], request.receive, also=(ARROW_STREAM,), most=MAX_BATCH_BYTES
        )
        rows, places = await asyncio.to_thread(posted, body, kind)
        classifier = discovery.served.classifier
        classified, reasons = await asyncio.to_thread(classified_rows, classifier, rows)
        wrong = next((i for i, reason in enumerate(reasons) if reason is not None), None)
        if wrong is not None:
            raise vector_problem(f"row {wrong}: {reasons[wrong]}; nothing was stored")
        jobs = await asyncio.to_thread(_jobs, rows, places, classified, classifier.run_id)
        stored = [one.stored for one in await asyncio.gather(*(store(writer, job) for job in jobs))]
        status = 201 if any(stored) else 200
        if _wants_arrow(request):
            columns = {"stored": pa.array(stored), **_columns(classified, reasons=None)}
            return _arrow_response(columns, run_id=classifier.run_id, status=status)
        answer = FingerprintBatchAnswer(
            num_stored=sum(stored),
            stored=stored,
            manifolds=[manifold_of(classified, row) for row in range(len(places))],
            schema_version=SCHEMA_VERSION,
            run_id=classifier.run_id,
        )
        return Response(msgspec.json.encode(answer), status_code=status, media_type="application/json")

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


def _rows_from_json(bodies: Sequence[ClassifyBody | FingerprintBody]) -> Rows:
    for row, body in enumerate(bodies):
        if len(body.vector) != DIM:
            raise vector_problem(f"row {row}: vector has {len(body.vector)} numbers; a fingerprint has {DIM}")
    with np.errstate(over="ignore"):
        vectors = np.array([body.vector for body in bodies], dtype=np.float64).astype(np.float32)
    return Rows(
        vectors=vectors,
        context_len=np.array([body.context_len or 0 for body in bodies], dtype=np.int64),
        sink_mass=np.array([np.nan if body.sink_mass is None else body.sink_mass for body in bodies]),
        periodicity=np.array([np.nan if body.periodicity is None else body.periodicity for body in bodies]),
    )


def _classified(classifier: Classifier, rows: Rows, *, as_arrow: bool) -> Response:
    classified, reasons = classified_rows(classifier, rows)
    if as_arrow:
        return _arrow_response(_columns(classified, reasons=reasons), run_id=classifier.run_id, status=200)
    answer = ClassifyBatchAnswer(
        manifolds=[manifold_of(classified, i) if reason is None else None for i, reason in enumerate(reasons)],
        invalid=[InvalidRow(row=i, detail=reason) for i, reason in enumerate(reasons) if reason is not None],
        schema_version=SCHEMA_VERSION,
        run_id=classifier.run_id,
    )
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _jobs(
    rows: Rows, places: Sequence[tuple[str, int, int]], classified: Classified, run_id: str | None
) -> list[Callable[[Callable[[Stored | Exception], None]], PostedFingerprint]]:
    def job(i: int, answer: Callable[[Stored | Exception], None]) -> PostedFingerprint:
        sink, period, n = float(rows.sink_mass[i]), float(rows.periodicity[i]), int(rows.context_len[i])
        request_id, step, at_us = places[i]
        question = Question(
            vector=rows.vectors[i].tolist(),
            context_len=n or None,
            sink_mass=None if np.isnan(sink) else sink,
            periodicity=None if np.isnan(period) else period,
        )
        return PostedFingerprint(
            request_id=request_id,
            step=step,
            captured_at_us=at_us,
            question=question,
            manifold=manifold_of(classified, i),
            run_id=run_id,
            answer=answer,
        )

    return [lambda answer, i=i: job(i, answer) for i in range(len(places))]  # type: ignore[misc]


def _wants_arrow(request: Request) -> bool:
    return ARROW_STREAM in request.headers.get("accept", "")


def _columns(classified: Classified, *, reasons: Sequence[str | None] | None) -> dict[str, pa.Array]:
    wrong = np.array([reason is not None for reason in reasons], dtype=np.bool_) if reasons is not None else None
    columns = {
        "zone": pa.DictionaryArray.from_arrays(pa.array(classified.zone_index, mask=wrong), pa.array(ZONES)),
        "confidence": pa.array(classified.confidence, mask=wrong),
        "cluster_id": pa.array(classified.cluster_id, mask=wrong),
    }
    return columns if reasons is None else {**columns, "invalid": pa.array(reasons, pa.string())}


def _arrow_response(columns: dict[str, Any], *, run_id: str | None, status: int) -> Response:
    table = pa.table(columns).replace_schema_metadata({"run_id": run_id or "", "schema_version": str(SCHEMA_VERSION)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return Response(sink.getvalue().to_pybytes(), status_code=status, media_type=ARROW_STREAM)
