"""Retention: what is too old or too much goes, in small portions, and everybody who counts or follows copes."""

import contextlib
import sqlite3

import pytest
from sidecar_tools import INFO, START_US, Sender, random_rows, request_row
from starlette.testclient import TestClient
from test_states import wait_until

from attn_core.errors import SettingsError
from attn_core.store import (
    insert_fingerprints,
    insert_head_figures,
    max_id,
    open_writer,
    read_head_figures,
    upsert_requests,
)
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.settings import Settings
from attn_sidecar.store.reader import Reader
from attn_sidecar.store.retention import HOUR_US, LEAST_ROWS_A_STEP, Retention, used_bytes
from attn_sidecar.store.tally import Tally


@pytest.fixture
def writer(tmp_path):
    with contextlib.closing(open_writer(tmp_path / "fingerprints.db")) as connection:
        yield connection


def store(connection, name, count, *, hour, with_request=True):
    """`count` tokens of the request `name`, stored in this hour after START_US."""
    rows = random_rows(count, request_id=name)
    at_us = START_US + int(hour * HOUR_US)
    insert_fingerprints(connection, rows, model_id="m", stored_at_us=at_us)
    insert_head_figures(connection, rows, model_id="m", layers=(0,), num_heads=1)
    if with_request:
        upsert_requests(connection, request_row("started", request_id=name), model_id="m")


def names(connection):
    return [name for (name,) in connection.execute("SELECT DISTINCT request_id FROM fingerprints ORDER BY id")]


def steps_until_done(retention, connection):
    done = 0
    while retention.step(connection):
        done += 1
    return done


def at(hour):
    return lambda: START_US + int(hour * HOUR_US)


def test_what_is_older_goes_with_its_request_and_its_number(writer):
    for hour in range(5):
        store(writer, f"r{hour}", 10, hour=hour)
    retention = Retention(hours=2, max_db_bytes=None, now_us=at(4.5))
    steps_until_done(retention, writer)
    assert names(writer) == ["r3", "r4"]
    assert read_head_figures(writer, model_id="m", limit=10)["request_id"].to_pylist() == ["r3", "r4"]
    assert writer.execute("SELECT count(*) FROM head_figures").fetchone() == (2,)
    assert [r for (r,) in writer.execute("SELECT request_id FROM request_numbers ORDER BY 1")] == ["r3", "r4"]
    assert [r for (r,) in writer.execute("SELECT request_id FROM requests ORDER BY 1")] == ["r3", "r4"]
    assert (retention.counters.num_fingerprints, retention.counters.num_requests) == (30, 3)


def test_a_request_stays_while_one_of_its_tokens_does(writer):
    store(writer, "long", 10, hour=0)
    insert_fingerprints(
        writer, random_rows(5, request_id="long", first_step=10), model_id="m", stored_at_us=START_US + 3 * HOUR_US
    )
    retention = Retention(hours=1, max_db_bytes=None, now_us=at(3.5))
    steps_until_done(retention, writer)
    assert writer.execute("SELECT min(step), count(*) FROM fingerprints").fetchone() == (10, 5)
    assert writer.execute("SELECT count(*) FROM head_figures").fetchone() == (0,)
    assert writer.execute("SELECT count(*) FROM requests").fetchone() == (1,)
    assert retention.counters.num_requests == 0


def test_a_request_without_tokens_goes_when_it_is_old(writer):
    upsert_requests(writer, request_row("started", request_id="silent"), model_id="m")
    upsert_requests(writer, request_row("ended", request_id="silent"), model_id="m")
    assert steps_until_done(Retention(hours=5, max_db_bytes=None, now_us=at(4)), writer) == 0
    steps_until_done(Retention(hours=5, max_db_bytes=None, now_us=at(6)), writer)
    assert writer.execute("SELECT count(*) FROM requests").fetchone() == (0,)


def test_the_newest_token_stays_so_that_ids_go_on(writer):
    store(writer, "r", 50, hour=0)
    newest = max_id(writer)
    steps_until_done(Retention(hours=1, max_db_bytes=None, now_us=at(100)), writer)
    assert writer.execute("SELECT id FROM tokens").fetchall() == [(newest,)]
    store(writer, "next", 1, hour=100)
    assert max_id(writer) == newest + 1


def test_portions_are_small_and_grow_with_what_arrives(writer):
    store(writer, "r", 3 * LEAST_ROWS_A_STEP, hour=0, with_request=False)
    store(writer, "young", 1, hour=100)
    retention = Retention(hours=1, max_db_bytes=None, now_us=at(100))
    assert retention.step(writer)
    assert retention.counters.num_fingerprints == LEAST_ROWS_A_STEP
    assert retention.step(writer, rows_arrived=LEAST_ROWS_A_STEP)
    assert retention.counters.num_fingerprints == 3 * LEAST_ROWS_A_STEP
    assert names(writer) == ["young"]


