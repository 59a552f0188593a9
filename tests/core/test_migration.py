"""A database of schema version 1 is brought up to date in one transaction, and nothing that it held is lost."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from attn_core import migration, store
from attn_core.errors import SchemaMismatch

VERSION_1 = (Path(__file__).parent / "schema_version_1.sql").read_text(encoding="utf-8")
ROWS = [
    (1, "b", 0, 10, 11, "m", 5, "x", bytes(80), 9, 0.5, 0.25, 0.125, b"abcd", b"efgh", 0.5, "diffuse", 0.75, 3, "run"),
    (4, "a", 7, 12, 13, None, None, None, bytes([1] * 80), *[None] * 11),
    (5, "b", 1, 9, 13, "m", 6, "y", bytes([2] * 80), *[None] * 7, "long_range", 0.5, -1, None),
]
COLUMNS = (
    "id, request_id, step, captured_at_us, stored_at_us, model_id, token_id, token_text, vector, context_len, "
    "sink_mass, prompt_mass, periodicity, topk_positions, topk_probs, residual_mass, zone, zone_confidence, "
    "cluster_id, classified_run_id"
)


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
        connection.executemany(f"INSERT INTO fingerprints ({COLUMNS}) VALUES ({','.join('?' * 20)})", ROWS)  # noqa: S608
        connection.execute("INSERT INTO requests (request_id, prompt_len) VALUES ('b', 3)")
        connection.commit()
    return path


def everything(connection):
    return connection.execute(f"SELECT {COLUMNS} FROM fingerprints ORDER BY id").fetchall()  # noqa: S608


def test_every_row_and_column_survives(old):
    with closing(store.open_writer(old)) as connection:
        assert everything(connection) == ROWS
        assert connection.execute("PRAGMA user_version").fetchone() == (store.STORE_VERSION,)
        assert connection.execute("SELECT request_id, prompt_len FROM requests").fetchall() == [("b", 3)]
        assert connection.execute("SELECT id, zone FROM newest_fingerprints LIMIT 1").fetchall() == [(5, "long_range")]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert store.max_id(connection) == 5
    with closing(store.open_reader(old)) as connection:
        table = store.read_fingerprints(connection, start_us=0, end_us=100)
    assert table["id"].to_pylist() == [5, 1, 4]
    assert table["request_id"].to_pylist() == ["b", "b", "a"]
    assert table["zone"].to_pylist() == ["long_range", "diffuse", None]


def test_the_tables_are_those_of_a_new_database(old, tmp_path):
    store.open_writer(old).close()
    store.open_writer(tmp_path / "new.db").close()

    def schema(path):
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()

    assert schema(old) == schema(tmp_path / "new.db")


def test_todays_schema_run_by_hand_on_an_old_file_loses_nothing(old):
    """The shell sets the version's number without moving the rows; the sidecar sees through it."""
    subprocess.run(["sqlite3", old], input=store.schema_sql(), text=True, check=False, capture_output=True)
    with closing(store.open_writer(old)) as connection:
        assert everything(connection) == ROWS


def test_a_migration_that_fails_leaves_the_old_database(old, monkeypatch):
    monkeypatch.setattr(migration, "_TOKENS", "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(store.StoreError, match="nowhere"):
        store.open_writer(old)
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert everything(connection) == ROWS
        assert connection.execute("SELECT count(*) FROM zones_per_hour").fetchone() == (3,)


def test_a_reader_of_an_old_file_says_who_brings_it_up_to_date(old):
    with pytest.raises(SchemaMismatch, match="start the sidecar once"):
        store.open_reader(old)


def test_a_row_is_taken_out_by_hand(old):
    with closing(store.open_writer(old)) as connection:
        connection.execute("DELETE FROM fingerprints WHERE request_id = 'b' AND step = 0")
        assert [row[0] for row in everything(connection)] == [4, 5]


def test_rows_are_changed_by_hand(old):
    """Plain columns and those that are numbers underneath, with values new to the file."""
    with closing(store.open_writer(old)) as connection:
        connection.execute(
            "UPDATE fingerprints SET zone = 'by hand', request_id = 'c', sink_mass = 0.75, model_id = NULL WHERE id > 4"
        )
        changed = list(ROWS[2])
        for name, value in (("zone", "by hand"), ("request_id", "c"), ("sink_mass", 0.75), ("model_id", None)):
            changed[COLUMNS.split(", ").index(name)] = value
        assert everything(connection) == [*ROWS[:2], tuple(changed)]
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("UPDATE fingerprints SET vector = x'00' WHERE id = 1")
