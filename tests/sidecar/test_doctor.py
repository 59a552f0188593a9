"""`attn-sidecar doctor`: each failure provoked, and what it says to do."""

import json
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sidecar_tools import Sender, publish_bundle, random_rows

from attn_core import early_run
from attn_core.early_run import EarlyRun
from attn_core.store import open_writer
from attn_sidecar.doctor import command, places
from attn_sidecar.doctor.command import check_clock, check_packages, check_settings, examine_all, main
from attn_sidecar.doctor.findings import FAILED, OK, WARNING
from attn_sidecar.doctor.model_server import check_model_server
from attn_sidecar.doctor.places import check_bundle, check_database
from attn_sidecar.doctor.ports import Running, check_ports
from attn_sidecar.settings import Settings
from attn_sidecar.store.examination import Examination

NOW_US = time.time_ns() // 1000


def verdicts(findings):
    """By name; every finding that is not well says what to do."""
    assert all(each.to_do for each in findings if each.verdict != OK)
    return {each.name: each.verdict for each in findings}


def one(findings, name):
    (found,) = [each for each in findings if each.name == name]
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def well(tmp_path):
    """Settings of a sidecar that could be started."""
    open_writer(tmp_path / "fingerprints.db").close()
    return Settings(
        port=free_port(),
        zmq_bind=f"tcp://127.0.0.1:{free_port()}",
        db=tmp_path / "fingerprints.db",
        discovery_dir=tmp_path / "runs",
    )


def changed(settings, **changes):
    return Settings(**{**vars(settings), **changes})


def test_all_is_well_before_the_first_run(well):
    found = verdicts(examine_all(well, model_server=None, now_us=NOW_US))
    assert found.pop("bundle.verifies") == WARNING
    assert set(found.values()) == {OK}
    assert {"packages", "settings.doors", "clock.set", "port.http", "port.zmq", "database.whole"} <= set(found)


