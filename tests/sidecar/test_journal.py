"""Where the database lies and how large its log may stay: said at start, in health and by the doctor."""

import sqlite3
from contextlib import closing

import pytest
from sidecar_tools import Sender, random_rows
from starlette.testclient import TestClient
from test_states import wait_until

from attn_core import store
from attn_core.errors import StoreError
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.doctor.findings import WARNING
from attn_sidecar.doctor.places import check_database
from attn_sidecar.store import journal
from attn_sidecar.store.journal import filesystem_of, why_unsuited

MOUNTS = """/dev/sda1 / ext4 rw 0 0
server:/data /data nfs4 rw 0 0
/dev/sdb1 /data/fast xfs rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
proc /proc proc rw 0 0
"""


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    """The table of mounts of a machine with network file systems: none can be mounted here."""
    path = tmp_path / "mounts"
    path.write_text(MOUNTS.replace("\\\\", "\\"))
    monkeypatch.setattr(journal, "MOUNTS", path)
    return path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/a.db", "nfs4"),
        ("/data/fast/a.db", "xfs"),
        ("/database/a.db", "ext4"),
        ("/mnt/my share/a.db", "cifs"),
        ("/home/a.db", "ext4"),
    ],
)
def test_the_file_system_of_a_path(mounts, tmp_path, path, kind):
    assert filesystem_of(tmp_path.__class__(path)) == kind


def test_a_network_file_system_is_said_at_start_and_everything_works(mounts, settings, tmp_path):
    mounts.write_text(f"server:/x {tmp_path} nfs rw 0 0\n")
    sidecar = Sidecar(settings)
    with TestClient(create_app(sidecar)) as client, closing(Sender(sidecar.ingest.address)) as sender:
        sender.send(random_rows(3))
        sender.hear_all()
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        [reason] = health.json()["reasons"]
    assert reason.startswith("journal: ")
    assert "network file system (nfs)" in reason
    assert "local disk" in reason
    [found] = [one for one in check_database(settings.db)[0] if one.name == "database.journal"]
    assert "nfs" in found.found
    assert found.verdict == WARNING


def test_a_journal_that_is_no_write_ahead_log_is_said(tmp_path):
    """As on a file system without shared memory, where SQLite falls back without an error."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(f"file:{path}?vfs=unix-dotfile", uri=True)) as connection:
        connection.execute("CREATE TABLE a (b)")
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("delete",)
        reason = why_unsuited(connection, path)
    assert "journal mode 'delete' instead of WAL" in reason


def test_a_log_that_grew_while_someone_read_is_cut_afterwards(client, sender, settings, monkeypatch, sidecar):
    wal = settings.db.with_name(settings.db.name + "-wal")
    with closing(sqlite3.connect(settings.db)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tokens").fetchone()
        k = 0
        while wal.stat().st_size < store.WAL_KEPT_BYTES + (8 << 20):
            sender.send(random_rows(8000, seed=k, request_id=f"r{k}"))
            sender.hear_all()
            k += 1

    def is_cut():
        nonlocal k
        sender.send(random_rows(100, seed=k, request_id=f"r{k}"))
        sender.hear_all()
        k += 1
        return wal.stat().st_size <= store.WAL_KEPT_BYTES

    wait_until(is_cut, "the log stayed at its high-water mark")


def test_an_sqlite_without_strict_tables_is_named_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(StoreError, match=r"SQLite 3\.34\.1 is too old: 3\.37\.0 or newer is needed"):
        store.check_sqlite((3, 34, 1))
    monkeypatch.setattr(store, "OLDEST_SQLITE", (99, 0, 0))
    for opened in (store.open_writer, store.open_reader):
        with pytest.raises(StoreError, match="is too old"):
            opened(tmp_path / "a.db")
    assert not (tmp_path / "a.db").exists()
