"""The zone of a whole answer and of its sentences: the formula on the mean evidence of its tokens, wherever asked."""

import contextlib
import signal
import sqlite3
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sidecar_tools import Sender, publish_bundle, random_rows, request_row, with_column
from starlette.testclient import TestClient

from attn_core import wire
from attn_core.classify import Classifier
from attn_core.zones import ZONES, ZoneFormulas
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.sentences import sentence_ranges

COMPANIONS = ("context_len", "sink_mass", "periodicity")
SHIPPED = Classifier.without_run()
MODEL = "demo-model"


def mean_of(rows, classifier=SHIPPED):
    """The mean evidence of rows of the wire: float64 [NUM_EVIDENCE]."""
    classified = classifier.classify(
        wire.vectors_from_rows(rows).copy(),
        **{name: rows.column(name).to_numpy(zero_copy_only=False) for name in COMPANIONS},
        model_id=MODEL,
        with_evidence=True,
    )
    return classified.evidence.mean(axis=0, dtype=np.float64)


def offline(rows, classifier=SHIPPED):
    """(zone, confidence) of these tokens, without the sidecar."""
    found = classifier.formula_of(MODEL).zones_of(mean_of(rows, classifier))
    return ZONES[found.zone_index[0]], float(found.confidence[0])


def of_request(client, request_id="r", **params):
    """(zone, confidence) in the list and in the request itself, which say the same."""
    (listed,) = [one for one in client.get("/requests").json()["requests"] if one["request_id"] == request_id]
    detail = client.get(f"/requests/{request_id}", params=params).json()
    said = detail["zone"], detail["zone_confidence"]
    assert said == (listed["zone"], listed["zone_confidence"])
    return said


def stored_zone(path, request_id="r"):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        sql = "SELECT zone, zone_confidence FROM requests WHERE request_id = ?"
        return connection.execute(sql, (request_id,)).fetchone()


def begin(sender, *, request_id="r"):
    sender.send(request_row("started", request_id=request_id), kind="requests")


def end(sender, *, request_id="r"):
    sender.send(request_row("ended", request_id=request_id), kind="requests")
    sender.hear_all()
    assert not sender.refused


def send(sender, rows):
    sender.send(rows)
    sender.hear_all()


@pytest.mark.parametrize("num_tokens", [1, 2, 40, 700])
def test_a_request_ends_with_the_zone_of_its_mean_evidence(client, sender, settings, num_tokens):
    rows = random_rows(num_tokens, seed=num_tokens)
    begin(sender)
    for start in range(0, num_tokens, 100):
        sender.send(rows.slice(start, 100))
    end(sender)
    assert stored_zone(settings.db) == offline(rows)
    assert of_request(client) == offline(rows)


def test_requests_that_end_in_one_batch_have_each_their_own_zone(client, sender, settings):
    """Tokens and ends of several requests, in one transaction or in many: no request counts another's tokens."""
    rows = {f"r/{k}": random_rows(5 + k, seed=k, request_id=f"r/{k}") for k in range(6)}
    sender.send(pa.concat_batches(list(rows.values())))
    ends = [request_row("ended", request_id=request_id) for request_id in rows]
    sender.send(pa.concat_batches(ends), kind="requests")
    sender.hear_all()
    for request_id, of_one in rows.items():
        assert of_request(client, request_id) == stored_zone(settings.db, request_id) == offline(of_one)


def test_a_running_request_has_the_zone_of_its_tokens_so_far(client, sender, settings):
    rows = random_rows(30, seed=4)
    begin(sender)
    sender.hear_all()
    assert of_request(client) == (None, None)
    said = []
    for start in range(0, 30, 10):
        send(sender, rows.slice(start, 10))
        said.append(of_request(client))
        assert said == [offline(rows.slice(0, first + 10)) for first in range(0, start + 10, 10)]
        assert stored_zone(settings.db) == (None, None)
    assert len(set(said)) == 3
    end(sender)
    assert of_request(client) == said[-1]


def test_the_steps_decide_the_order_and_not_the_arrival(client, sender):
    rows = random_rows(30, seed=5)
    begin(sender)
    sender.send(rows.slice(20, 10))
    sender.send(rows.slice(0, 20))
    end(sender)
    assert of_request(client) == offline(rows)


def test_a_list_reads_no_more_than_the_latest_tokens_of_a_running_request(client, sender, monkeypatch):
    monkeypatch.setattr("attn_sidecar.store.reader.TOKENS_OF_A_RUNNING_REQUEST", 5)
    rows = random_rows(20, seed=6)
    begin(sender)
    send(sender, rows)
    (listed,) = client.get("/requests").json()["requests"]
    assert (listed["zone"], listed["zone_confidence"]) == offline(rows.slice(15, 5))
    detail = client.get("/requests/r").json()
    assert (detail["zone"], detail["zone_confidence"]) == offline(rows)
    end(sender)
    assert of_request(client) == offline(rows)


