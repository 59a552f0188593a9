"""`--privacy` on the sidecar: whatever a sender sends, nothing that could be read is stored, shown or logged."""

import contextlib
import json
import logging
import re
import sqlite3
import sys

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidecar_tools import INFO, Sender, publish_bundle, random_rows, request_row, with_column
from starlette.routing import Route
from starlette.testclient import TestClient

from attn_core import wire
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.logs import EventFormatter
from attn_sidecar.privacy import without_content
from attn_sidecar.settings import Settings

SECRET = "swordfish"  # noqa: S105 - a word to look for
"""Stands for all that must not be kept; token ids and positions are these numbers, found nowhere else."""
TOKEN_ID, POSITION = 1234567, 17
KEPT = [
    "vector", "context_len", "sink_mass", "prompt_mass", "periodicity", "step", "captured_at_us", "head_sketch",
    "zone_evidence", "head_figures",
]  # fmt: skip
DROPPED = ["token_id", "token_text", "topk_positions", "topk_probs", "residual_mass"]


def telling_rows(count=6):
    rows = random_rows(count)
    rows = with_column(rows, "token_id", [TOKEN_ID] * count)
    rows = with_column(rows, "topk_positions", [[POSITION, 3]] * count)
    rows = with_column(rows, "topk_probs", [[0.5, 0.25]] * count)
    rows = with_column(rows, "residual_mass", [0.25] * count)
    return with_column(rows, "token_text", [f" {SECRET}"] * count)


def telling_request(event="started"):
    rows = request_row(event)
    for name, value in {
        "prompt_token_ids": [TOKEN_ID, 2, 3],
        "prompt_token_texts": [SECRET, " is", " it"],
        "prompt_spans": f'[{{"message": 0, "role": "{SECRET}", "start": 0, "end": 3}}]',
        "sampling_params": json.dumps({"stop": [SECRET], "temperature": 0}),
        "finish_reason": SECRET,
    }.items():
        rows = with_column(rows, name, [value])
    return rows


def batch(kind, rows):
    return wire.Batch(source_id=b"s" * 16, seq=3, kind=kind, info=INFO, rows=rows)


def test_only_numbers_about_attention_remain():
    before = telling_rows()
    after = without_content(batch("fingerprints", before)).rows
    assert after.schema.equals(wire.FINGERPRINTS)
    for name in DROPPED:
        assert after.column(name).null_count == 6
    for name in [*KEPT, "request_id"]:
        assert after.column(name).equals(before.column(name)), name
    assert set(KEPT) | set(DROPPED) | {"request_id"} == set(wire.FINGERPRINTS.names), "a new column: is it content?"


@pytest.mark.parametrize(("reason", "kept"), [("stop", "stop"), ("length", "length"), (SECRET, None), (None, None)])
def test_of_a_request_only_counts_and_instants_remain(reason, kept):
    before = with_column(telling_request("ended"), "finish_reason", [reason])
    after = without_content(batch("requests", before)).rows
    assert after.schema.equals(wire.REQUESTS)
    assert SECRET not in str(after.to_pylist())
    assert after.column("finish_reason").to_pylist() == [kept]
    for name in ("request_id", "event", "at_us", "prompt_len", "num_output_tokens"):
        assert after.column(name).equals(before.column(name)), name


@given(count=st.integers(0, 40), at=st.integers(0, 39))
def test_a_part_of_a_batch_is_stripped_like_the_whole(count, at):
    """Slices have offsets: what lies before them must not come back. Stripping twice is stripping once."""
    rows = telling_rows(40)
    part = rows.slice(at, count)
    stripped = without_content(batch("fingerprints", part))
    whole = without_content(batch("fingerprints", rows)).rows
    assert stripped.rows.equals(whole.slice(at, count))
    assert without_content(stripped).rows.equals(stripped.rows)
    frames = wire.encode_batch(kind="fingerprints", rows=stripped.rows, source_id=b"s" * 16, seq=0, info=INFO)
    assert SECRET.encode() not in frames[3]


@contextlib.contextmanager
def running(folder, *, privacy):
    settings = Settings(db=folder / "f.db", discovery_dir=folder / "out", zmq_bind="tcp://127.0.0.1:*", privacy=privacy)
    sidecar = Sidecar(settings)
    with (
        TestClient(create_app(sidecar, static_dir=folder / "static")) as client,
        contextlib.closing(Sender(sidecar.ingest.address)) as sender,
    ):
        yield client, sender


