"""Ingest: acknowledged after commit, refused with a reason, never a crash, never a loss."""

import contextlib
import dataclasses
import socket
import sqlite3
import struct

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from sidecar_tools import INFO, START_US, Sender, random_rows, request_row, with_column

from attn_core import wire
from attn_core.classify import Classifier
from attn_core.zones import ZONES
from attn_sidecar.app import Sidecar, create_app


def stored(settings, sql, *values):
    with contextlib.closing(sqlite3.connect(settings.db)) as connection:
        return connection.execute(sql, values).fetchall()


def test_an_acknowledged_batch_is_in_the_database_already(sender, settings):
    """Another connection sees the rows at the moment of the acknowledgement, twenty times over."""
    for k in range(20):
        seq = sender.send(random_rows(5, seed=k, request_id=f"r{k}"))
        assert sender.hear() == (seq, None)
        assert stored(settings, "SELECT count(*) FROM fingerprints WHERE request_id = ?", f"r{k}") == [(5,)]


def test_everything_on_the_wire_is_stored_and_classified(sender, settings):
    rows = random_rows(30)
    sender.send(request_row("started"), kind="requests")
    sender.send(rows)
    sender.send(request_row("ended"), kind="requests")
    sender.hear_all()
    assert not sender.refused
    found = stored(
        settings,
        "SELECT step, captured_at_us, model_id, token_id, token_text, vector, context_len, zone, cluster_id, "
        "classified_run_id FROM fingerprints ORDER BY step",
    )
    classified = Classifier.without_run().classify(
        wire.vectors_from_rows(rows),
        context_len=rows.column("context_len").to_numpy(),
        sink_mass=rows.column("sink_mass").to_numpy(),
        periodicity=rows.column("periodicity").to_numpy(),
    )
    assert len(found) == 30
    for i, (step, at_us, model_id, token_id, text, vector, context_len, zone, cluster_id, run_id) in enumerate(found):
        row = rows.slice(i, 1).to_pylist()[0]
        assert (step, at_us, token_id, text) == (i, START_US + 1000 * i, row["token_id"], row["token_text"])
        assert np.frombuffer(vector, "<f4").tolist() == row["vector"]
        assert (model_id, context_len, zone) == (INFO.model_id, row["context_len"], classified.zones()[i])
        assert (cluster_id, run_id) == (-1, None)
    assert stored(settings, "SELECT finish_reason, num_output_tokens, prompt_len FROM requests") == [("stop", 7, 3)]
    assert stored(settings, "SELECT source_id, model_id, last_seq FROM ingest_sources") == [
        (sender.source_id, INFO.model_id, 2)
    ]


def test_repeats_and_disorder_are_stored_exactly_once(sender, sidecar, settings):
    """After a restart of the receiver a late batch comes before an early one, and both come again."""
    batches = [
        wire.encode_batch(
            kind="fingerprints",
            rows=random_rows(4, seed=seq, first_step=4 * seq),
            source_id=sender.source_id,
            seq=seq,
            info=INFO,
        )
        for seq in range(6)
    ]
    order = [5, 0, 1, 1, 5, 3, 2, 4, 0, 3]
    for seq in order:
        sender.socket.send_multipart(batches[seq])
    assert sorted(sender.hear()[0] for _ in order) == sorted(order)
    assert stored(settings, "SELECT step FROM fingerprints ORDER BY step") == [(step,) for step in range(24)]
    # A sidecar that has forgotten what it took answers repeats from the rows themselves.
    sidecar.ingest._committed.clear()
    for seq in order:
        sender.socket.send_multipart(batches[seq])
    assert {sender.hear()[1] for _ in order} == {None}
    assert stored(settings, "SELECT count(*) FROM fingerprints") == [(24,)]


def test_a_repeat_does_not_overwrite(sender, settings):
    sender.send(random_rows(1, seed=1))
    sender.hear_all()
    before = stored(settings, "SELECT * FROM fingerprints")
    sender.send(random_rows(1, seed=2))
    sender.hear_all()
    assert stored(settings, "SELECT * FROM fingerprints") == before


GOOD = random_rows(3)
NAN_VECTOR = np.asarray(GOOD.column("vector").flatten().to_numpy()).copy()
NAN_VECTOR[25] = np.nan
BAD_ROWS = {
    "id": with_column(GOOD, "request_id", ["a", "", "b"]),
    "step": with_column(GOOD, "step", [0, -1, 2]),
    "instant": with_column(GOOD, "captured_at_us", [0, 2**60, 2]),
    "vector": with_column(GOOD, "vector", pa.FixedSizeListArray.from_arrays(pa.array(NAN_VECTOR), 20)),
    "context": with_column(GOOD, "context_len", [2000, 0, 2000]),
    "share": with_column(GOOD, "sink_mass", [0.1, float("nan"), 0.1]),
    "topk": with_column(GOOD, "topk_positions", [[3, 1], [2], None]),
    "sketch": with_column(GOOD, "head_figures", [None, [0.5] * 7, None]),
}


