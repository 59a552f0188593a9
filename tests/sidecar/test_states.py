"""Each state the store can fall into: what `/health` says, that nothing is acknowledged or lost, and the way back."""

import contextlib
import os
import resource
import shutil
import sqlite3
import threading

import pyarrow as pa
import pytest
from sidecar_tools import INFO, START_US, WAIT_S, Sender, guide_vector, random_rows
from starlette.testclient import TestClient

from attn_core import wire
from attn_core.classify import Classifier
from attn_core.errors import StoreError
from attn_core.store import open_writer
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.health import HealthBoard
from attn_sidecar.store.jobs import ArrivedBatch
from attn_sidecar.store.reader import Reader
from attn_sidecar.store.writer import Writer


def wait_until(true, what):
    """Ask until it is so; the event never fires, it only bounds how often is asked."""
    never = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        if true():
            return
        never.wait(0.02)
    raise AssertionError(what)


def count(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM fingerprints").fetchone()[0]


def test_a_disk_quota_withholds_the_acknowledgement_until_there_is_room(start_process):
    """A real process whose files may grow no further (RLIMIT_FSIZE), as under a quota; then they may."""
    process = start_process()
    sender = Sender(process.zmq)
    sender.send(random_rows(10))
    sender.hear_all()
    largest = max(path.stat().st_size for path in process.db.parent.iterdir() if path.name.startswith(process.db.name))
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (largest + 20_000, resource.RLIM_INFINITY))
    sender.send(random_rows(3000, request_id="big"))
    wait_until(lambda: process.client.get("/health").status_code == 503, "the quota was not noticed")
    reason = process.client.get("/health").json()["reasons"][0]
    assert reason.startswith("store: ")
    assert "look at its space, its quota" in reason
    assert sender.hear(wait_s=0) is None
    assert process.client.get("/stats").json()["fingerprints"] == 10
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sender.hear_all()
    assert not sender.refused
    wait_until(lambda: process.client.get("/health").status_code == 200, "it did not recover")
    assert process.client.get("/stats").json()["fingerprints"] == 3010
    sender.close()


def test_a_read_only_database_withholds_the_acknowledgement(client, sidecar, sender, settings, monkeypatch):
    """Read-only is faked by `PRAGMA query_only` on every connection made meanwhile: a mode means nothing to root."""
    read_only = threading.Event()

    def open_as_told(path):
        connection = open_writer(path)
        connection.execute(f"PRAGMA query_only = {int(read_only.is_set())}")
        return connection

    monkeypatch.setattr("attn_sidecar.store.access.open_writer", open_as_told)
    read_only.set()
    # Another file of the same name makes the writer open it anew.
    shutil.copy(settings.db, moved := settings.db.with_name("copy.db"))
    moved.replace(settings.db)
    sender.send(random_rows(5))
    wait_until(lambda: client.get("/health").status_code == 503, "read-only was not noticed")
    assert "readonly" in client.get("/health").json()["reasons"][0]
    assert sender.hear(wait_s=0) is None
    refused = client.post("/fingerprint", json={"request_id": "a", "step": 0, "vector": guide_vector()})
    assert refused.status_code == 503
    read_only.clear()
    sender.hear_all()
    assert not sender.refused
    assert count(settings.db) == 5
    wait_until(lambda: client.get("/health").status_code == 200, "it did not recover")


