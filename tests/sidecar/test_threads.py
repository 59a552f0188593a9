"""Every long-lived thread outlives what one item does to it: the item is refused or left out alone, logged and counted.

The faults are put in by replacing one function with one that fails at a chosen item: what nobody foresaw cannot be
sent.
"""

import contextlib
import threading

import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families
from sidecar_tools import Sender, publish_bundle, random_rows
from test_states import wait_until

from attn_sidecar import discovery, ingest, live
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import EventFormatter
from attn_sidecar.service_thread import STUCK_S, ServiceThread
from attn_sidecar.store import transaction, writer
from attn_sidecar.store.reader import Reader
from attn_sidecar.zmq_door import guard


def faults(client):
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        if family.name in ("attn_thread_faults", "attn_thread_alive"):
            for sample in family.samples:
                if sample.name != "attn_thread_faults_created":
                    found.setdefault(sample.labels["thread"], {})[family.name.rsplit("_", 1)[1]] = sample.value
    return found


def assert_survived(client, name):
    assert faults(client)[name]["alive"] == 1
    assert faults(client)[name]["faults"] >= 1
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert any(name in reason for reason in health.json()["reasons"])


def assert_stored(client, *request_ids):
    assert {one for one in request_ids if client.get(f"/requests/{one}").status_code == 200} == set(request_ids)


def failing_at(function, is_bad, error=KeyError):
    """`function`, but for the arguments for which `is_bad` holds."""

    def wrapped(*args, **kwargs):
        if is_bad(*args, **kwargs):
            raise error("secret words of a prompt")
        return function(*args, **kwargs)

    return wrapped


def has_bad(rows):
    return rows.num_rows > 0 and "bad" in rows.column("request_id").to_pylist()


def send_three(sender):
    """One batch of each of three requests, the second of which is bad; returns its number."""
    sent = [sender.send(random_rows(4, seed=k, request_id=name)) for k, name in enumerate(["a", "bad", "c"])]
    sender.hear_all()
    return sent[1]


def test_all_threads_are_watched(client):
    alive = {name for name, its in faults(client).items() if its["alive"]}
    # That check ends once it has found the file whole.
    assert alive - {"attn-integrity"} == {
        "attn-discovery", "attn-ingest", "attn-live", "attn-online", "attn-prepare", "attn-writer",
    }  # fmt: skip
    assert client.get("/health").json()["reasons"] == []


def test_ingest_outlives_a_message_that_nobody_foresaw(client, sender, monkeypatch):
    plain = ingest.decode_batch
    monkeypatch.setattr(ingest, "decode_batch", failing_at(plain, lambda frames: b"bad" in frames[3]))
    bad = send_three(sender)
    assert set(sender.refused) == {bad}
    assert sender.refused[bad].startswith("internal: KeyError")
    assert_stored(client, "a", "c")
    assert_survived(client, "attn-ingest")


def test_ingest_outlives_a_check_that_fails(client, sender, monkeypatch):
    plain = ingest.admissions
    is_bad = lambda batches, now_us: any(has_bad(batch.rows) for batch in batches)  # noqa: E731
    monkeypatch.setattr(ingest, "admissions", failing_at(plain, is_bad, RecursionError))
    bad = send_three(sender)
    assert set(sender.refused) == {bad}
    assert_stored(client, "a", "c")
    assert_survived(client, "attn-ingest")


def test_ingest_begins_its_loop_again(client, sender, sidecar, monkeypatch):
    plain, once = sidecar.ingest._send_answers, iter([True])
    monkeypatch.setattr(sidecar.ingest, "_send_answers", failing_at(plain, lambda: next(once, False)))
    sender.send(random_rows(4, request_id="a"))
    sender.hear_all()
    assert_stored(client, "a")
    assert_survived(client, "attn-ingest")


