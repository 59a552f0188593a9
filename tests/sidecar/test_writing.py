"""The writing thread when the database cannot be written: nobody is told that it was, and it recovers by itself."""

import contextlib
import json
import sqlite3
import threading

import numpy as np
import pytest
from sidecar_tools import INFO, START_US, WAIT_S, Sender, guide_vector, random_rows, with_column
from starlette.testclient import TestClient

from attn_core import store, wire
from attn_core.classify import Classifier, no_clusters
from attn_core.errors import SchemaMismatch
from attn_sidecar.admission import Admission
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.classification import answers_of, rows_from_values
from attn_sidecar.health import HealthBoard
from attn_sidecar.settings import Settings
from attn_sidecar.store.jobs import ArrivedBatch, PostedFingerprint, PostedSketch
from attn_sidecar.store.records import preview_from_prompt
from attn_sidecar.store.writer import Writer


@contextlib.contextmanager
def locked(path):
    """Another process's write lock."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def wait_for_health(sidecar, *, blocked):
    """Wait until the board says so; the event never fires, it only bounds how often is asked."""
    never = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        if sidecar.health.blocked == blocked:
            return
        never.wait(0.02)
    raise AssertionError(f"blocked is not {blocked}: {sidecar.health.reasons}")


def test_a_locked_database_withholds_the_acknowledgement(client, sidecar, sender, settings):
    with locked(settings.db):
        sender.send(random_rows(3))
        wait_for_health(sidecar, blocked=True)
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "degraded")
        assert "locked" in health.json()["reasons"][0]
        assert sender.hear(wait_s=0) is None
        # The reader is not blocked by a writer's lock.
        assert client.get("/stats").json()["fingerprints"] == 0
        refused = client.post("/fingerprint", json={"request_id": "a", "step": 0, "vector": guide_vector()})
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"].endswith(":store-unavailable")
    sender.hear_all()
    assert not sender.refused
    wait_for_health(sidecar, blocked=False)
    assert client.get("/stats").json()["fingerprints"] == 3


def test_a_failed_post_is_told_and_health_recovers_without_another(client, sidecar, settings):
    with locked(settings.db):
        refused = client.post("/fingerprint", json={"request_id": "a", "step": 0, "vector": guide_vector()})
        assert refused.status_code == 503
        assert client.get("/health").status_code == 503
    wait_for_health(sidecar, blocked=False)
    body = {"request_id": "a", "step": 0, "vector": guide_vector()}
    assert client.post("/fingerprint", json=body).json()["stored"] is True


def test_a_full_database_withholds_the_acknowledgement(client, sidecar, sender, settings, monkeypatch):
    """`max_page_count` makes SQLite say SQLITE_FULL, as a full disk does."""
    full = threading.Event()
    full.set()
    real = store.insert_fingerprints

    def insert(connection, *args, **kwargs):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages if full.is_set() else 1 << 30}")
        return real(connection, *args, **kwargs)

    monkeypatch.setattr("attn_sidecar.store.transaction.insert_fingerprints", insert)
    sender.send(random_rows(2000))
    wait_for_health(sidecar, blocked=True)
    assert "full" in client.get("/health").json()["reasons"][0]
    assert sender.hear(wait_s=0) is None
    assert client.get("/stats").json()["fingerprints"] == 0
    full.clear()
    sender.hear_all()
    assert not sender.refused
    assert client.get("/stats").json()["fingerprints"] == 2000


def test_one_impossible_row_does_not_take_others_with_it(client, sender, monkeypatch):
    """What admission let through and SQLite refuses for good is refused alone."""
    monkeypatch.setattr(
        "attn_sidecar.ingest.admissions", lambda batches, *, now_us: [Admission(batch=batch) for batch in batches]
    )
    bad = sender.send(with_column(random_rows(1), "step", [-1]))
    good = sender.send(random_rows(4, request_id="good"))
    sender.hear_all()
    assert set(sender.refused) == {bad}
    assert sender.refused[bad].startswith("store: ")
    assert good not in sender.refused
    assert client.get("/stats").json()["fingerprints"] == 4


def test_a_database_of_another_version_is_not_touched(tmp_path):
    path = tmp_path / "fingerprints.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (x); PRAGMA user_version = 99;")
    with pytest.raises(SchemaMismatch, match="schema version 99"):
        Sidecar(Settings(db=path, discovery_dir=tmp_path, zmq_bind=None)).open()


def test_stats_count_only_once_and_all(client, sender):
    for k in range(3):
        sender.send(random_rows(10, seed=k, request_id=f"r{k}"))
        sender.hear_all()
        stats = client.get("/stats").json()
        assert stats["fingerprints"] == 10 * (k + 1) == sum(stats["zones"].values())


def test_a_stop_commits_what_waits_and_acknowledges_it(sidecar, settings):
    """Stopped before the first commit could be heard of: every batch acknowledged is there."""
    with TestClient(create_app(sidecar)):
        sender = Sender(sidecar.ingest.address)
        for k in range(200):
            sender.send(random_rows(8, seed=k, first_step=8 * k))
        assert sender.hear() is not None
    while sender.hear(wait_s=0.5) is not None:
        pass
    acknowledged = 200 - len(sender.unacknowledged)
    sender.close()
    with contextlib.closing(sqlite3.connect(settings.db)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM fingerprints").fetchone()
    assert count == 8 * acknowledged > 0


def test_a_stop_drains_what_the_writer_has_taken(tmp_path):
    """Three batches wait behind a transaction under way when the stop comes: all are committed and answered."""
    entered, gate, answers = threading.Event(), threading.Event(), []

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
    for k in range(4):
        rows = random_rows(5, seed=k, request_id=f"r{k}")
        batch = wire.Batch(source_id=bytes(16), seq=k, kind="fingerprints", info=INFO, rows=rows)
        assert writer.offer(ArrivedBatch(batch=batch, answer=answers.append))
        assert entered.wait(WAIT_S)
    stopping = threading.Thread(target=lambda: writer.stop(within_s=WAIT_S))
    stopping.start()
    assert writer._stopping.wait(WAIT_S)
    gate.set()
    stopping.join(WAIT_S)
    assert answers == [None] * 4
    with contextlib.closing(sqlite3.connect(tmp_path / "fingerprints.db")) as connection:
        assert connection.execute("SELECT count(*) FROM fingerprints").fetchone() == (20,)


def test_what_is_posted_meanwhile_shares_one_transaction(tmp_path):
    """Six posts wait behind a commit under way, two for a place that is taken: one transaction, each its own answer."""
    entered, gate, stored, commits = threading.Event(), threading.Event(), {}, []

    def classifier():
        entered.set()
        assert gate.wait(WAIT_S)
        return Classifier.without_run()

    writer = Writer(
        tmp_path / "fingerprints.db",
        classifier=classifier,
        health=HealthBoard(),
        on_commit=commits.append,
        on_room=lambda: None,
        now_us=lambda: START_US,
    )
    writer.start()

    rows = rows_from_values([guide_vector()], context_len=[1500], sink_mass=[None], periodicity=[0.25])

    def post(key, request_id, step, run_id=None, sketch=None):
        answers = answers_of(Classifier(no_clusters(), run_id=run_id), rows)
        writer.post(
            PostedFingerprint(
                request_id=request_id,
                step=step,
                captured_at_us=START_US + step,
                rows=rows,
                answers=answers,
                row=0,
                sketch=sketch,
                answer=lambda outcome: stored.update({key: outcome.stored}),
            )
        )

    post("first", "a", 0)
    assert entered.wait(WAIT_S)
    for key, place in {"held": ("a", 0), "new": ("a", 1), "twice": ("a", 1), "b": ("b", 3), "c": ("c", 4)}.items():
        post(key, *place)
    post("run", "a", 2, "2026-01-10T04-02-11")
    for step, matrix in enumerate(("ab" * 32, "cd" * 32)):
        sketch = PostedSketch(head_sketch=[step + 0.5] * 16, zone_evidence=[step] * 5, head_projection=matrix)
        post(matrix, "s", step, sketch=sketch)
    gate.set()
    writer.stop(within_s=WAIT_S)
    assert stored == {
        "first": True, "held": False, "new": True, "twice": False, "b": True, "c": True, "run": True,
        "ab" * 32: True, "cd" * 32: True,
    }  # fmt: skip
    assert [(one.num_new, one.num_repeated) for one in commits] == [(1, 0), (6, 2)]
    with contextlib.closing(sqlite3.connect(tmp_path / "fingerprints.db")) as connection:
        found = connection.execute(
            "SELECT request_id, step, captured_at_us, cluster_id, context_len, sink_mass, periodicity, "
            "classified_run_id FROM fingerprints WHERE request_id != 's' ORDER BY request_id, step"
        ).fetchall()
        sketched = connection.execute(
            "SELECT head_sketch, zone_evidence, head_projection FROM fingerprints WHERE head_sketch IS NOT NULL "
            "ORDER BY step"
        ).fetchall()
    assert sketched == [
        (np.full(16, step + 0.5, "<f2").tobytes(), np.full(5, step, "<f2").tobytes(), matrix)
        for step, matrix in enumerate(("ab" * 32, "cd" * 32))
    ]
    places = [("a", 0), ("a", 1), ("a", 2), ("b", 3), ("c", 4)]
    runs = {("a", 2): "2026-01-10T04-02-11"}
    assert found == [
        (name, step, START_US + step, -1, 1500, None, 0.25, runs.get((name, step))) for name, step in places
    ]


def test_a_preview_is_the_last_user_message():
    texts = json.dumps(["<s>", "Hi", " there", "</s>", "Fine", "What", " is", " 2+2?", "</s>"])
    spans = [{"message": k, "role": role, "start": a, "end": b} for k, (role, a, b) in enumerate(
        [("user", 1, 3), ("assistant", 4, 5), ("user", 5, 8)]
    )]  # fmt: skip
    assert preview_from_prompt(texts, json.dumps(spans)) == "What is 2+2?"
    assert preview_from_prompt(texts, None) == "<s>Hi there</s>FineWhat is 2+2?</s>"
    assert preview_from_prompt(None, None) is None
    assert len(preview_from_prompt(json.dumps(["long "] * 500), None)) == 120
