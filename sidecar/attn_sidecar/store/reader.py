"""Questions to the store. WAL lets them run beside the writer; none of them runs on the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from attn_core.classify import Classifier
from attn_core.errors import QueryTooLong, StoreError
from attn_core.store import max_id, open_reader
from attn_sidecar.admission import SPANS_DECODER
from attn_sidecar.classification import Sketches, rows_from_values
from attn_sidecar.sequence_zones import SequenceZone, evidence_of, sentence_zones
from attn_sidecar.store.access import identity
from attn_sidecar.store.hiding import hide_content
from attn_sidecar.store.records import (
    JSON_DECODERS,
    RECORD_COLUMNS,
    RequestDetail,
    RequestFilter,
    RequestSummary,
    Token,
    ids_from_blob,
    preview_from_prompt,
    read_json,
    sketch_of_token,
    tokens_from_rows,
    with_one_projection,
)
from attn_sidecar.store.request_zones import ALL, zones_of_stored

_NUM_THREADS = 2
_STEPS_A_LOOK = 20_000
"""SQLite's steps between two looks at the clock: some 100 us."""
QUERY_S = 10.0
"""Longest that a question over many rows may take: a reading thread is not to be lost to one client."""
TOKENS_OF_A_RUNNING_REQUEST = 2_000
"""The latest tokens of a running request that its zone in a list is computed from: a list may hold many requests."""
Answer = TypeVar("Answer")


