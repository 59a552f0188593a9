"""`fuzz_frames`: 100,000 damaged messages over a real socket to a real sidecar, valid batches in between.

Each message must be answered, with a reason or, where the damage left it a valid batch, with an acknowledgement; the
sidecar must live on, no larger than before, and hold every valid batch. The seed is printed and repeats the messages.
"""

from __future__ import annotations

import secrets
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import zmq

from attn_core.wire import SOURCE_ID_BYTES, decode_answer, encode_batch
from benchmarks.fuzzed_frames import INFO, Fuzzer, valid_rows
from benchmarks.measure import figure_from_limit, report
from benchmarks.sidecar_process import resident_bytes, running_sidecar

MESSAGES = 100_000
SEED = 6
ROWS_A_BATCH = 10
_VALID_EVERY = 100
_IN_FLIGHT = 64
_WARM_SHARE = 0.3
"""Memory is compared from here on: until then allocators, caches and SQLite's pages fill up."""
MAX_GROWTH_BYTES = 16 << 20
_WAIT_MS = 30_000


@dataclass
class Fuzzed:
    """What came of it."""

    sent: int = 0
    answered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Refusals by their first word; `acknowledged` for damage that did no harm."""
    valid_sent: int = 0
    valid_acknowledged: int = 0
    valid_lost: int = 0
    """Rows of valid batches that are not in the database."""
    growth_bytes: int = 0
    unhealthy: list[str] = field(default_factory=list)


def fuzz(*, zmq_address: str, url: str, pid: int, database: Path, messages: int, seed: int) -> Fuzzed:
    """Send `messages` damaged messages to a running sidecar and count; exits where an answer does not come."""
    found = Fuzzed()
    fuzzer = Fuzzer(seed)
    damaged = fuzzer.messages()
    context = zmq.Context()
    bad, good = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    source_id = secrets.token_bytes(SOURCE_ID_BYTES)
    warm_bytes = 0
    way = ""
    try:
        for socket in (bad, good):
            socket.connect(zmq_address)
        while found.answered < messages:
            while found.sent < messages and found.sent - found.answered < _IN_FLIGHT:
                way, frames = next(damaged)
                bad.send_multipart(frames)
                found.sent += 1
                if found.sent % _VALID_EVERY == 0:
                    _send_valid(good, source_id, found.valid_sent)
                    found.valid_sent += 1
            if not bad.poll(_WAIT_MS):
                raise SystemExit(f"fuzz_frames: seed {seed}: no answer; {found.sent} sent, the last: {way}")
            while bad.poll(0):
                _, _, reason = decode_answer(bad.recv_multipart())
                found.reasons["acknowledged" if reason is None else reason.partition(":")[0]] += 1
                found.answered += 1
            if not warm_bytes and found.answered >= _WARM_SHARE * messages:
                warm_bytes = resident_bytes(pid)
        for _ in range(found.valid_sent):
            if not good.poll(_WAIT_MS):
                raise SystemExit(f"fuzz_frames: seed {seed}: a valid batch was not answered")
            found.valid_acknowledged += decode_answer(good.recv_multipart())[2] is None
    finally:
        context.destroy(linger=0)
    found.growth_bytes = resident_bytes(pid) - warm_bytes
    found.unhealthy = httpx.get(f"{url}/health", timeout=30).json()["reasons"]
    with closing(sqlite3.connect(database)) as connection:
        held = connection.execute("SELECT count(*) FROM fingerprints WHERE request_id LIKE 'valid-%'").fetchone()[0]
    found.valid_lost = ROWS_A_BATCH * found.valid_sent - held
    return found


def _send_valid(socket: zmq.Socket[bytes], source_id: bytes, number: int) -> None:
    rows = valid_rows(ROWS_A_BATCH, name=f"valid-{number}", seed=number)
    socket.send_multipart(encode_batch(kind="fingerprints", rows=rows, source_id=source_id, seq=number, info=INFO))


def run(*, rows: int | None, as_json: bool) -> bool:
    """Fuzz and report; True where every target is met. `rows`: messages (default 100,000)."""
    messages = MESSAGES if rows is None else rows
    with running_sidecar() as sidecar:
        found = fuzz(
            zmq_address=sidecar.zmq, url=sidecar.url, pid=sidecar.pid, database=sidecar.database, messages=messages,
            seed=SEED,
        )  # fmt: skip
    print(f"fuzz_frames: seed {SEED}, answers: {dict(found.reasons.most_common())}", file=sys.stderr)
    small = found.growth_bytes <= MAX_GROWTH_BYTES
    limits = (
        ("answered", found.answered, "messages", f"{messages}", found.answered == messages),
        ("valid_batches_refused", found.valid_sent - found.valid_acknowledged, "batches", "0", None),
        ("valid_rows_lost", found.valid_lost, "rows", "0", None),
        ("health_reasons", len(found.unhealthy), "", "0", None),
        ("memory_growth", found.growth_bytes, "bytes", f"<= {MAX_GROWTH_BYTES}", small),
    )  # fmt: skip
    figures = [
        figure_from_limit(
            name="fuzz_frames",
            figure=name,
            value=value,
            unit=unit,
            target=target,
            met=value == 0 if met is None else met,
        )
        for name, value, unit, target, met in limits
    ]
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)
