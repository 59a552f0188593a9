"""The command as an operator runs it: ports, signals, and `kill -9` in the middle of a stream."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import pytest
from sidecar_tools import INFO, Sender, random_rows
from threadpoolctl import threadpool_info, threadpool_limits
from websockets.sync.client import connect

from attn_core.errors import StoreError
from attn_sidecar.app import Sidecar
from attn_sidecar.cli import main

COMMAND = [sys.executable, "-m", "attn_sidecar.cli"]


def run(*flags, env=None):
    """Run to the end; for commands that are to fail or to print."""
    done = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=60, env=env)
    return done.returncode, done.stdout, done.stderr


def rows_of(path, sql="SELECT request_id, step FROM fingerprints ORDER BY 1, 2"):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def test_help_teaches():
    status, text, _ = run("--help")
    assert status == 0
    for flag in ("--port", "--host", "--db", "--discovery-dir", "--online", "--zmq-bind", "--log-format"):
        assert flag in text
    for said in ("9000", "127.0.0.1:9001", "fingerprints.db", "./discovery_outputs", "examples:", "ATTN_SIDECAR_"):
        assert said in text


@pytest.mark.parametrize("kill_after", [1, 7, 40])
def test_kill_9_in_the_middle_of_a_stream_loses_nothing(start_process, kill_after):
    """The sender re-sends what was not acknowledged to the next process: each (request, step) exactly once."""
    first = start_process()
    sender = Sender(first.zmq)
    num_batches, rows_a_batch = 120, 16
    batches = [random_rows(rows_a_batch, seed=k, first_step=k * rows_a_batch) for k in range(num_batches)]
    for rows in batches[: num_batches // 2]:
        sender.send(rows)
    for _ in range(kill_after):
        sender.hear()
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert sender.unacknowledged, "killed too late to prove anything"
    second = start_process(zmq_bind=first.zmq)
    sender.send_again()
    for rows in batches[num_batches // 2 :]:
        sender.send(rows)
    sender.hear_all()
    sender.close()
    assert not sender.refused
    assert rows_of(second.db) == [("r", step) for step in range(num_batches * rows_a_batch)]
    assert second.client.get("/stats").json()["fingerprints"] == num_batches * rows_a_batch


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(start_process, number):
    """With a listening client and a stream under way; the write-ahead log is folded in, the status is 0."""
    sidecar = start_process()
    sender = Sender(sidecar.zmq)
    with connect(f"ws{sidecar.http[4:]}/events", close_timeout=0) as events:
        events.recv()
        for k in range(300):
            sender.send(random_rows(8, seed=k, first_step=8 * k))
        sender.hear()
        began_s = time.monotonic()
        assert sidecar.stop(number) == 0
        assert time.monotonic() - began_s < 5
    while sender.hear(wait_s=0) is not None:
        pass
    acknowledged = 300 - len(sender.unacknowledged)
    sender.close()
    assert len(rows_of(sidecar.db)) == 8 * acknowledged
    assert not sidecar.db.with_name("fingerprints.db-wal").exists()
    assert sidecar.log[-2]["event"] == "sidecar.stopped"


def test_a_taken_http_port_is_named(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        status, _, said = run("--port", str(port), "--zmq-bind", "off", "--db", str(tmp_path / "f.db"))
    assert status == 1
    assert f"HTTP port {port}" in said
    assert "--port" in said
    assert "Traceback" not in said
    assert not (tmp_path / "f.db").exists()


def test_a_taken_zmq_port_is_named(start_process, tmp_path):
    taken = start_process().zmq
    status, _, said = run("--port", "0", "--zmq-bind", taken, "--db", str(tmp_path / "f.db"))
    assert status == 1
    assert taken in said
    assert "--zmq-bind" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--zmq-bind", "9001"], "tcp://HOST:PORT"),
        (["--zmq-bind", "tcp://127.0.0.1:99999"], "tcp://HOST:PORT"),
        (["--port", "70000"], "between 0 and 65535"),
        (["--port", "many"], "--port"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_use_is_explained(flags, said):
    status, _, error = run(*flags)
    assert status == 2
    assert said in error


def test_a_database_that_cannot_be_used_is_explained(tmp_path):
    path = tmp_path / "not.db"
    path.write_text("these are not the bytes of a database" * 100)
    status, _, error = run("--port", "0", "--zmq-bind", "off", "--db", str(path))
    assert status == 1
    assert str(path) in error
    assert "Traceback" not in error


def test_the_guides_wider_bind_works_and_says_once_whom_it_takes(start_process):
    sidecar = start_process(zmq_bind="tcp://*:*")
    warnings = [line for line in sidecar.log if line["level"] == "warning"]
    assert [line["event"] for line in warnings] == ["ingest.this_machine_only"]
    assert warnings[0]["bound"] == "tcp://*:*"
    port = sidecar.zmq.rpartition(":")[2]
    with contextlib.closing(Sender(f"tcp://127.0.0.1:{port}")) as sender:
        sender.send(random_rows(2))
        sender.hear_all()


def test_loopback_is_the_default_and_warns_of_nothing(start_process):
    sidecar = start_process()
    assert sidecar.http.startswith("http://127.0.0.1:")
    assert [line["event"] for line in sidecar.log] == ["sidecar.ready"]


def test_the_environment_sets_what_flags_leave_open(start_process, tmp_path):
    env = {**os.environ, "ATTN_SIDECAR_ONLINE": "1", "ATTN_SIDECAR_PORT": "1", "ATTN_SIDECAR_DB": "elsewhere.db"}
    sidecar = start_process(env=env)
    assert sidecar.client.get("/stats").json()["online"] is not None
    assert sidecar.db.exists()


def test_logs_hold_no_text_of_the_prompt(start_process):
    """A whole stream, refused batches included, and not a word of it in the log."""
    sidecar = start_process()
    with contextlib.closing(Sender(sidecar.zmq)) as sender:
        sender.send(random_rows(4, request_id="secret-request"))
        broken = [*sender.unacknowledged[0][:3], sender.unacknowledged[0][3][:-40]]
        sender.hear_all()
        sender.socket.send_multipart(broken)
        sender.hear()
    assert sidecar.logged("ingest.refused")["reason"] == "arrow"
    sidecar.stop()
    assert "secret" not in str(sidecar.log)
    assert " t1" not in str(sidecar.log)
    assert INFO.model_id not in str(sidecar.log)


def test_linear_algebra_keeps_to_one_thread(tmp_path, monkeypatch):
    """Two threads a product spin beside a busy model server: ingest with clusters took a quarter of its rate."""
    pools = []

    def look(_):
        pools.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        raise StoreError("seen enough")

    monkeypatch.setattr(Sidecar, "open", look)
    with threadpool_limits(limits=2, user_api="blas"):
        assert main(["--port", "0", "--db", str(tmp_path / "a.db"), "--zmq-bind", "off"]) == 1
    assert pools
    assert set(pools) == {1}