@pytest.mark.parametrize("error", [KeyError, TypeError, AssertionError])
def test_the_writer_outlives_a_batch_that_nobody_foresaw(client, sender, monkeypatch, error):
    is_bad = lambda connection, prepared: any(has_bad(rows) for _, rows, _ in prepared.tokens)  # noqa: E731
    monkeypatch.setattr(writer, "write", failing_at(transaction.write, is_bad, error))
    bad = send_three(sender)
    assert sender.refused == {bad: f"store: {error.__name__}"}
    assert_stored(client, "a", "c")
    assert_survived(client, "attn-writer")


def test_a_batch_that_cannot_be_classified_is_refused_alone(client, sender, monkeypatch):
    plain = transaction._classify
    monkeypatch.setattr(
        transaction, "_classify", failing_at(plain, lambda _, rows, **known: has_bad(rows), ZeroDivisionError)
    )
    bad = send_three(sender)
    assert set(sender.refused) == {bad}
    assert_stored(client, "a", "c")
    assert faults(client)["attn-prepare"]["alive"] == 1


def test_without_memory_nothing_is_refused(client, sender, monkeypatch):
    tries = iter([True, True])
    monkeypatch.setattr(writer, "write", failing_at(transaction.write, lambda *_: next(tries, False), MemoryError))
    send_three(sender)
    assert sender.refused == {}
    assert_stored(client, "a", "bad", "c")


def test_who_hears_of_a_commit_cannot_undo_it(client, sender, sidecar, monkeypatch):
    monkeypatch.setattr(sidecar.live, "committed", failing_at(sidecar.live.committed, lambda commit: True))
    send_three(sender)
    assert sender.refused == {}
    assert client.get("/stats").json()["fingerprints"] == 12
    assert_survived(client, "attn-writer")


def test_live_leaves_out_a_token_that_cannot_be_shown(client, sender, monkeypatch):
    plain = live.tokens_message
    monkeypatch.setattr(live, "tokens_message", failing_at(plain, lambda tokens: any(one.step == 2 for one in tokens)))
    with client.websocket_connect("/events") as socket:
        assert socket.receive_json()["kind"] == "hello"
        sender.send(random_rows(5, request_id="a"))
        sender.hear_all()
        heard = [socket.receive_json() for _ in range(5)]
    assert [one["kind"] for one in heard] == ["tokens", "tokens", "gap", "tokens", "tokens"]
    assert [one["tokens"][0]["step"] for one in heard if one["kind"] == "tokens"] == [0, 1, 3, 4]
    assert (heard[2]["num_skipped"], heard[2]["cursor"]) == (1, 3)
    assert_survived(client, "attn-live")


def test_live_goes_on_after_its_reader_fails(client, sender, monkeypatch):
    once = iter([True])
    monkeypatch.setattr(Reader, "is_current", failing_at(Reader.is_current, lambda _: next(once, False)))
    with client.websocket_connect("/events") as socket:
        assert socket.receive_json()["kind"] == "hello"
        sender.send(random_rows(2, request_id="a"))
        sender.hear_all()
        assert len(socket.receive_json()["tokens"]) == 2


def test_a_run_that_nobody_foresaw_is_refused_and_the_next_is_served(client, sidecar, settings, monkeypatch):
    """Watched for, not asked for: as when discovery publishes while nobody looks."""
    plain = discovery.PointMap.load
    bad = failing_at(plain, lambda path, run_id: run_id.endswith("11"), ZeroDivisionError)
    monkeypatch.setattr(discovery.PointMap, "load", bad)
    publish_bundle(settings.discovery_dir, run_id="2026-01-10T04-02-11")
    wait_until(lambda: sidecar.discovery.problem is not None, "the run was not looked at")
    assert "ZeroDivisionError" in sidecar.discovery.problem
    publish_bundle(settings.discovery_dir, run_id="2026-01-10T05-02-12")
    wait_until(lambda: sidecar.discovery.served.run_id == "2026-01-10T05-02-12", "the next run was not served")
    assert client.get("/health").json()["reasons"] == []


