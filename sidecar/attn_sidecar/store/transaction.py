"""One transaction: what waits is classified and made columnar first, then written under the lock and committed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from attn_core.classify import Classified, Classifier
from attn_core.insertion import LaidOut, lay_out
from attn_core.store import insert_fingerprints, insert_head_figures, max_id, record_source, upsert_requests
from attn_core.wire import Batch, SourceInfo, sketch_column, vectors_from_rows
from attn_sidecar.store.jobs import ArrivedBatch, Committed, PostedFingerprint, Stored, rows_from_posted
from attn_sidecar.store.request_zones import record_zones_at_end
from attn_sidecar.store.reused_ids import name_starts, name_tokens, rows_of_other_answers, with_ids


@dataclass(frozen=True, kw_only=True)
class PreparedGroup:
    """Everything that one transaction writes."""

    classifier: Classifier
    now_us: int
    tokens: list[tuple[SourceInfo, pa.RecordBatch, Classified]]
    """(what is true of all these rows but for `dropped`, rows, answers), one for each model and head projection."""
    laid_out: list[list[LaidOut]]
    """Each of `tokens` as SQLite takes it: made beside the transaction under way, not inside this one."""
    requests: list[tuple[str, pa.RecordBatch, bool]]
    """(model_id, rows, whether their instants are this machine's own), one for each batch."""
    arrived: list[ArrivedBatch]
    posted: list[PostedFingerprint]


def prepare(jobs: Sequence[ArrivedBatch | PostedFingerprint], *, classifier: Classifier, now_us: int) -> PreparedGroup:
    """Classify all rows with one classifier and gather them by model and head projection."""
    arrived = [job for job in jobs if isinstance(job, ArrivedBatch)]
    by_info: dict[SourceInfo, list[pa.RecordBatch]] = {}
    requests = []
    for job in arrived:
        batch = job.batch
        if batch.kind == "requests":
            requests.append((batch.info.model_id, batch.rows, job.redated))
        elif batch.rows.num_rows:
            by_info.setdefault(replace(batch.info, dropped=0), []).append(batch.rows)
    tokens = []
    for info, parts in by_info.items():
        rows = pa.concat_batches(parts) if len(parts) > 1 else parts[0]
        tokens.append(
            (info, rows, _classify(classifier, rows, model_id=info.model_id, head_projection=info.head_projection))
        )
    return PreparedGroup(
        classifier=classifier,
        now_us=now_us,
        tokens=tokens,
        laid_out=[list(lay_out(rows, classified)) for _, rows, classified in tokens],
        requests=requests,
        arrived=arrived,
        posted=[job for job in jobs if isinstance(job, PostedFingerprint)],
    )


def _classify(
    classifier: Classifier, rows: pa.RecordBatch, *, model_id: str, head_projection: str | None
) -> Classified:
    has_sketches = head_projection is not None and rows.column("head_sketch").null_count < rows.num_rows
    return classifier.classify(
        # A copy: of arrays that cannot be written to Numba makes machine code of its own, which takes seconds.
        vectors_from_rows(rows).copy(),
        context_len=rows.column("context_len").to_numpy(zero_copy_only=False),
        sink_mass=rows.column("sink_mass").to_numpy(zero_copy_only=False),
        periodicity=rows.column("periodicity").to_numpy(zero_copy_only=False),
        head_sketch=sketch_column(rows, "head_sketch") if has_sketches else None,
        zone_evidence=sketch_column(rows, "zone_evidence") if has_sketches else None,
        head_projection=head_projection,
        model_id=model_id,
    )


def write(connection: sqlite3.Connection, prepared: PreparedGroup) -> tuple[Committed, list[Callable[[], None]]]:
    """Write and commit; returns what was committed and the answers that may be given now.

    Raises `sqlite3.Error`, with nothing written.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        committed, answers = _write_rows(connection, prepared)
        connection.execute("COMMIT")
    finally:
        # After some failures (disk full) SQLite has rolled back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return committed, answers


def probe(connection: sqlite3.Connection) -> None:
    """Write one page that changes nothing; raises `sqlite3.Error` where the database cannot be written."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    connection.execute(f"PRAGMA user_version = {version}")


def _write_rows(connection: sqlite3.Connection, prepared: PreparedGroup) -> tuple[Committed, list[Callable[[], None]]]:
    num_rows = num_new = 0
    # Starts first: they say which answer of its id a token belongs to.
    requests = name_starts(connection, prepared.requests)
    tokens = []
    for (info, rows, classified), laid_out in zip(prepared.tokens, prepared.laid_out, strict=True):
        named, new = _insert(connection, prepared, info, name_tokens(connection, rows), classified, laid_out)
        insert_head_figures(
            connection, named, model_id=info.model_id, layers=info.captured_layers, num_heads=info.num_heads
        )
        num_rows += rows.num_rows
        num_new += new
        tokens.append((info.model_id, named, classified))
    for model_id, rows in requests:
        upsert_requests(connection, rows, model_id=model_id)
    for batch in _furthest(prepared.arrived).values():
        record_source(
            connection,
            source_id=batch.source_id,
            model_id=batch.info.model_id,
            seq=batch.seq,
            dropped=batch.info.dropped,
            at_us=prepared.now_us,
        )
    answers: list[Callable[[], None]] = [partial(job.answer, None) for job in prepared.arrived]
    stored = _insert_posted(connection, prepared.posted, now_us=prepared.now_us)
    num_rows, num_new = num_rows + len(stored), num_new + sum(stored)
    # Now that all tokens of the transaction are written.
    request_zones = record_zones_at_end(connection, requests, classifier=prepared.classifier)
    answers += [partial(one.answer, Stored(stored=new)) for one, new in zip(prepared.posted, stored, strict=True)]
    committed = Committed(
        newest_id=max_id(connection),
        num_new=num_new,
        num_repeated=num_rows - num_new,
        run_id=prepared.classifier.run_id,
        tokens=tokens,
        requests=requests,
        request_zones=request_zones,
    )
    return committed, answers


def _insert(
    connection: sqlite3.Connection,
    prepared: PreparedGroup,
    info: SourceInfo,
    rows: pa.RecordBatch,
    classified: Classified,
    laid_out: Sequence[LaidOut],
) -> tuple[pa.RecordBatch, int]:
    """Insert one model's rows; returns them under the names that they have, and how many were new."""
    insert = partial(
        insert_fingerprints,
        connection,
        model_id=info.model_id,
        stored_at_us=prepared.now_us,
        run_id=prepared.classifier.run_id,
        head_projection=info.head_projection,
    )
    new = insert(rows, classified=classified, laid_out=laid_out)
    # Mostly the rest was sent again. What is of another answer is tried until its place is free.
    while new < rows.num_rows and (others := rows_of_other_answers(connection, rows)) is not None:
        places, named = others
        new += insert(named, classified=classified.take(places))
        ids = rows.column("request_id").to_pylist()
        for i, request_id in zip(places.tolist(), named.column("request_id").to_pylist(), strict=True):
            ids[i] = request_id
        rows = with_ids(rows, ids)
    return rows, new


def _furthest(arrived: Sequence[ArrivedBatch]) -> dict[bytes, Batch]:
    """Each source's batch with the highest sequence number: one row of `ingest_sources` a transaction, not a batch."""
    furthest: dict[bytes, Batch] = {}
    for job in arrived:
        held = furthest.get(job.batch.source_id)
        if held is None or job.batch.seq > held.seq:
            furthest[job.batch.source_id] = job.batch
    return furthest


def _insert_posted(connection: sqlite3.Connection, posted: Sequence[PostedFingerprint], *, now_us: int) -> list[bool]:
    """Whether each was new. All of a run and a head projection in one go: what a statement costs is shared by whoever
    posts meanwhile."""
    stored = _are_new(connection, posted)
    alike: dict[tuple[str | None, str | None], list[PostedFingerprint]] = {}
    for one, is_new in zip(posted, stored, strict=True):
        if is_new:
            head_projection = None if one.sketch is None else one.sketch.head_projection
            alike.setdefault((one.answers.run_id, head_projection), []).append(one)
    for (run_id, head_projection), those in alike.items():
        insert_fingerprints(
            connection,
            rows_from_posted(those),
            model_id=None,
            stored_at_us=now_us,
            classified=_answers_to(those),
            run_id=run_id,
            head_projection=head_projection,
        )
    return stored


def _answers_to(posted: Sequence[PostedFingerprint]) -> Classified:
    """The answers given to these, one after another; the store keeps no evidence."""
    given = {
        name: np.array([getattr(one.answers.classified, name)[one.row] for one in posted])
        for name in ("zone_index", "confidence", "cluster_id", "cluster_confidence")
    }
    return Classified(**given, evidence=np.empty((0, 0), dtype=np.float32), position=np.empty((0, 2), dtype=np.float32))


def _are_new(connection: sqlite3.Connection, posted: Sequence[PostedFingerprint]) -> list[bool]:
    """Whether (request_id, step) is neither held nor named before in this list."""
    named: set[tuple[str, int]] = set()
    new = []
    for one in posted:
        place = one.request_id, one.step
        new.append(place not in named and connection.execute(_HELD, place).fetchone() is None)
        named.add(place)
    return new


_HELD = "SELECT 1 FROM tokens JOIN request_numbers USING (request_no) WHERE request_id = ? AND step = ?"