def send_all(sender):
    sender.send(telling_request("started"), kind="requests")
    sender.send(telling_rows())
    sender.send(telling_request("ended"), kind="requests")
    sender.hear_all()
    assert not sender.refused


def everything_shown(client):
    """All that any GET answers, and what `/events` says from the beginning, as bytes."""
    shown = b""
    for route in client.app.routes:
        if isinstance(route, Route) and "GET" in route.methods:
            path = re.sub(r"{request_id[^}]*}", "r", route.path)
            answer = client.get(re.sub(r"{[^}]*}", "1", path))
            shown += answer.content
    with client.websocket_connect("/events?after=0") as socket:
        while True:
            message = socket.receive_json()
            shown += json.dumps(message).encode()
            if message["kind"] == "tokens" and len(message["tokens"]) == 6:
                return shown


def test_nothing_that_was_sent_is_stored_or_shown(tmp_path):
    with running(tmp_path, privacy=True) as (client, sender):
        send_all(sender)
        shown = everything_shown(client)
        detail = client.get("/requests/r").json()
    assert SECRET.encode() not in shown
    assert str(TOKEN_ID).encode() not in shown
    assert len(detail["tokens"]) == 6
    assert detail["tokens"][0]["vector"]
    assert detail["tokens"][0]["head_sketch"]
    assert (detail["prompt_len"], detail["num_output_tokens"]) == (3, 7)
    for path in tmp_path.glob("f.db*"):
        assert SECRET.encode() not in path.read_bytes(), path
    with contextlib.closing(sqlite3.connect(tmp_path / "f.db")) as connection:
        (held,) = connection.execute(
            f"SELECT count(*) FROM tokens WHERE {' OR '.join(f'{name} IS NOT NULL' for name in DROPPED)}"  # noqa: S608
        ).fetchone()
    assert held == 0


def test_what_was_stored_before_is_not_shown(tmp_path):
    """A database and a map from a time without --privacy: the same questions, and none of it in the answers."""
    with running(tmp_path, privacy=False) as (client, sender):
        publish_bundle(tmp_path / "out")
        send_all(sender)
        assert client.post("/discovery/reload").status_code == 200
        before = everything_shown(client)
    assert SECRET.encode() in before
    assert str(TOKEN_ID).encode() in before
    with running(tmp_path, privacy=True) as (client, _):
        after = everything_shown(client)
        points = pa.ipc.open_stream(client.get("/points?columns=x,y,token_text").content).read_all()
        detail = client.get("/requests/r").json()
    assert SECRET.encode() not in after
    assert str(TOKEN_ID).encode() not in after
    assert detail["prompt_token_ids"] is None
    assert [token["topk_positions"] for token in detail["tokens"]] == [None] * 6
    assert points.num_rows == 40
    assert points.column("token_text").null_count == 40


def test_the_flag_reaches_a_real_sidecar_and_its_log_tells_nothing(start_process):
    sidecar = start_process(flags=["--privacy"])
    with contextlib.closing(Sender(sidecar.zmq)) as sender:
        send_all(sender)
        broken = [b"AFP1", b"s" * 16, b"\0" * 8, SECRET.encode() * 10]
        sender.socket.send_multipart(broken)
        sender.hear()
    answer = sidecar.client.post("/fingerprint", content=SECRET, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert SECRET not in sidecar.client.get("/requests/r").text
    sidecar.stop()
    assert SECRET not in str(sidecar.log)
    assert SECRET.encode() not in sidecar.db.read_bytes()


def test_an_unforeseen_error_is_logged_without_its_words():
    """Which and where, so that it can be mended; what it says may quote a body."""

    def fault():
        try:
            json.loads(SECRET)
        except ValueError as error:
            raise KeyError(SECRET) from error

    for log_format in ("text", "json"):
        try:
            fault()
        except KeyError:
            record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, "fault", None, sys.exc_info())
        line = EventFormatter(log_format).format(record)
        assert SECRET not in line
        assert "KeyError" in line
        assert "JSONDecodeError" in line
        assert "in fault" in line