def test_a_database_locked_at_start_is_waited_for(settings, sidecar, monkeypatch):
    monkeypatch.setattr("attn_core.store.BUSY_TIMEOUT_MS", 20)
    with contextlib.closing(sqlite3.connect(settings.db, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with TestClient(create_app(sidecar)) as client, contextlib.closing(Sender(sidecar.ingest.address)) as sender:
            sender.send(random_rows(4))
            health = client.get("/health")
            assert health.status_code == 503
            assert "another process holds the write lock" in " ".join(health.json()["reasons"])
            assert client.get("/stats").status_code == 503
            assert client.post("/classify", json={"vector": guide_vector()}).status_code == 200
            assert sender.hear(wait_s=0) is None
            other.execute("ROLLBACK")
            sender.hear_all()
            wait_until(lambda: client.get("/health").json()["reasons"] == [], "it did not recover")
            assert client.get("/stats").json()["fingerprints"] == 4


def damage(path):
    """Overwrite the table's and its indexes' pages beyond the first ones."""
    with path.open("r+b") as file:
        file.seek(8192 * 20)
        file.write(os.urandom(8192 * 40))


def test_a_damaged_database_is_told_with_a_way_to_mend_it(settings, sidecar):
    with TestClient(create_app(sidecar)), contextlib.closing(Sender(sidecar.ingest.address)) as sender:
        for k in range(8):
            sender.send(random_rows(500, request_id=f"r{k}"))
        sender.hear_all()
    # A stop leaves nothing in the log: a copy of the one file is whole.
    assert settings.db.with_name("fingerprints.db-wal").stat().st_size == 0
    whole = settings.db.with_name("whole.db")
    shutil.copy(settings.db, whole)
    damage(settings.db)
    again = Sidecar(settings)
    with TestClient(create_app(again)) as client, contextlib.closing(Sender(again.ingest.address)) as sender:
        wait_until(lambda: client.get("/health").json()["status"] == "degraded", "the damage was not noticed")
        reasons = client.get("/health").json()["reasons"]
        assert any(reason.startswith("integrity: ") and ".recover" in reason for reason in reasons)
        whole.replace(settings.db)
        wait_until(lambda: client.get("/health").json()["reasons"] == [], "the mended file was not noticed")
        sender.send(random_rows(6, request_id="after"))
        sender.hear_all()
        assert client.get("/stats").json()["fingerprints"] == 4006
    assert count(settings.db) == 4006


def test_a_damaged_page_that_writing_needs_withholds_the_acknowledgement(settings, sidecar):
    """The roots of the table of tokens and of its indexes: 503 until a whole file takes the name, nothing is lost."""
    with TestClient(create_app(sidecar)), contextlib.closing(Sender(sidecar.ingest.address)) as sender:
        for k in range(4):
            sender.send(random_rows(500, request_id=f"r{k}"))
        sender.hear_all()
    whole = settings.db.with_name("whole.db")
    shutil.copy(settings.db, whole)
    with contextlib.closing(sqlite3.connect(settings.db)) as connection:
        roots = connection.execute("SELECT rootpage FROM sqlite_schema WHERE tbl_name = 'tokens' AND rootpage > 0")
        pages = [page for (page,) in roots]
    with settings.db.open("r+b") as file:
        for page in pages:
            file.seek(8192 * (page - 1))
            file.write(os.urandom(8192))
    again = Sidecar(settings)
    with TestClient(create_app(again)) as client, contextlib.closing(Sender(again.ingest.address)) as sender:
        sender.send(random_rows(6, request_id="after"))
        wait_until(lambda: client.get("/health").status_code == 503, "the damage was not noticed")
        reasons = client.get("/health").json()["reasons"]
        assert any(reason.startswith("store: ") and ".recover" in reason for reason in reasons)
        assert sender.hear(wait_s=0) is None
        whole.replace(settings.db)
        sender.hear_all()
        assert not sender.refused
        wait_until(lambda: client.get("/health").json()["reasons"] == [], "the mended file was not noticed")
    assert count(settings.db) == 2006


def test_a_file_that_was_moved_away_is_not_written_to(client, sender, settings):
    sender.send(random_rows(3, request_id="before"))
    sender.hear_all()
    for path in list(settings.db.parent.glob("fingerprints.db*")):
        path.rename(path.with_name(f"moved-{path.name}"))
    sender.send(random_rows(4, request_id="after"))
    sender.hear_all()
    assert count(settings.db) == 4
    assert client.get("/stats").json()["fingerprints"] == 4


def test_a_flood_from_one_source_delays_another_by_one_batch(tmp_path):
    """Sixty batches of one source wait when another sends its first: it is among the next two that are committed."""
    entered, gate, order = threading.Event(), threading.Event(), []

    def classifier():
        entered.set()
        assert gate.wait(WAIT_S)
        return Classifier.without_run()

    writer = Writer(
        tmp_path / "fingerprints.db",
        classifier=classifier,
        health=HealthBoard(),
        on_commit=lambda _: None,
        on_room=lambda: None,
        now_us=lambda: START_US,
    )
    writer.start()

    def offer(name, seq):
        rows = random_rows(5, seed=seq, request_id=f"{name}{seq}")
        batch = wire.Batch(source_id=name.encode() * 16, seq=seq, kind="fingerprints", info=INFO, rows=rows)
        assert writer.offer(ArrivedBatch(batch=batch, answer=lambda reason: order.append((name, seq, reason))))

    offer("f", 0)
    assert entered.wait(WAIT_S)
    for seq in range(1, 61):
        offer("f", seq)
    offer("s", 0)
    gate.set()
    writer.stop(within_s=WAIT_S)
    assert order.index(("s", 0, None)) <= 2
    assert [seq for name, seq, _ in order if name == "f"] == list(range(61))


def test_the_live_thread_outlives_a_store_error(client, sidecar, sender, monkeypatch):
    failures, real = [], Reader.tokens_between

    def fails_twice(self, **options):
        if len(failures) < 2:
            failures.append(1)
            raise StoreError("cannot be read: faked")
        return real(self, **options)

    monkeypatch.setattr(Reader, "tokens_between", fails_twice)
    with client.websocket_connect("/events") as socket:
        socket.receive_json()
        sender.send(random_rows(3))
        message = socket.receive_json()
    assert [token["step"] for token in message["tokens"]] == [0, 1, 2]
    assert len(failures) == 2
    wait_until(lambda: not sidecar.health.ails("live"), "it did not recover")


@pytest.mark.parametrize("fault", ["compressed", "arrow"])
def test_a_bad_batch_is_counted_by_its_reason(fault, sender, sidecar):
    frames = wire.encode_batch(kind="fingerprints", rows=random_rows(2), source_id=sender.source_id, seq=0, info=INFO)
    if fault == "compressed":
        with pa.ipc.open_stream(frames[3]) as reader:
            table = reader.read_all()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        frames[3] = bytes(sink.getvalue())
    else:
        frames[3] = frames[3][:200]
    sender.socket.send_multipart(frames)
    assert sender.hear()[1].startswith(f"{fault}: ")
    assert sidecar.ingest.counters.refused == {fault: 1}