@pytest.mark.parametrize("ended", [False, True])
def test_a_page_says_the_zone_of_the_whole_request(client, sender, ended):
    rows = random_rows(20, seed=7)
    begin(sender)
    send(sender, rows)
    if ended:
        end(sender)
    for params in ({}, {"max_tokens": 3}, {"from_step": 12}, {"from_step": 5, "max_tokens": 4}, {"from_step": 99}):
        assert of_request(client, **params) == offline(rows)


def test_a_request_that_only_posted_fingerprints_has_a_zone_too(client):
    rows = random_rows(4, seed=8)
    for row in rows.to_pylist():
        asked = {name: row[name] for name in ("request_id", "step", "vector", *COMPANIONS)}
        assert client.post("/fingerprint", json=asked).status_code == 201
    detail = client.get("/requests/r").json()
    assert (detail["zone"], detail["zone_confidence"]) == offline(rows)
    assert detail["sentences"] is None


def test_a_request_without_tokens_has_no_zone(client, sender, settings):
    begin(sender)
    end(sender)
    assert stored_zone(settings.db) == (None, None)
    assert of_request(client) == (None, None)
    assert client.get("/requests/r").json()["sentences"] == []
    # They come late, from a spool: the row stays as it is, and who asks is told.
    rows = random_rows(6, seed=9)
    send(sender, rows)
    assert stored_zone(settings.db) == (None, None)
    assert of_request(client) == offline(rows)


def test_tokens_that_come_after_the_end_leave_the_stored_zone(client, sender):
    rows = random_rows(20, seed=10)
    begin(sender)
    sender.send(rows.slice(0, 10))
    end(sender)
    send(sender, rows.slice(10, 10))
    assert offline(rows) != offline(rows.slice(0, 10))
    assert of_request(client) == offline(rows.slice(0, 10))