@pytest.mark.parametrize("word", BAD_ROWS)
def test_a_row_that_breaks_an_invariant_is_refused_alone(word, sender, sidecar, settings):
    """The second of three; the two beside it, of another request, are stored and acknowledged."""
    seq = sender.send(BAD_ROWS[word])
    assert sender.hear() == (seq, None)
    assert dict(sidecar.ingest.counters.refused_rows) == {word: 1}
    assert not sidecar.ingest.counters.refused
    assert stored(settings, "SELECT step FROM fingerprints ORDER BY step") == [(0,), (2,)]


def test_one_bad_row_of_512_loses_no_other(sender, sidecar, settings):
    """Of 64 requests in one batch: what the sender's batches hold together has nothing to do with one another."""
    rows = pa.concat_batches([random_rows(8, seed=k, request_id=f"r{k}") for k in range(64)])
    vectors = np.asarray(rows.column("vector").flatten().to_numpy()).copy().reshape(-1, 20)
    vectors[300, 3] = 800.0
    seq = sender.send(with_column(rows, "vector", pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 20)))
    assert sender.hear() == (seq, None)
    assert stored(settings, "SELECT count(*) FROM fingerprints") == [(511,)]
    assert stored(settings, "SELECT count(*) FROM fingerprints WHERE request_id = 'r37'") == [(7,)]
    assert dict(sidecar.ingest.counters.refused_rows) == {"vector": 1}


@pytest.mark.parametrize("word", BAD_ROWS)
def test_a_batch_without_one_good_row_is_refused(word, sender, sidecar, settings):
    bad = sender.send(BAD_ROWS[word].slice(1, 1))
    good = sender.send(random_rows(2, request_id="after"))
    sender.hear_all()
    assert set(sender.refused) == {bad}
    assert sender.refused[bad].startswith(f"{word}: ")
    assert sidecar.ingest.counters.refused == {word: 1}
    assert good not in sender.refused
    assert stored(settings, "SELECT DISTINCT request_id FROM fingerprints") == [("after",)]


def test_a_missing_id_or_an_unknown_event_is_refused_alone(sender, sidecar, settings):
    rows = pa.concat_batches([request_row("started", request_id=f"r{k}") for k in range(4)])
    rows = with_column(rows, "request_id", ["a", None, "c", "d"])
    seq = sender.send(with_column(rows, "event", ["started", "started", "paused", "started"]), kind="requests")
    assert sender.hear() == (seq, None)
    assert stored(settings, "SELECT request_id FROM requests ORDER BY 1") == [("a",), ("d",)]
    assert dict(sidecar.ingest.counters.refused_rows) == {"null": 1, "event": 1}


BAD_JSON = {
    "prompt_spans": [
        "[{", "[1]", '{"a": 1}', '[{"message": 0}]', '[{"message": 0, "role": "u", "start": -1, "end": 2}]',
        '[{"message": "0", "role": "u", "start": 0, "end": 2}]', "null",
    ],
    "sampling_params": ["{", "[]", "1", '{"a": "\\ud800"}', '{"a": 1e999}', '{"a": NaN}', "null"],
}  # fmt: skip


@pytest.mark.parametrize(("column", "text"), [(name, text) for name, texts in BAD_JSON.items() for text in texts])
def test_what_could_not_be_read_back_is_refused_at_the_edge(column, text, client, sender):
    """`[1]` as spans was stored, and `GET /requests` answered 500 to everyone from then on."""
    rows = pa.concat_batches([request_row("started", request_id=name) for name in ("bad", "good")])
    good = rows.column(column)[1].as_py()
    seq = sender.send(with_column(rows, column, [text, good]), kind="requests")
    assert sender.hear() == (seq, None)
    assert [one["request_id"] for one in client.get("/requests").json()["requests"]] == ["good"]
    assert client.get("/requests/good").status_code == 200


def test_a_request_event_that_is_no_json_is_refused(sender):
    seq = sender.send(with_column(request_row("started"), "prompt_spans", ["[{"]), kind="requests")
    assert sender.hear()[1].startswith("json: ")
    assert seq in sender.refused