def test_the_command_says_it_in_lines_and_in_json(well, capsys):
    flags = [
        f"--port={well.port}",
        f"--zmq-bind={well.zmq_bind}",
        f"--db={well.db}",
        f"--discovery-dir={well.discovery_dir}",
    ]
    assert main(flags) == 0
    lines = capsys.readouterr().out
    assert "OK      database.opens" in lines
    assert "0 failed" in lines
    well.db.write_bytes(b"no database at all" * 400)
    assert main([*flags, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    (failure,) = [each for each in said["findings"] if each["verdict"] == FAILED]
    assert failure["name"] == "database.opens"
    assert str(well.db) in failure["found"]


def test_it_is_a_word_of_the_command_and_teaches():
    done = subprocess.run(
        [sys.executable, "-m", "attn_sidecar.cli", "doctor", "--help"], capture_output=True, text=True, check=True
    )
    for said in ("--model-server", "--json", "--db", "examples:", "Exit status"):
        assert said in done.stdout
    assert main(["--zmq-bind", "nowhere"]) == 2


def test_a_port_that_another_program_holds(well, monkeypatch):
    monkeypatch.setattr("attn_sidecar.doctor.ports.HEALTH_WITHIN_S", 0.1)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", well.port))
        holder.listen()
        findings, running = check_ports(well)
        assert running is None
        taken = one(findings, "port.http")
        assert taken.verdict == FAILED
        assert f"process {os.getpid()}" in taken.found
        at_zmq, _ = check_ports(changed(well, port=free_port(), zmq_bind=f"tcp://127.0.0.1:{well.port}"))
    assert one(at_zmq, "port.zmq").verdict == FAILED
    assert f"process {os.getpid()}" in one(at_zmq, "port.zmq").found


def test_an_address_that_is_not_of_this_machine(well):
    findings, _ = check_ports(changed(well, host="192.0.2.1", zmq_bind="tcp://192.0.2.1:9001"))
    assert verdicts(findings) == {"port.http": FAILED, "port.zmq": FAILED}


def test_ingest_that_is_off_is_said(well):
    findings, _ = check_ports(changed(well, zmq_bind=None))
    assert verdicts(findings)["port.zmq"] == WARNING


def test_the_sidecar_that_runs_is_recognised_and_heard(start_process, well):
    sidecar = start_process()
    port = int(sidecar.http.rpartition(":")[2])
    there = changed(well, port=port, zmq_bind=sidecar.zmq, db=sidecar.db)
    findings, running = check_ports(there)
    assert verdicts(findings) == {"port.http": OK, "sidecar.health": OK, "port.zmq": OK}
    assert f"process {sidecar.process.pid}" in running.holder
    other, _ = check_ports(changed(there, zmq_bind=f"tcp://127.0.0.1:{free_port()}"))
    assert verdicts(other)["port.zmq"] == WARNING
    torn = publish_bundle(sidecar.discovery_dir)
    (torn / "classifier.npz").write_bytes(b"torn")
    sidecar.client.post("/discovery/reload")
    ailing, _ = check_ports(there)
    assert one(ailing, "sidecar.health").found.startswith("discovery: ")
    assert verdicts(check_database(sidecar.db)[0]) == {
        "database.room": OK, "database.opens": OK, "database.whole": OK, "database.writable": OK,
        "database.journal": OK,
    }  # fmt: skip


def test_a_damaged_page(well):
    with closing(sqlite3.connect(well.db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute("PRAGMA page_size").fetchone()[0]
    with well.db.open("r+b") as file:
        file.seek(2 * page)
        file.write(os.urandom(3 * page))
    findings, _ = check_database(well.db)
    assert one(findings, "database.whole").verdict == FAILED
    assert ".recover" in one(findings, "database.whole").to_do


def test_a_lock_that_is_not_given_back(well, monkeypatch):
    monkeypatch.setattr(places, "_LOCK_WAIT_MS", 20)
    with closing(sqlite3.connect(well.db, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        findings, _ = check_database(well.db)
    assert one(findings, "database.writable").verdict == FAILED
    assert "locked" in one(findings, "database.writable").found


def test_a_database_of_a_newer_version(well):
    with closing(sqlite3.connect(well.db)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "99" in one(check_database(well.db)[0], "database.opens").found
    assert verdicts(check_database(well.db)[0])["database.opens"] == FAILED


def test_a_database_that_may_not_be_written(well, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert verdicts(check_database(well.db)[0])["database.writable"] == FAILED
    assert verdicts(check_database(well.db.with_name("new.db"))[0])["database.opens"] == FAILED


def test_a_folder_that_is_not_there(tmp_path):
    findings = verdicts(check_database(tmp_path / "no" / "where.db")[0])
    assert findings == {"database.room": FAILED, "database.opens": FAILED}


@pytest.mark.parametrize(("free", "verdict"), [(10**12, OK), (10**9, WARNING), (10**6, FAILED)])
def test_a_disk_that_is_nearly_full(well, monkeypatch, free, verdict):
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert verdicts(check_database(well.db)[0])["database.room"] == verdict


def test_a_check_that_takes_too_long_is_given_up(well, monkeypatch):
    monkeypatch.setattr(places, "CHECK_WITHIN_S", -1.0)
    monkeypatch.setattr("attn_sidecar.store.examination._STEPS_BETWEEN_LOOKS", 1)
    assert verdicts(check_database(well.db)[0])["database.whole"] == WARNING


def test_runs_that_are_torn_old_or_of_another_model(well):
    torn = publish_bundle(well.discovery_dir)
    assert verdicts(check_bundle(well, now_us=NOW_US, model="m")) == {"bundle.verifies": OK, "bundle.recent": OK}
    (torn / "embeddings.parquet").write_bytes(b"torn")
    assert verdicts(check_bundle(well, now_us=NOW_US, model=None)) == {"bundle.verifies": FAILED}
    manifest = {"window_end_us": NOW_US - 3 * 3_600_000_000, "models": ["some-model"]}
    publish_bundle(well.discovery_dir, run_id="2026-01-10T05-00-00", manifest=manifest)
    found = check_bundle(well, now_us=NOW_US, model="other-model")
    assert verdicts(found) == {"bundle.verifies": OK, "bundle.recent": WARNING, "bundle.model": WARNING}
    assert "3.0 h" in one(found, "bundle.recent").found
    assert "some-model" in one(found, "bundle.model").found
    assert "bundle.model" not in verdicts(check_bundle(well, now_us=NOW_US, model="some-model"))


def test_what_online_needs(well, monkeypatch):
    run_id = publish_bundle(well.discovery_dir).name
    online = changed(well, online=True)
    assert verdicts(check_bundle(online, now_us=NOW_US, model=None))["online.baseline"] == WARNING
    early_run.ask(well.discovery_dir, EarlyRun(run_id=run_id, reason="drift", evidence="moved by 0.9", asked_at_us=1))
    assert "moved by 0.9" in one(check_bundle(online, now_us=NOW_US, model=None), "online.early_run").found
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert verdicts(check_bundle(online, now_us=NOW_US, model=None))["online.can_ask"] == WARNING


def test_a_clock_that_is_not_set_or_was_set_back():
    def at(newest_us):
        return Examination(newest_id=1, newest_stored_at_us=newest_us, faults=None, finished=True)

    assert verdicts(check_clock(now_us=1, seen=None)) == {"clock.set": FAILED}
    assert verdicts(check_clock(now_us=NOW_US, seen=at(NOW_US + 3_600_000_000))) == {"clock.set": WARNING}
    assert verdicts(check_clock(now_us=NOW_US, seen=at(NOW_US - 1))) == {"clock.set": OK}


def test_dangerous_settings(well):
    assert verdicts(check_settings(well)) == {"settings.doors": OK}
    assert verdicts(check_settings(changed(well, host="192.0.2.7"))) == {"settings.doors": FAILED}
    assert verdicts(check_settings(changed(well, host="192.0.2.7", insecure=True))) == {"settings.doors": WARNING}
    assert verdicts(check_settings(changed(well, host="192.0.2.7", token=secrets.token_urlsafe(32)))) == {
        "settings.doors": OK
    }


def test_packages_that_are_missing_or_old(monkeypatch):
    assert verdicts(check_packages()) == {"packages": OK}
    monkeypatch.setattr(command, "PACKAGES", {"no-such-package": 0, "pyzmq": 999})
    (found,) = check_packages()
    assert found.verdict == FAILED
    assert "no-such-package is missing" in found.found
    assert "needed is 999" in found.found


@contextmanager
def model_server(*, tokens=True, at=None, publish=None):
    """Answers as SGLang does, as far as the doctor asks."""

    class Handler(BaseHTTPRequestHandler):
        def _say(self, body):
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self._say({"data": [{"id": "demo-model"}]})

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if publish is not None:
                publish(asked["rid"])
            self._say({"text": "x", "meta_info": {"attention_tokens": [{"step": 0}]} if tokens else {}})

        def date_time_string(self, timestamp=None):
            return super().date_time_string(at if at is not None else timestamp)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def running_at(url):
    return Running(url=url, version="0", status="200", reasons=[], holder=None)


def test_a_model_server_that_publishes_here(start_process):
    sidecar = start_process()
    with closing(Sender(sidecar.zmq)) as sender:

        def publish(request_id):
            sender.send(random_rows(1, request_id=request_id))
            sender.hear_all()

        with model_server(publish=publish) as url:
            findings, model = check_model_server(url, running=running_at(sidecar.http), token=None)
    assert model == "demo-model"
    assert verdicts(findings) == dict.fromkeys(
        ("model_server.answers", "clock.agrees", "model_server.plugin", "model_server.publishes"), OK
    )


def test_a_model_server_that_publishes_elsewhere_or_nowhere(start_process):
    sidecar = start_process()
    with model_server() as url:
        findings, _ = check_model_server(url, running=running_at(sidecar.http), token=None, published_within_s=0.0)
        assert one(findings, "model_server.publishes").verdict == FAILED
        assert "--attention-tokens-publish" in one(findings, "model_server.publishes").to_do
        unknown, _ = check_model_server(url, running=None, token=None)
    assert one(unknown, "model_server.publishes").verdict == WARNING


def test_a_model_server_without_the_plugin_or_with_another_clock():
    with model_server(tokens=False, at=time.time() - 100) as url:
        findings, _ = check_model_server(url, running=None, token=None)
    assert verdicts(findings) == {
        "model_server.answers": OK, "clock.agrees": WARNING, "model_server.plugin": FAILED,
    }  # fmt: skip
    assert "behind" in one(findings, "clock.agrees").found


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://x", "nonsense", "http://127.0.0.1:99999"])
def test_a_model_server_that_is_not_there(url):
    findings, model = check_model_server(url, running=None, token=None)
    assert model is None
    assert verdicts(findings) == {"model_server.answers": FAILED}
