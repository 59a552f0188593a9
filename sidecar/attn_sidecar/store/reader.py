"""Questions to the store. WAL lets them run beside the writer; none of them runs on the event loop."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from attn_core.errors import StoreError
from attn_core.store import max_id, open_reader
from attn_sidecar.store.access import identity
from attn_sidecar.store.records import (
    RECORD_COLUMNS,
    RequestDetail,
    RequestSummary,
    Token,
    preview_from_prompt,
    token_from_row,
)

_NUM_THREADS = 2
Answer = TypeVar("Answer")


class Reader:
    """One read-only connection. Methods raise `StoreError` where the database cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = identity(path)
        self._connection = open_reader(path)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def is_current(self) -> bool:
        """Whether the file that was opened still bears its name."""
        return self._file == identity(self._path)

    def _rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from error

    def newest_id(self) -> int:
        """The id of the newest token, 0 in an empty store: the cursor of `/events`."""
        try:
            return max_id(self._connection)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from error

    def tokens_between(self, *, after_id: int, up_to_id: int, limit: int) -> list[Token]:
        """At most `limit` tokens with after_id < id <= up_to_id, by id."""
        sql = f"SELECT {RECORD_COLUMNS} FROM fingerprints WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"  # noqa: S608
        return [token_from_row(row) for row in self._rows(sql, after_id, up_to_id, limit)]

    def zone_counts_between(self, *, after_id: int, up_to_id: int) -> Counter[str]:
        """Tokens by zone with after_id < id <= up_to_id."""
        sql = "SELECT coalesce(zone, 'unclassified'), count(*) FROM fingerprints WHERE id > ? AND id <= ? GROUP BY 1"
        return Counter(dict(self._rows(sql, after_id, up_to_id)))  # type: ignore[arg-type]

    def num_requests(self) -> int:
        """Requests whose start or end was reported."""
        return int(str(self._rows("SELECT count(*) FROM requests")[0][0]))

    def requests(self, *, limit: int) -> list[RequestSummary]:
        """The newest requests first."""
        sql = """
            SELECT r.request_id, r.model_id, r.started_at_us, r.ended_at_us, r.prompt_len, r.num_output_tokens,
                r.finish_reason, (SELECT count(*) FROM fingerprints f WHERE f.request_id = r.request_id),
                r.prompt_token_texts, r.prompt_spans
            FROM requests r ORDER BY coalesce(r.started_at_us, r.ended_at_us) DESC LIMIT ?
        """
        names = RequestSummary.__struct_fields__
        found = []
        for *row, texts, spans in self._rows(sql, limit):
            values = dict(zip(names, [*row, preview_from_prompt(texts, spans)], strict=True))  # type: ignore[arg-type]
            found.append(RequestSummary(**values))  # type: ignore[arg-type]
        return found

    def request(self, request_id: str) -> RequestDetail | None:
        """Everything stored of one request, or None where nothing is."""
        columns = [name for name in RequestDetail.__struct_fields__ if name != "tokens"]
        rows = self._rows(f"SELECT {', '.join(columns)} FROM requests WHERE request_id = ?", request_id)  # noqa: S608
        token_sql = f"SELECT {RECORD_COLUMNS} FROM fingerprints WHERE request_id = ? ORDER BY step"  # noqa: S608
        tokens = [token_from_row(row) for row in self._rows(token_sql, request_id)]
        if not rows and not tokens:
            return None
        values: dict[str, object] = dict.fromkeys(columns)
        values |= {"request_id": request_id, "model_id": tokens[0].model_id if tokens else None}
        if rows:
            values |= dict(zip(columns, rows[0], strict=True))
        ids = values["prompt_token_ids"]
        values["prompt_token_ids"] = np.frombuffer(ids, dtype="<i4").tolist() if isinstance(ids, bytes) else None
        for name in ("prompt_token_texts", "prompt_spans", "sampling_params"):
            text = values[name]
            values[name] = json.loads(text) if isinstance(text, str) else None
        return RequestDetail(**values, tokens=tokens)  # type: ignore[arg-type]


class ReadPool:
    """A few reading threads, each with its own connection, for the event loop to await."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._readers: list[Reader] = []
        self._executor = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="attn-reader")

    async def ask(self, question: Callable[[Reader], Answer]) -> Answer:
        """Run `question` on a reading thread; raises `StoreError` as the reader does."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._answer, question)

    def _answer(self, question: Callable[[Reader], Answer]) -> Answer:
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = Reader(self._path)
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
