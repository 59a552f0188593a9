"""Clocks set back or wrong, the sidecar's and the senders': what orders, counts and is followed stays whole."""

import contextlib
import sqlite3

import pytest
from sidecar_tools import START_US, Sender, guide_vector, random_rows, request_row, with_column
from starlette.testclient import TestClient
from test_states import wait_until

from attn_core.store import HOUR_US, hours_with_rows_after, open_reader
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.settings import Settings


@pytest.fixture
def clock():
    return [START_US]


@pytest.fixture
def settings(tmp_path):
    return Settings(
        db=tmp_path / "fingerprints.db",
        discovery_dir=tmp_path / "runs",
        zmq_bind="tcp://127.0.0.1:*",
        retention_hours=10.0,
    )


@pytest.fixture
def sidecar(settings, clock):
    return Sidecar(settings, now_us=lambda: clock[0])


@pytest.fixture
def client(sidecar):
    with TestClient(create_app(sidecar)) as client:
        yield client


@pytest.fixture
def sender(client, sidecar):
    with contextlib.closing(Sender(sidecar.ingest.address)) as sender:
        yield sender


def send(sender, name, count=5, *, captured_us=START_US):
    sender.send(random_rows(count, request_id=name, start_us=captured_us))
    sender.hear_all()
    assert not sender.refused


def rows(settings, sql):
    with contextlib.closing(sqlite3.connect(settings.db)) as connection:
        return connection.execute(sql).fetchall()


def test_the_sidecars_clock_set_back_leaves_order_and_cursors(client, sender, settings, clock):
    """Ids go on in the order of arrival, listeners miss nothing, and nothing is deleted for it."""
    send(sender, "before")
    clock[0] -= 6 * HOUR_US
    with client.websocket_connect("/events?after=0") as events:
        events.receive_json()
        assert len(events.receive_json()["tokens"]) == 5
        send(sender, "after")
        assert {token["request_id"] for token in events.receive_json()["tokens"]} == {"after"}
    found = rows(settings, "SELECT request_id, min(id), max(id), min(stored_at_us) FROM fingerprints GROUP BY 1")
    assert found == [("after", 6, 10, START_US - 6 * HOUR_US), ("before", 1, 5, START_US)]
    ((first_us, last_us),) = rows(settings, "SELECT first_seen_us, last_seen_us FROM ingest_sources")
    assert first_us <= last_us == START_US
    stats = client.get("/stats").json()
    assert (stats["fingerprints"], stats["store"]["removed_fingerprints"]) == (10, 0)
    assert stats["ingest"]["refused_rows"] == {}
    # Which of the two clocks is wrong cannot be told from here: it is reported, and every row is stored.
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    [reason] = health.json()["reasons"]
    assert "runs 21600 s ahead of this machine's" in reason
    assert {at for (at,) in rows(settings, "SELECT captured_at_us FROM fingerprints WHERE id > 5")} == {
        START_US - 6 * HOUR_US
    }


