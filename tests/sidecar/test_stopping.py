"""The end: under full load, with clients that hold on, with a second signal. What was acknowledged is stored."""

import contextlib
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from sidecar_tools import WAIT_S, Sender, random_rows
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

WITHIN_S = 5.0
ROWS_A_BATCH = 64


class Flood:
    """A sender on its own thread that never stops and reads every answer."""

    def __init__(self, address):
        self._address = address
        self._over = threading.Event()
        self._many = threading.Event()
        self.acknowledged = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        with contextlib.closing(Sender(self._address)) as sender:
            batches = [random_rows(ROWS_A_BATCH, seed=k) for k in range(4)]
            while not self._over.is_set():
                for rows in batches:
                    # The same step twice would be one row: each batch is a request of its own.
                    name = f"r{sender.next_seq}"
                    sender.send(rows.set_column(0, rows.schema.field(0), _names(name)))
                while len(sender.unacknowledged) > 200 and not self._over.is_set():
                    self._hear(sender, wait_s=0.1)
                self._hear(sender, wait_s=0)
                if self.acknowledged > 100:
                    self._many.set()
            while self._hear(sender, wait_s=0.2):
                pass

    def _hear(self, sender, *, wait_s):
        heard = sender.hear(wait_s=wait_s)
        while heard is not None:
            assert heard[1] is None, heard
            self.acknowledged += 1
            heard = sender.hear(wait_s=0)
        return heard

    def wait(self):
        assert self._many.wait(WAIT_S)

    def end(self):
        self._over.set()
        self._thread.join()


def _names(name):
    return pa.array([name] * ROWS_A_BATCH)


def half_sent(address):
    """A connection that has said half of its body."""
    where = urlsplit(address)
    client = socket.create_connection((where.hostname, where.port), timeout=WAIT_S)
    head = f"POST /fingerprint HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    client.sendall(f'{head}Content-Length: 400\r\n\r\n{{"request_id": '.encode())
    return client


def read_on(listener):
    while True:
        listener.recv(timeout=WAIT_S)


def rows_in(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM fingerprints").fetchone()[0]


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT]])
def test_it_drains_commits_and_ends_in_time_whatever_holds_on(start_process, signals):
    sidecar = start_process()
    flood = Flood(sidecar.zmq)
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(connect(f"ws{sidecar.http[4:]}/events", close_timeout=0)) for _ in range(5)]
        for listener in listeners:
            listener.recv()
        for _ in range(5):
            held.enter_context(half_sent(sidecar.http))
        flood.wait()
        began_s = time.monotonic()
        for number in signals:
            sidecar.process.send_signal(number)
        status = sidecar.process.wait(WAIT_S)
        took_s = time.monotonic() - began_s
        flood.end()
        for listener in listeners:
            with pytest.raises(ConnectionClosed):
                read_on(listener)
    assert status == 0
    assert took_s < WITHIN_S
    held_rows = rows_in(sidecar.db)
    assert held_rows % ROWS_A_BATCH == 0, "a batch is stored whole or not at all"
    assert held_rows >= flood.acknowledged * ROWS_A_BATCH > 0
    assert not sidecar.db.with_name("fingerprints.db-wal").exists()
    sidecar.stop()
    assert sidecar.log[-2]["event"] == "sidecar.stopped"
    assert not [line for line in sidecar.log if "traceback" in line], sidecar.log
    assert all(re.fullmatch(r"[a-z_]+\.[a-z_]+", line["event"]) for line in sidecar.log), sidecar.log


def test_a_second_ctrl_c_gives_up_draining_and_says_so(start_process):
    """Status 1: what was not acknowledged stays with the senders, what was is there."""
    sidecar = start_process()
    flood = Flood(sidecar.zmq)
    with half_sent(sidecar.http):
        flood.wait()
        # Held at the half-sent body, it waits for its grace: the second signal comes before that is over.
        sidecar.process.send_signal(signal.SIGINT)
        sidecar.logged("sidecar.stopping")
        sidecar.process.send_signal(signal.SIGINT)
        status = sidecar.process.wait(WAIT_S)
    flood.end()
    assert status == 1
    assert rows_in(sidecar.db) >= flood.acknowledged * ROWS_A_BATCH > 0
    sidecar.stop()
    assert sidecar.log[-2]["event"] == "sidecar.gave_up_draining"


STOPPED_WHILE_OPENING = """
import signal, sys
from attn_sidecar import cli
opened = cli._opened
def opened_and_told_to_stop(settings):
    parts = opened(settings)
    signal.raise_signal(signal.SIGTERM)
    return parts
cli._opened = opened_and_told_to_stop
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_signal_between_opening_and_serving_ends_it_too(tmp_path):
    """A service manager that changes its mind at once: the ZMQ socket was open, and nobody closed it."""
    words = ["--port", "0", "--zmq-bind", f"ipc://{tmp_path}/zmq", "--db", str(tmp_path / "fingerprints.db")]
    words += ["--discovery-dir", str(tmp_path / "runs")]
    ended = subprocess.run(
        [sys.executable, "-c", STOPPED_WHILE_OPENING, *words], timeout=WAIT_S, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    events = [line for line in ended.stderr.splitlines() if "sidecar." in line]
    assert "sidecar.stopping" in events[-2], "its parts are closed, not left to the interpreter's end"
    assert "sidecar.stopped" in events[-1]


STUCK = """
import signal, sys, threading
from attn_sidecar import cli
cli._STUCK_S = 0.5
cli.Sidecar.stop = lambda sidecar: threading.Event().wait()
opened = cli._opened
def opened_and_told_to_stop(settings):
    parts = opened(settings)
    signal.raise_signal(signal.SIGTERM)
    return parts
cli._opened = opened_and_told_to_stop
sys.exit(cli.main())
"""


def test_a_stop_that_hangs_is_cut_off_and_tells_where(tmp_path):
    words = ["--port", "0", "--zmq-bind", "off", "--db", str(tmp_path / "fingerprints.db")]
    words += ["--discovery-dir", str(tmp_path / "runs")]
    ended = subprocess.run([sys.executable, "-c", STUCK, *words], timeout=WAIT_S, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "in <lambda>" in ended.stderr


def test_the_log_tells_the_end(start_process):
    sidecar = start_process()
    assert sidecar.stop(signal.SIGTERM) == 0
    assert [line["event"] for line in sidecar.log][-3:] == ["sidecar.stopping", "sidecar.stopped", "process.ended"]