def test_discovery_goes_on_when_who_hears_of_a_run_fails(client, sidecar, settings, monkeypatch):
    once = iter([True])
    monkeypatch.setattr(sidecar.discovery, "_on_swap", failing_at(lambda _: None, lambda _: next(once, False)))
    publish_bundle(settings.discovery_dir, run_id="2026-01-10T04-02-11")
    wait_until(lambda: faults(client)["attn-discovery"]["faults"] == 1, "the fault was not met")
    publish_bundle(settings.discovery_dir, run_id="2026-01-10T05-02-12")
    wait_until(lambda: sidecar.discovery.served.run_id == "2026-01-10T05-02-12", "the next run was not served")
    assert_survived(client, "attn-discovery")


def test_the_follower_goes_on_after_points_that_it_cannot_take(client, sender, sidecar, settings, monkeypatch):
    publish_bundle(settings.discovery_dir)
    client.post("/discovery/reload")
    plain, once = sidecar.online._take_points, iter([True])
    monkeypatch.setattr(sidecar.online, "_take_points", failing_at(plain, lambda run, parts: next(once, False)))
    for k in range(2):
        sender.send(random_rows(8, seed=k, request_id=f"r{k}"))
        sender.hear_all()
        wait_until(lambda k=k: faults(client)["attn-online"]["faults"] == 1 and (
            k == 0 or sidecar.online.figures().num_points == 8), "the follower did not go on")  # fmt: skip
    assert_survived(client, "attn-online")


def test_the_integrity_check_is_made_again_after_a_fault():
    health = HealthBoard()
    runs = []

    def run():
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError

    thread = ServiceThread("attn-test", part="integrity", run=run, health=health, blocks=False)
    thread.start()
    wait_until(lambda: not thread.is_alive(), "it did not end")
    assert (len(runs), thread.num_errors) == (2, 1)


def test_a_sender_that_cannot_be_judged_is_turned_away_alone(tmp_path):
    """The guard answers for every connection: without it no sender is let in any more."""
    judged = []

    def judge(peer, mechanism, credentials):
        judged.append(peer)
        if len(judged) == 1:
            raise KeyError(peer)

    health = HealthBoard()
    made = []

    def make(context):
        made.append(guard.Guard(context, judge=judge, keys=None, health=health))
        return made[0]

    took = []
    of_test = ingest.Ingest("tcp://127.0.0.1:*", offer=lambda job: took.append(job) or True, health=health, guard=make)
    of_test.start()
    try:
        with contextlib.closing(Sender(of_test.address)) as sender:
            sender.socket.setsockopt(zmq.HANDSHAKE_IVL, 200)
            sender.send(random_rows(2))
            wait_until(lambda: took, "the sender was never let in")
        assert made[0].thread.num_errors == 1
        assert made[0].thread.is_alive()
    finally:
        of_test.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_stuck_or_has_ended_is_shown(monkeypatch):
    health = HealthBoard()
    go, held = threading.Event(), threading.Event()

    def run():
        with thread.turn():
            held.set()
            go.wait()
        raise SystemExit

    thread = ServiceThread("attn-test", part="ingest", run=run, health=health, blocks=True)
    thread.start()
    held.wait()
    assert health.reasons == []
    thread._busy_since_s -= STUCK_S + 1
    assert health.reasons == [f"ingest: attn-test has been busy with one item for {STUCK_S + 1:.0f} s"]
    assert not health.blocked
    go.set()
    wait_until(lambda: not thread.is_alive(), "it did not end")
    assert health.reasons == ["ingest: attn-test has ended: restart the sidecar, its log says why"]
    assert health.blocked
    assert health.unwell_parts == {"ingest"}


def test_what_was_sent_is_not_in_the_log(client, sender, monkeypatch, caplog):
    plain = ingest.decode_batch
    monkeypatch.setattr(ingest, "decode_batch", failing_at(plain, lambda frames: b"bad" in frames[3]))
    send_three(sender)
    lines = "".join(EventFormatter("json").format(record) for record in caplog.records)
    assert "thread.fault" in lines
    assert "secret words" not in lines + client.get("/health").text