def test_a_sender_two_hours_fast_is_stored_with_this_machines_time(client, sender, settings, clock, sidecar):
    """From 50 such rows on the sensor of new rows raised at every tick; below, its watermark never moved."""
    send(sender, "fast", 60, captured_us=START_US + 2 * HOUR_US)
    assert rows(settings, "SELECT DISTINCT captured_at_us FROM fingerprints") == [(START_US,)]
    with contextlib.closing(open_reader(settings.db)) as connection:
        assert [hour for hour, *_ in hours_with_rows_after(connection, after_id=0)] == [START_US // HOUR_US * HOUR_US]
    [clock_stats] = client.get("/stats").json()["ingest"]["clocks"]
    assert (clock_stats["source"], clock_stats["redated_rows"]) == (sender.source_id.hex(), 60)
    assert clock_stats["ahead_s"] == pytest.approx(7200, abs=1)
    assert "set (NTP)" in client.get("/health").json()["reasons"][0]
    # Its rows once more, as after a reconnect at another time: no second answer, no second row.
    clock[0] += 90_000_000
    sidecar.ingest._committed.clear()
    sender.next_seq = 0
    send(sender, "fast", 60, captured_us=START_US + 2 * HOUR_US)
    assert rows(settings, "SELECT count(*) FROM fingerprints") == [(60,)]
    assert rows(settings, "SELECT count(*) FROM reused_ids") == [(0,)]
    # Once its clock is set, nothing ails.
    send(sender, "set", 2, captured_us=clock[0])
    assert client.get("/health").json()["reasons"] == []


def test_a_clock_within_a_minute_is_believed(client, sender, settings):
    send(sender, "near", 1, captured_us=START_US + 59_000_000)
    assert rows(settings, "SELECT captured_at_us FROM fingerprints") == [(START_US + 59_000_000,)]
    assert client.get("/health").json()["reasons"] == []


@pytest.mark.parametrize("event", ["started", "ended"])
def test_a_request_event_of_tomorrow_carries_this_machines_time(client, sender, settings, event):
    sender.send(with_column(request_row(event), "at_us", [START_US + 24 * HOUR_US]), kind="requests")
    sender.hear_all()
    assert rows(settings, f"SELECT {event}_at_us FROM requests") == [(START_US,)]  # noqa: S608


@pytest.mark.parametrize(
    ("at_us", "reason"),
    [
        (START_US + 61_000_000, "lies 61 s in the future"),
        (START_US + 24 * HOUR_US, "lies 86400 s in the future"),
        (0, "before 2020"),
    ],
)
def test_a_posted_fingerprint_of_another_time_is_refused(client, at_us, reason):
    """Who posts hears at once, and can leave the instant out; a sender on the wire could not."""
    body = {"request_id": "r", "step": 0, "vector": guide_vector(), "captured_at_us": at_us}
    answer = client.post("/fingerprint", json=body)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
    del body["captured_at_us"]
    assert client.post("/fingerprint", json=body).status_code == 201


def test_retention_waits_for_a_clock_set_back_and_then_goes_on(client, sender, settings, clock):
    """What was stored while the clock was ahead stays as long as it says; the rest behind it waits, and then goes."""
    clock[0] += 3 * HOUR_US
    send(sender, "ahead")
    clock[0] = START_US
    send(sender, "right")
    clock[0] = START_US + 11 * HOUR_US
    send(sender, "late")
    assert client.get("/stats").json()["store"]["removed_fingerprints"] == 0
    clock[0] = START_US + 14 * HOUR_US
    wait_until(lambda: client.get("/stats").json()["store"]["removed_fingerprints"] == 10, "nothing was removed")
    assert rows(settings, "SELECT DISTINCT request_id FROM fingerprints") == [("late",)]


def test_a_senders_clock_set_back_only_moves_its_own_hours(client, sender, settings):
    """Tokens captured "yesterday" come after those of today: discovery is told of that hour, cursors go on."""
    send(sender, "today", 4)
    send(sender, "yesterday", 3, captured_us=START_US - 24 * HOUR_US)
    send(sender, "1970", 2, captured_us=0)
    assert rows(settings, "SELECT request_id FROM fingerprints GROUP BY 1 ORDER BY min(id)") == [
        ("today",),
        ("yesterday",),
        ("1970",),
    ]
    with contextlib.closing(open_reader(settings.db)) as connection:
        hour = START_US // HOUR_US * HOUR_US
        # A clock that was never set says nothing: those rows carry this machine's time.
        assert hours_with_rows_after(connection, after_id=4) == [(hour - 24 * HOUR_US, 3, 7), (hour, 2, 9)]
    assert client.get("/stats").json()["fingerprints"] == 9


def test_one_request_whose_clock_goes_back_keeps_its_steps_in_order(client, sender):
    send(sender, "r", 3)
    sender.send(random_rows(3, request_id="r", first_step=3, start_us=START_US - HOUR_US))
    sender.hear_all()
    steps = [token["step"] for token in client.get("/requests/r").json()["tokens"]]
    assert steps == list(range(6))