def test_a_bound_in_bytes_keeps_the_newest_and_the_file_from_growing(writer):
    limit = 4 << 20
    retention = Retention(hours=None, max_db_bytes=limit, now_us=at(0))
    for k in range(40):
        store(writer, f"r{k}", 1500, hour=0, with_request=False)
        retention.step(writer, rows_arrived=1500)
    assert used_bytes(writer) <= limit
    pages, size = (writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    assert pages * size <= limit
    held = names(writer)
    assert held == [f"r{k}" for k in range(40 - len(held), 40)]
    assert 2 <= len(held) < 40
    assert writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_step_reads_what_it_deletes_and_not_the_whole_store(writer):
    """Every statement finds its tokens by key: one that reads an index whole takes longer the more is stored."""
    for hour in range(3):
        store(writer, f"r{hour}", 10, hour=hour)
    statements = []
    writer.set_trace_callback(statements.append)
    steps_until_done(Retention(hours=1, max_db_bytes=None, now_us=at(2.5)), writer)
    writer.set_trace_callback(None)
    asked = [sql for sql in statements if sql.startswith(("SELECT", "DELETE"))]
    plans = {sql: [row[3] for row in writer.execute(f"EXPLAIN QUERY PLAN {sql}")] for sql in asked}
    assert any("request_no" in sql for sql in plans)
    assert [sql for sql, plan in plans.items() for line in plan if line.startswith("SCAN tokens")] == []


def test_clocks_of_senders_decide_nothing(writer):
    """Tokens captured in 1970, as a sender without a clock says, are as old as their arrival."""
    insert_fingerprints(
        writer, random_rows(5, request_id="r", start_us=0), model_id="m", stored_at_us=START_US + HOUR_US
    )
    store(writer, "newest", 1, hour=1)
    assert steps_until_done(Retention(hours=2, max_db_bytes=None, now_us=at(2)), writer) == 0
    assert names(writer) == ["r", "newest"]


def test_a_failed_step_deletes_nothing(writer):
    store(writer, "old", 20, hour=0)
    store(writer, "young", 1, hour=9)
    writer.execute("CREATE TRIGGER t BEFORE DELETE ON request_numbers BEGIN SELECT raise(ABORT, 'no'); END")
    retention = Retention(hours=1, max_db_bytes=None, now_us=at(9))
    with pytest.raises(sqlite3.Error):
        retention.step(writer)
    assert writer.execute("SELECT count(*) FROM tokens").fetchone() == (21,)
    assert not writer.in_transaction
    assert retention.counters.num_fingerprints == 0


def test_counts_follow_what_is_taken_away(tmp_path, writer, monkeypatch):
    monkeypatch.setattr("attn_sidecar.store.tally._IDS_A_STRETCH", 16)
    reader, tally = Reader(tmp_path / "fingerprints.db"), Tally()
    for k in range(12):
        store(writer, f"r{k}", 7, hour=k)
        Retention(hours=4, max_db_bytes=None, now_us=at(k)).step(writer)
        assert tally.counts(reader).num_fingerprints == writer.execute("SELECT count(*) FROM tokens").fetchone()[0]
    reader.close()


def test_the_sidecar_removes_says_so_and_goes_on(tmp_path):
    """By the clock of the sidecar, while senders send; what is left is served and followed."""
    hour = [0.0]
    settings = Settings(
        db=tmp_path / "fingerprints.db",
        discovery_dir=tmp_path / "runs",
        zmq_bind="tcp://127.0.0.1:*",
        retention_hours=1.0,
    )
    sidecar = Sidecar(settings, now_us=lambda: START_US + int(hour[0] * HOUR_US))
    with TestClient(create_app(sidecar)) as client, contextlib.closing(Sender(sidecar.ingest.address)) as sender:
        sender.send(request_row("started", request_id="old"), kind="requests", info=INFO)
        sender.send(random_rows(40, request_id="old"))
        sender.hear_all()
        assert client.get("/stats").json()["fingerprints"] == 40
        hour[0] = 2.0
        sender.send(random_rows(30, request_id="new"))
        sender.hear_all()
        wait_until(lambda: client.get("/stats").json()["store"]["removed_fingerprints"] == 40, "nothing was removed")
        stats = client.get("/stats").json()
        assert (stats["fingerprints"], stats["store"]["removed_requests"]) == (30, 1)
        assert client.get("/requests/old").status_code == 404
        assert client.get("/health").json()["reasons"] == []
        sender.send(random_rows(5, request_id="newer"))
        sender.hear_all()
        assert client.get("/stats").json()["fingerprints"] == 35


@pytest.mark.parametrize("bad", [{"retention_hours": 0.0}, {"retention_hours": float("nan")}, {"max_db_bytes": 1000}])
def test_bounds_that_are_none_are_refused(bad):
    with pytest.raises(SettingsError, match=r"--(retention-hours|max-db-bytes)"):
        Settings(**bad)