def break_vectors(path, condition):
    """By hand, for the door lets no such vector in."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE tokens SET vector = zeroblob(80) WHERE {condition}")  # noqa: S608 - the tests' own
        connection.commit()


def test_a_broken_vector_is_left_out_of_the_mean(client, sender, settings):
    rows = random_rows(12, seed=11)
    rows = with_column(rows, "token_text", [*["a", "b.\n"] * 5, "c", "d"])
    begin(sender)
    send(sender, rows)
    break_vectors(settings.db, "step >= 8")
    held = rows.slice(0, 8)
    assert of_request(client) == offline(held)
    *whole, broken, last = client.get("/requests/r").json()["sentences"]
    assert [one["zone"] for one in whole] == [offline(rows.slice(k, 2))[0] for k in range(0, 8, 2)]
    nothing = {"zone": None, "confidence": None, "characteristic": None}
    assert broken == {"from_step": 8, "to_step": 9, "text": "ab.\n", **nothing}
    assert last == {"from_step": 10, "to_step": 11, "text": "cd", **nothing}
    end(sender)
    assert of_request(client) == stored_zone(settings.db) == offline(held)


def test_a_request_of_broken_vectors_ends_without_a_zone(client, sender, settings):
    begin(sender)
    send(sender, random_rows(3))
    break_vectors(settings.db, "true")
    end(sender)
    assert of_request(client) == stored_zone(settings.db) == (None, None)
    assert client.get("/requests/r").json()["finish_reason"] == "stop"


def test_the_formula_is_that_of_the_requests_model(client, sender, settings):
    """A run with a formula for this model alone: the end is written by it, and what ended before stays."""
    rows = random_rows(20, seed=12)
    other = replace(SHIPPED.formula_of(None), bias=np.array([0.0, 0.0, 0.0, 0.0, 9.0]))
    formulas = ZoneFormulas(of_model={MODEL: other}, default=SHIPPED.formula_of(None))
    by_run = Classifier(SHIPPED.arrays, run_id="run", formulas=formulas)
    assert offline(rows, by_run) != offline(rows)
    begin(sender, request_id="before")
    sender.send(with_column(rows, "request_id", ["before"] * 20))
    end(sender, request_id="before")
    publish_bundle(settings.discovery_dir, formulas=formulas)
    assert client.post("/discovery/reload").status_code == 200
    begin(sender)
    send(sender, rows)
    assert of_request(client) == offline(rows, by_run)
    end(sender)
    assert of_request(client) == stored_zone(settings.db) == offline(rows, by_run)
    assert of_request(client, "before") == offline(rows)


def test_requests_are_found_by_the_zone_of_the_whole_answer(client, sender):
    zones = {}
    for k in range(8):
        rows = random_rows(3, seed=k, request_id=f"r/{k}")
        begin(sender, request_id=f"r/{k}")
        sender.send(rows)
        end(sender, request_id=f"r/{k}")
        zones[f"r/{k}"] = offline(rows)[0]
    begin(sender, request_id="running")
    send(sender, random_rows(3, seed=0, request_id="running"))
    assert len(set(zones.values())) > 1
    for zone in ZONES:
        answer = client.get("/requests", params={"request_zone": zone}).json()["requests"]
        assert {one["request_id"] for one in answer} == {name for name, its in zones.items() if its == zone}
    assert client.get("/requests", params={"request_zone": "nowhere"}).status_code == 422


@pytest.mark.parametrize(
    ("texts", "ranges"),
    [
        ([], []),
        (["a"], [(0, 1)]),
        (["a", "."], [(0, 2)]),
        (["a", ".", " b"], [(0, 2), (2, 3)]),
        (["Yes", '."', " No", "!)", " Oh"], [(0, 2), (2, 4), (4, 5)]),
        (["a", "?\n", "b", "\n\n", "c"], [(0, 2), (2, 4), (4, 5)]),
        (["", "a", "", "."], [(0, 4)]),
        ([".", "."], [(0, 2)]),
        (["a", ",", " b", ";"], [(0, 4)]),
    ],
)
def test_a_sentence_ends_with_its_mark_or_with_the_answer(texts, ranges):
    assert sentence_ranges(texts) == ranges


def test_sentences_have_the_zone_of_their_mean_evidence(client, sender):
    rows = with_column(random_rows(9, seed=13), "token_text", [*"ab.", " c", *"d!", " e", *'"f'])
    begin(sender)
    sender.send(rows)
    end(sender)
    sentences = client.get("/requests/r").json()["sentences"]
    assert [(one["from_step"], one["to_step"], one["text"]) for one in sentences] == [
        (0, 2, "ab."),
        (3, 5, " cd!"),
        (6, 8, ' e"f'),
    ]
    formula = SHIPPED.formula_of(MODEL)
    for one in sentences:
        part = rows.slice(one["from_step"], 3)
        assert (one["zone"], one["confidence"]) == offline(part)
        reason = formula.reason(ZONES.index(one["zone"]), mean_of(part))
        assert one["characteristic"] == {
            "name": reason.characteristic,
            "value": round(reason.value, 4),
            "usual": round(reason.usual, 4),
        }
    page = client.get("/requests/r", params={"from_step": 1, "max_tokens": 4}).json()["sentences"]
    assert [(one["from_step"], one["to_step"], one["text"]) for one in page] == [(1, 2, "b."), (3, 4, " cd")]
    assert (page[1]["zone"], page[1]["confidence"]) == offline(rows.slice(3, 2))


@contextlib.contextmanager
def running(settings):
    sidecar = Sidecar(settings)
    with (
        TestClient(create_app(sidecar, static_dir=settings.db.parent / "static")) as client,
        contextlib.closing(Sender(sidecar.ingest.address)) as sender,
    ):
        yield client, sender


@pytest.mark.parametrize("stored_openly", [False, True])
def test_privacy_mode_gives_zones_and_no_sentences(settings, stored_openly):
    """Whether the texts were dropped on arrival, or are held from a time without --privacy."""
    rows = random_rows(10, seed=14)
    with running(replace(settings, privacy=not stored_openly)) as (client, sender):
        begin(sender)
        send(sender, rows)
        assert of_request(client) == offline(rows)
        assert (client.get("/requests/r").json()["sentences"] is None) is not stored_openly
    with running(replace(settings, privacy=True)) as (client, sender):
        assert of_request(client) == offline(rows)
        end(sender)
        assert of_request(client) == stored_zone(settings.db) == offline(rows)
        assert client.get("/requests/r").json()["sentences"] is None


def test_the_end_is_told_with_the_zone(client, sender):
    rows = random_rows(10, seed=15)

    def next_request(socket):
        while (message := socket.receive_json())["kind"] != "request":
            pass
        return message["event"], message["zone"], message["zone_confidence"]

    with client.websocket_connect("/events") as socket:
        begin(sender)
        assert next_request(socket) == ("started", None, None)
        sender.send(rows)
        end(sender)
        assert next_request(socket) == ("ended", *offline(rows))
        end(sender, request_id="without tokens")
        assert next_request(socket) == ("ended", None, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_sidecar_restarted_in_the_middle_ends_with_the_same_zone(start_process, number):
    rows = random_rows(40, seed=16)
    first = start_process()
    with contextlib.closing(Sender(first.zmq)) as sender:
        begin(sender)
        send(sender, rows.slice(0, 25))
        assert of_request(first.client) == offline(rows.slice(0, 25))
    first.stop(number)
    second = start_process()
    with contextlib.closing(Sender(second.zmq)) as sender:
        # Some steps come twice, as from a sender that missed the answers.
        sender.send(rows.slice(20, 20))
        end(sender)
    assert of_request(second.client) == stored_zone(second.db) == offline(rows)


def test_a_database_of_version_2_keeps_all_its_rows(settings):
    rows = random_rows(10, seed=17)
    with running(settings) as (client, sender):
        begin(sender)
        sender.send(rows)
        end(sender)
        before = client.get("/requests/r").json()
    with contextlib.closing(sqlite3.connect(settings.db)) as connection:
        for column in ("zone", "zone_confidence"):
            connection.execute(f"ALTER TABLE requests DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 2")
        connection.commit()
    with running(settings) as (client, sender):
        assert stored_zone(settings.db) == (None, None)
        assert client.get("/requests/r").json() == before
        assert of_request(client) == offline(rows)
        end(sender)
        assert stored_zone(settings.db) == offline(rows)
