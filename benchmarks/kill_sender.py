"""The sender of `kill_rounds`: the real publisher with its spool, in a process that may be killed at any moment.

It keeps a ledger of what it knows, a JSON line each, written through to the kernel, so that it outlives `kill -9`:
batches made (with their rows), batches that the spool has taken, batches acknowledged, and the end. Rows say who they
are: row n of a sender is step n % 256 of its request n // 256, with the token id n.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import attn_kernels.publisher as publishing
from attn_core.fingerprint import DIM
from attn_core.wire import SourceInfo, decode_answer
from attn_kernels.outbox import Limits, Outbox
from attn_kernels.publisher import Publisher, SpoolSettings
from attn_kernels.rows import RequestEvent, StepRows
from attn_kernels.spool_segment import Parcel

STEPS_A_REQUEST = 256
ROWS_A_STEP = 64
CONTEXT_LEN = 1000
_STEP_S = 0.001
_DRAIN_S = 60.0
_QUIET_S = 1.0
INFO = SourceInfo(model_id="kill-rounds", captured_layers=(0, 4, 8, 12, 17, 21, 25, 29), num_heads=9)


class Ledger:
    """Append-only; each line is one write."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, **line: Any) -> None:
        """One line, in the kernel's hands when this returns."""
        os.write(self._descriptor, json.dumps({**line, "at_s": time.time()}).encode() + b"\n")


def watched(ledger: Ledger) -> type[Outbox]:
    """The publisher's outbox, telling the ledger what it makes, what the spool takes and what is acknowledged."""

    class WatchedOutbox(Outbox):
        def add(self, kind: str, rows: pa.RecordBatch, *, head_projection: str | None = None) -> None:
            ids, name = rows.column("request_id").to_pylist(), "step" if kind == "fingerprints" else "event"
            which = list(zip(ids, rows.column(name).to_pylist(), strict=True))
            if kind == "fingerprints":  # consecutive rows: the first and their number say it all
                which = [which[0], len(which)]
            ledger.note(what="made", key=[self._source_id.hex(), self._next_seq], kind=kind, rows=which)
            super().add(kind, rows, head_projection=head_projection)

        def _to_spool(self, parcel: Parcel) -> bool:
            if kept := super()._to_spool(parcel):
                ledger.note(what="spooled", key=[parcel.source_id.hex(), parcel.seq])
            return kept

        def settle(self, answer: list[bytes]) -> None:
            source_id, seq, reason = decode_answer(answer)
            ledger.note(what="acknowledged" if reason is None else "refused", key=[source_id.hex(), seq])
            super().settle(answer)

    return WatchedOutbox


def vectors(count: int, *, seed: int) -> np.ndarray:
    """float32 [count, 20] that hold the invariants for `CONTEXT_LEN`."""
    draw = np.random.default_rng(seed)
    most = np.log(CONTEXT_LEN)
    parts = (
        draw.dirichlet([2, 1, 1], count),
        draw.uniform(0.1, 0.9, (count, 1)) * most,
        draw.dirichlet([1] * 8, count),
        draw.uniform(0.1, 0.9, (count, 8)) * most,
    )
    made = np.concatenate(parts, axis=1).astype(np.float32)
    assert made.shape == (count, DIM)
    return made


def step_rows(name: str, first: int, pool: np.ndarray) -> StepRows:
    """Rows `first` to `first + ROWS_A_STEP` of the sender `name`."""
    numbers = range(first, first + ROWS_A_STEP)
    at = first % (len(pool) - ROWS_A_STEP)
    return StepRows(
        request_ids=[f"{name}-{n // STEPS_A_REQUEST}" for n in numbers],
        steps=[n % STEPS_A_REQUEST for n in numbers],
        token_ids=list(numbers),
        asked=[False] * ROWS_A_STEP,
        captured_at_us=time.time_ns() // 1000,
        context_lens=[CONTEXT_LEN] * ROWS_A_STEP,
        vectors=pool[at : at + ROWS_A_STEP],
        companions=np.full((ROWS_A_STEP, 4), 0.1, dtype=np.float32),
        topk_positions=np.zeros((ROWS_A_STEP, 0), dtype=np.int32),
        topk_probs=np.zeros((ROWS_A_STEP, 0), dtype=np.float32),
    )


def _event(name: str, number: int, what: str) -> RequestEvent:
    ended = {"num_output_tokens": STEPS_A_REQUEST, "finish_reason": "stop"} if what == "ended" else {}
    return RequestEvent(request_id=f"{name}-{number}", event=what, at_us=time.time_ns() // 1000, prompt_len=3, **ended)


def main() -> int:
    """Publish until standard input is closed, then wait until all is acknowledged; 0 where nothing waits any more.

    What was dropped is not judged here: a record that a killed sender left torn was never in the spool, and the count
    of what is owed, by the ledger, finds every other.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--spool-after-s", type=float, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    arguments = parser.parse_args()
    ledger = Ledger(arguments.ledger)
    publishing.Outbox = watched(ledger)  # type: ignore[misc]
    publisher = Publisher(
        address=arguments.address,
        info=INFO,
        text_of=lambda token_id: f" t{token_id % 100}",
        limits=Limits(
            batch_interval_s=0.02, spool_after_s=arguments.spool_after_s, reconnect_interval_max_ms=200,
            in_flight_bytes=4 << 20,
        ),
        spool=SpoolSettings(root=arguments.spool),
    )  # fmt: skip
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), ended.set()), daemon=True).start()
    pool = vectors(1024, seed=0)
    num_rows = 0
    while not ended.wait(_STEP_S):
        if num_rows % STEPS_A_REQUEST == 0:
            publisher.put(_event(arguments.name, num_rows // STEPS_A_REQUEST, "started"))
        publisher.put(step_rows(arguments.name, num_rows, pool))
        num_rows += ROWS_A_STEP
        if num_rows % STEPS_A_REQUEST == 0:
            publisher.put(_event(arguments.name, num_rows // STEPS_A_REQUEST - 1, "ended"))
    return _drain(publisher, ledger, num_rows)


def _drain(publisher: Publisher, ledger: Ledger, num_rows: int) -> int:
    """Wait for every acknowledgement, those of the spool included, before the publisher's own short end.

    Nothing may wait for `_QUIET_S`: what was taken from the queue is a batch only after an interval, and a sender that
    is told to end at once has not opened its predecessor's spool yet.
    """
    give_up_at = time.monotonic() + _DRAIN_S
    never = threading.Event()
    quiet_since = time.monotonic()
    while time.monotonic() < give_up_at and time.monotonic() < quiet_since + _QUIET_S:
        now = publisher.figures()
        if now.queue_items or now.memory_batches or now.spool_batches:
            quiet_since = time.monotonic()
        never.wait(0.01)
    closed = publisher.close(10.0)
    ledger.note(what="ended", num_rows=num_rows, dropped=publisher.dropped, closed=closed)
    return 0 if closed else 1


if __name__ == "__main__":
    sys.exit(main())
