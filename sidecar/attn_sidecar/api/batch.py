"""`POST /classify/batch` and `POST /fingerprint/batch`: many fingerprints at once, as JSON or Arrow, in or out.

A row that is no fingerprint costs the others nothing: both answer, or store and answer, every other row, and say of the
invalid ones what is wrong. A body in which no row is valid is refused. Sending a batch again is always safe:
(request_id, step) is stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from attn_sidecar.api.arrow_bodies import (
    COMPANIONS,
    SKETCH_PARTS,
    places_from_table,
    rows_from_table,
    sketches_from_table,
    table_from_body,
)
from attn_sidecar.api.asked import ARROW_STREAM
from attn_sidecar.api.bodies import (
    ClassifyBody,
    Explain,
    FingerprintBody,
    decoded,
    rows_from_batch,
    rows_of_batch,
    sketch_of,
)
from attn_sidecar.api.endpoint import Endpoint
from attn_sidecar.api.fingerprint import store
from attn_sidecar.api.problems import vector_problem
from attn_sidecar.api.quick import read_body
from attn_sidecar.classification import Answers, Manifold, PostedSketch, Rows, Sketches, answers_of
from attn_sidecar.discovery import Discovery
from attn_sidecar.store.jobs import PostedFingerprint, Stored
from attn_sidecar.store.writer import Writer

Refused = Mapping[int, str]
"""By row, why it is no fingerprint."""
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
    """201 where one is new, 200 where all were held already.

    `stored` is false where (request_id, step) was held, and in the rows of `invalid`, whose manifold is null.
    """

    num_stored: int
    stored: list[bool]
    manifolds: list[Manifold | None]
    invalid: list[InvalidRow]
    schema_version: int
    run_id: str | None


@dataclass(frozen=True, kw_only=True)
class _Posted:
    """What a body of fingerprints to store holds, by rows."""

    rows: Rows
    refused: Refused
    places: list[tuple[str, int, int]]
    """(request_id, step, captured_at_us)"""
    sketches: list[PostedSketch | None]
    explained: Sequence[bool]


def endpoints(discovery: Discovery, *, writer: Writer, now_us: Callable[[], int]) -> list[Endpoint]:
    """The endpoints, classifying with the served run and storing through this writer."""
    asked_decoder = msgspec.json.Decoder(ClassifyBatchBody)
    posted_decoder = msgspec.json.Decoder(FingerprintBatchBody)

    def questions(body: bytes, kind: str) -> tuple[Rows, Refused, Sequence[bool]]:
        if kind == ARROW_STREAM:
            also = (*COMPANIONS, *SKETCH_PARTS)
            table = table_from_body(body, needed=("vector",), also=also, most_rows=MAX_QUESTIONS)
            rows, refused = rows_from_table(table)
            sketches, unsketched = sketches_from_table(table)
            rows = replace(rows, sketches=Sketches.of(sketches))
            return rows, {**unsketched, **refused}, [False] * table.num_rows
        asked = decoded(body, asked_decoder, path="/classify/batch")
        batch = rows_of_batch(asked.fingerprints, explain=asked.explain)
        return rows_from_batch(batch.rows), batch.refused, batch.explained

    def posted(body: bytes, kind: str) -> _Posted:
        now = now_us()
        if kind == ARROW_STREAM:
            needed, also = ("request_id", "step", "vector"), ("captured_at_us", *COMPANIONS, *SKETCH_PARTS)
            table = table_from_body(body, needed=needed, also=also, most_rows=MAX_FINGERPRINTS)
            rows, refused = rows_from_table(table)
            places, misplaced = places_from_table(table, now_us=now)
            sketches, unsketched = sketches_from_table(table)
            return _Posted(
                rows=replace(rows, sketches=Sketches.of(sketches)),
                refused={**unsketched, **misplaced, **refused},
                places=places,
                sketches=sketches,
                explained=[False] * table.num_rows,
            )
        given = decoded(body, posted_decoder, path="/fingerprint/batch")
        batch = rows_of_batch(given.fingerprints, explain=given.explain, now_us=now)
        places = [
            ("", 0, 0) if f is None else (f.request_id, f.step, now if f.captured_at_us is None else f.captured_at_us)
            for f in batch.rows
        ]
        return _Posted(
            rows=rows_from_batch(batch.rows),
            refused=batch.refused,
            places=places,
            sketches=[sketch_of(one) for one in batch.rows],
            explained=batch.explained,
        )

    def answered(rows: Rows, refused: Refused) -> Answers:
        found = answers_of(discovery.served.classifier, rows)
        return replace(found, invalid=[refused.get(i, reason) for i, reason in enumerate(found.invalid)])

    async def classify_batch(request: Request) -> Response:
        body, kind = await read_body(
            request.scope["headers"], request.receive, also=(ARROW_STREAM,), most=MAX_BATCH_BYTES
        )

        def answer() -> Response:
            rows, refused, explained = questions(body, kind)
            return _response(answered(rows, refused), explained, as_arrow=_wants_arrow(request))

        return await asyncio.to_thread(answer)

    async def add_fingerprints(request: Request) -> Response:
        body, kind = await read_body(
            request.scope["headers"], request.receive, also=(ARROW_STREAM,), most=MAX_BATCH_BYTES
        )
        given = await asyncio.to_thread(posted, body, kind)
        found = await asyncio.to_thread(answered, given.rows, given.refused)
        valid = [i for i, reason in enumerate(found.invalid) if reason is None]
        if not valid:
            raise vector_problem(f"row 0: {found.invalid[0]}; no row is valid, and nothing was stored")
        outcomes = await asyncio.gather(*(store(writer, job) for job in _jobs(given, found, valid)))
        stored = [False] * len(given.places)
        for i, outcome in zip(valid, outcomes, strict=True):
            stored[i] = outcome.stored
        return await asyncio.to_thread(_stored_response, found, stored, given.explained, as_arrow=_wants_arrow(request))

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
            summary="Store and classify many fingerprints",
            body=FingerprintBatchBody,
            also_takes=(ARROW_STREAM,),
            answer=FingerprintBatchAnswer,
            also_answers=(ARROW_STREAM,),
            statuses=(201, 200),
            problems=(400, 413, 415, 422, 503),
        ),
    ]


def _response(found: Answers, explained: Sequence[bool], *, as_arrow: bool) -> Response:
    if as_arrow:
        columns = {**_columns(found), "invalid": pa.array(found.invalid, pa.string())}
        return _arrow_response(columns, run_id=found.run_id, status=200)
    answer = ClassifyBatchAnswer(
        manifolds=_manifolds(found, explained),
        invalid=_invalid_rows(found),
        schema_version=SCHEMA_VERSION,
        run_id=found.run_id,
    )
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _stored_response(found: Answers, stored: list[bool], explained: Sequence[bool], *, as_arrow: bool) -> Response:
    status = 201 if any(stored) else 200
    if as_arrow:
        columns = {"stored": pa.array(stored), **_columns(found), "invalid": pa.array(found.invalid, pa.string())}
        return _arrow_response(columns, run_id=found.run_id, status=status)
    answer = FingerprintBatchAnswer(
        num_stored=sum(stored),
        stored=stored,
        manifolds=_manifolds(found, explained),
        invalid=_invalid_rows(found),
        schema_version=SCHEMA_VERSION,
        run_id=found.run_id,
    )
    return Response(msgspec.json.encode(answer), status_code=status, media_type="application/json")


def _manifolds(found: Answers, explained: Sequence[bool]) -> list[Manifold | None]:
    return [
        found.manifold(i, explain=explain) if reason is None else None
        for i, (reason, explain) in enumerate(zip(found.invalid, explained, strict=True))
    ]


def _invalid_rows(found: Answers) -> list[InvalidRow]:
    return [InvalidRow(row=i, detail=reason) for i, reason in enumerate(found.invalid) if reason is not None]


def _jobs(
    given: _Posted, found: Answers, valid: Sequence[int]
) -> list[Callable[[Callable[[Stored | Exception], None]], PostedFingerprint]]:
    def job(row: int, answer: Callable[[Stored | Exception], None]) -> PostedFingerprint:
        request_id, step, at_us = given.places[row]
        return PostedFingerprint(
            request_id=request_id,
            step=step,
            captured_at_us=at_us,
            rows=given.rows,
            answers=found,
            row=row,
            sketch=given.sketches[row],
            answer=answer,
        )

    return [partial(job, row) for row in valid]


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