def broken_frames(source_id):
    good = wire.encode_batch(kind="fingerprints", rows=random_rows(2), source_id=source_id, seq=9, info=INFO)
    payload = good[3]
    other = wire.SourceInfo(model_id="m", captured_layers=(), num_heads=1)
    wrong_kind = wire.encode_rows(kind="requests", rows=request_row("started"), info=other)
    return {
        "frames": good[:2],
        "magic": [b"AFP9", *good[1:]],
        "source": [good[0], b"short", *good[2:]],
        "seq": [*good[:2], b"123", payload],
        "arrow": [*good[:3], payload[: len(payload) // 2]],
        "arrow ": [*good[:3], b"not arrow at all"],
        "version": [*good[:3], payload.replace(b"fingerprint_version", b"fingerprint_versioN")],
        "kind": [*good[:3], wrong_kind.replace(b"requests", b"requestz")],
    }


@pytest.mark.parametrize("case", broken_frames(bytes(16)))
def test_bad_frames_are_refused_and_the_next_batch_is_taken(case, sender, sidecar, client):
    sender.socket.send_multipart(broken_frames(sender.source_id)[case])
    answer = sender.hear()
    word = {"version": "metadata"}.get(case, case.strip())
    assert answer is not None
    assert answer[1].startswith(f"{word}: ")
    good = sender.send(random_rows(2))
    sender.hear_all()
    assert good not in sender.refused
    stats = client.get("/stats").json()
    assert stats["ingest"]["refused"] == {word: 1}
    assert stats["fingerprints"] == 2
    assert client.get("/health").json()["status"] == "ok"


def test_an_answer_to_a_broken_header_names_nobodys_source(sender):
    sender.socket.send_multipart([b"what?"])
    source_id, _, reason = wire.decode_answer(sender.socket.recv_multipart())
    assert source_id == bytes(16)
    assert reason.startswith("frames: ")


def test_random_frames_do_no_harm(sender, client):
    """Damage at random places: each is answered one way or the other, and the thread lives on."""
    rng = np.random.default_rng(20)
    good = wire.encode_batch(kind="fingerprints", rows=random_rows(2), source_id=sender.source_id, seq=1, info=INFO)
    for _ in range(500):
        payload = bytearray(good[3])
        for at in rng.integers(0, len(payload), rng.integers(1, 20)):
            payload[at] = rng.integers(0, 256)
        seq = struct.pack("<Q", int(rng.integers(0, 2**62)))
        sender.socket.send_multipart([good[0], good[1], seq, bytes(payload)])
        assert sender.hear() is not None
    good = sender.send(random_rows(2, request_id="after"))
    sender.hear_all()
    assert good not in sender.refused
    assert client.get("/health").json()["reasons"] == []


def test_what_senders_dropped_is_counted(sender, client, settings):
    info = dataclasses.replace(INFO, dropped=4)
    sender.send(random_rows(1), info=info)
    sender.hear_all()
    assert client.get("/stats").json()["ingest"]["dropped_by_senders"] == 4
    assert stored(settings, "SELECT dropped FROM ingest_sources") == [(4,)]


def test_several_sources_at_once(client, sidecar, settings):
    senders = [Sender(sidecar.ingest.address) for _ in range(4)]
    for k in range(50):
        for i, sender in enumerate(senders):
            sender.send(random_rows(8, seed=k, request_id=f"s{i}", first_step=8 * k))
    for sender in senders:
        sender.hear_all()
        assert not sender.refused
        sender.close()
    assert stored(settings, "SELECT count(*), count(DISTINCT request_id) FROM fingerprints") == [(1600, 4)]
    assert {zone for (zone,) in stored(settings, "SELECT DISTINCT zone FROM fingerprints")} <= set(ZONES)


def test_a_full_writer_holds_batches_back_and_loses_none(client, sidecar, sender, settings, monkeypatch):
    """With room for ten rows the socket is read no faster than commits happen."""
    monkeypatch.setattr("attn_sidecar.store.writer.MAX_ROWS_WAITING", 10)
    for k in range(40):
        sender.send(random_rows(7, seed=k, first_step=7 * k))
    sender.hear_all()
    assert stored(settings, "SELECT count(*) FROM fingerprints") == [(280,)]


def test_ingest_over_ipv6(settings):
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 loopback on this machine")
        port = probe.getsockname()[1]
    sidecar = Sidecar(dataclasses.replace(settings, zmq_bind=f"tcp://[::1]:{port}"))
    with (
        TestClient(create_app(sidecar, static_dir=settings.db.parent / "static")),
        contextlib.closing(Sender(sidecar.ingest.address)) as sender,
    ):
        seq = sender.send(random_rows(3))
        assert sender.hear() == (seq, None)