class Reader:
    """One read-only connection. Methods raise `StoreError` where the database cannot be read."""

    def __init__(
        self, path: Path, *, privacy: bool = False, classifier: Callable[[], Classifier] = Classifier.without_run
    ) -> None:
        """`classifier` is the served one, which says what made a token's zone."""
        self._path = path
        self._classifier = classifier
        self._file = identity(path)
        self._connection = open_reader(path)
        if privacy:
            try:
                hide_content(self._connection)
            except sqlite3.Error as error:
                self._connection.close()
                raise StoreError(f"{path} cannot be read: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def is_current(self) -> bool:
        """Whether the file that was opened still bears its name."""
        return self._file == identity(self._path)

    def rows(self, sql: str, *values: object, within_s: float | None = None) -> list[tuple[object, ...]]:
        """All rows of one query; raises `StoreError`, and `QueryTooLong` where it has taken `within_s` seconds."""
        end_s = None if within_s is None else time.monotonic() + within_s
        if end_s is not None:
            self._connection.set_progress_handler(lambda: time.monotonic() > end_s, _STEPS_A_LOOK)
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            if within_s is not None and getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                raise QueryTooLong(f"the store did not answer within {within_s:g} s") from error
            raise StoreError(f"{self._path} cannot be read: {error}") from error
        finally:
            if end_s is not None:
                self._connection.set_progress_handler(None, 0)

    def tokens(self, condition: str, *values: object) -> list[Token]:
        """The tokens for which this SQL holds, in the order and number that it says; raises `StoreError`."""
        rows = self.rows(f"SELECT {RECORD_COLUMNS} FROM fingerprints WHERE {condition}", *values)  # noqa: S608
        return tokens_from_rows(rows, classifier=self._classifier())

    def newest_id(self) -> int:
        """The id of the newest token, 0 in an empty store: the cursor of `/events`."""
        try:
            return max_id(self._connection)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from error

    def next_id(self, after_id: int) -> int:
        """The id of the first token after this one; this one where there is none."""
        found = self.rows("SELECT min(id) FROM tokens WHERE id > ?", after_id)[0][0]
        return after_id if found is None else int(str(found))

    def oldest_id(self) -> int:
        """The id of the oldest token held, 1 in an empty store."""
        return int(str(self.rows("SELECT coalesce(min(id), 1) FROM tokens")[0][0]))

    def tokens_between(self, *, after_id: int, up_to_id: int, limit: int) -> list[Token]:
        """At most `limit` tokens with after_id < id <= up_to_id, by id."""
        return self.tokens("id > ? AND id <= ? ORDER BY id LIMIT ?", after_id, up_to_id, limit)

    def zone_counts_between(self, *, after_id: int, up_to_id: int) -> Counter[str]:
        """Tokens by zone with after_id < id <= up_to_id."""
        sql = "SELECT coalesce(zone, 'unclassified'), count(*) FROM fingerprints WHERE id > ? AND id <= ? GROUP BY 1"
        return Counter(dict(self.rows(sql, after_id, up_to_id)))  # type: ignore[arg-type]

    def num_requests(self) -> int:
        """Requests whose start or end was reported."""
        return int(str(self.rows("SELECT count(*) FROM requests")[0][0]))

    def requests(self, asked: RequestFilter, *, limit: int) -> list[RequestSummary]:
        """Requests by start, newest first, those whose start was never reported last; `limit` at most.

        A request that has no stored zone (it is running, or has no tokens, or ended under an earlier schema version)
        gets the zone of its tokens so far, by the served classifier. For this at most the latest
        `TOKENS_OF_A_RUNNING_REQUEST` tokens of a request are read.
        """
        found = [] if asked.after is not None and asked.after[0] is None else self._requests(asked, "started", limit)
        # NULLs have no place in a comparison of rows, so that they are a list of their own.
        rest = limit - len(found)
        if rest and asked.from_us is None and asked.to_us is None:
            found += self._requests(asked, "unknown", rest)
        return found

    def _requests(self, asked: RequestFilter, part: str, limit: int) -> list[RequestSummary]:
        conditions, values = asked.conditions(part)
        sql = f"""
            SELECT r.request_id,
                coalesce((SELECT response_id FROM reused_ids u WHERE u.request_id = r.request_id), r.request_id),
                r.model_id, r.started_at_us, r.ended_at_us, r.prompt_len, r.num_output_tokens,
                r.finish_reason, (SELECT count(*) FROM fingerprints f WHERE f.request_id = r.request_id),
                r.zone, r.zone_confidence, r.prompt_token_texts, r.prompt_spans
            FROM requests r WHERE {conditions} ORDER BY r.started_at_us DESC, r.request_id DESC LIMIT ?
        """  # noqa: S608 - our own conditions; values are bound
        names = RequestSummary.__struct_fields__
        found: list[dict[str, Any]] = []
        for *row, texts, spans in self.rows(sql, *values, limit, within_s=QUERY_S):
            found.append(dict(zip(names, [*row, preview_from_prompt(texts, spans)], strict=True)))  # type: ignore[arg-type]
        models = {one["request_id"]: one["model_id"] for one in found if one["zone"] is None}
        zones = self._zones_so_far(models, most=TOKENS_OF_A_RUNNING_REQUEST)
        return [RequestSummary(**one | _named(zones.get(one["request_id"]))) for one in found]

    def _zones_so_far(self, models: dict[str, str | None], *, most: int = ALL) -> dict[str, SequenceZone]:
        """By request id, the zones of the latest `most` tokens of these requests, by the served classifier."""
        ask = partial(self.rows, within_s=QUERY_S)
        return zones_of_stored(ask, models, classifier=self._classifier(), most=most)

    def num_spans(self, request_id: str) -> int:
        """How many messages the request's prompt has; 0 where that is not known."""
        found = self.rows("SELECT prompt_spans FROM requests WHERE request_id = ?", request_id)
        return len(read_json(str(found[0][0]), SPANS_DECODER) or ()) if found and found[0][0] is not None else 0

    def request(self, request_id: str, *, from_step: int = 0, max_tokens: int = -1) -> RequestDetail | None:
        """What is stored of one request, its tokens from this step on, or None where nothing is.

        A request that has no stored zone gets that of all its tokens so far, by the served classifier; the sentences
        are those of the tokens from this step on, by the same classifier.
        """
        computed = (
            "response_id", "same_response_id", "head_projection", "tokens", "sentences", "unreadable", "next_step",
        )  # fmt: skip
        columns = [name for name in RequestDetail.__struct_fields__ if name not in computed]
        rows = self.rows(f"SELECT {', '.join(columns)} FROM requests WHERE request_id = ?", request_id)  # noqa: S608
        most = -1 if max_tokens < 0 else max_tokens + 1
        tokens = self.tokens("request_id = ? AND step >= ? ORDER BY step LIMIT ?", request_id, from_step, most)
        if not rows and not tokens:
            return None
        next_step = tokens[max_tokens].step if 0 <= max_tokens < len(tokens) else None
        tokens = tokens[:max_tokens] if next_step is not None else tokens
        values: dict[str, Any] = dict.fromkeys(columns)
        values |= {"request_id": request_id, "model_id": tokens[0].model_id if tokens else None}
        if rows:
            values |= dict(zip(columns, rows[0], strict=True))
        unreadable = []
        for name in ("prompt_token_ids", *JSON_DECODERS):
            if (stored := values[name]) is not None:
                decoder = JSON_DECODERS.get(name)
                values[name] = ids_from_blob(stored) if decoder is None else read_json(stored, decoder)
                if values[name] is None:
                    unreadable.append(name)
        shown = rows_from_values(
            [token.vector for token in tokens],
            context_len=[token.context_len for token in tokens],
            sink_mass=[token.sink_mass for token in tokens],
            periodicity=[token.periodicity for token in tokens],
            sketches=Sketches.of([sketch_of_token(token) for token in tokens]),
        )
        evidence = evidence_of(self._classifier(), shown, model_id=values["model_id"])
        if values["zone"] is None:
            are_all = from_step == 0 and next_step is None
            models = {request_id: values["model_id"]}
            values |= _named(evidence.zone() if are_all else self._zones_so_far(models).get(request_id))
        sentences = sentence_zones(
            evidence, steps=[token.step for token in tokens], texts=[token.token_text for token in tokens]
        )
        response_id, same = self._answers_of_id(request_id)
        head_projection, tokens = with_one_projection(tokens)
        return RequestDetail(
            **values,
            response_id=response_id,
            same_response_id=same,
            head_projection=head_projection,
            tokens=tokens,
            sentences=sentences,
            unreadable=unreadable,
            next_step=next_step,
        )

    def _answers_of_id(self, request_id: str) -> tuple[str, list[str]]:
        """The id that the client saw, and the names of all answers that carry it, by their beginnings."""
        found = self.rows("SELECT response_id FROM reused_ids WHERE request_id = ?", request_id)
        response_id = str(found[0][0]) if found else request_id
        sql = (
            "SELECT u.request_id, u.began_at_us FROM reused_ids AS u WHERE u.response_id = ?1 UNION ALL "
            "SELECT r.request_id, coalesce(r.started_at_us, 0) FROM requests AS r WHERE r.request_id = ?1 ORDER BY 2, 1"
        )
        names = [str(name) for name, _ in self.rows(sql, response_id)]
        return response_id, names or [request_id]


def _named(found: SequenceZone | None) -> dict[str, Any]:
    """A zone as the fields of a request; nothing where none was found."""
    return {} if found is None else {"zone": found.zone, "zone_confidence": found.confidence}


class ReadPool:
    """A few reading threads, each with its own connection, for the event loop to await."""

    def __init__(
        self, path: Path, *, privacy: bool = False, classifier: Callable[[], Classifier] = Classifier.without_run
    ) -> None:
        self._path = path
        self._open = partial(Reader, path, privacy=privacy, classifier=classifier)
        self._local = threading.local()
        self._readers: list[Reader] = []
        self._executor = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="attn-reader")

    async def ask(self, question: Callable[[Reader], Answer]) -> Answer:
        """Run `question` on a reading thread; raises `StoreError` as the reader does."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._answer, question)

    def _answer(self, question: Callable[[Reader], Answer]) -> Answer:
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._open()
            self._readers.append(reader)
        elif not reader.is_current():
            self._drop(reader)
            return self._answer(question)
        try:
            return question(reader)
        except StoreError:
            # The connection may be what ails: the next question opens another.
            self._drop(reader)
            raise

    def _drop(self, reader: Reader) -> None:
        self._local.reader = None
        self._readers.remove(reader)
        reader.close()

    def close(self) -> None:
        """End the threads and close their connections."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        for reader in self._readers:
            reader.close()
