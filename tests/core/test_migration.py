"""A database of schema version 1 to 4 is brought up to date in one transaction; nothing that it held is lost."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from attention_rows import PROJECTION, draw, wire_rows

from attn_core import migration, store
from attn_core.errors import SchemaMismatch

VERSION_1 = (Path(__file__).parent / "schema_version_1.sql").read_text(encoding="utf-8")
VERSION_2 = (Path(__file__).parent / "schema_version_2.sql").read_text(encoding="utf-8")
VERSION_3 = (Path(__file__).parent / "schema_version_3.sql").read_text(encoding="utf-8")
VERSION_4 = (Path(__file__).parent / "schema_version_4.sql").read_text(encoding="utf-8")
REQUEST_COLUMNS = (
    "request_id, model_id, started_at_us, ended_at_us, prompt_len, prompt_token_ids, prompt_token_texts, prompt_spans, "
    "sampling_params, num_output_tokens, finish_reason"
)
REQUESTS = [
    ("a", "m", 1, 2, 3, b"\1\0\0\0", '["x"]', "[]", "{}", 4, "stop"),
    ("b", None, None, 9, *[None] * 7),
    ("c", "m", 5, None, 8, *[None] * 6),
]
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


def fill(connection):
    """The rows of `ROWS` and `REQUESTS`, into the tables of version 2 to 4."""
    connection.executemany("INSERT INTO request_numbers VALUES (?, ?)", [(1, "b"), (2, "a")])
    labels = {label: no for no, label in enumerate(["m", "diffuse", "long_range", "run"], start=1)}
    connection.executemany("INSERT INTO labels (label, label_no) VALUES (?, ?)", labels.items())
    names = COLUMNS.replace("request_id", "request_no").replace("model_id", "model_no")
    names = names.replace("classified_run_id", "classified_run_no").replace("zone,", "zone_no,")
    places = {"model_id": labels, "zone": labels, "classified_run_id": labels, "request_id": {"b": 1, "a": 2}}
    for row in ROWS:
        values = [
            places[name].get(value) if name in places else value
            for name, value in zip(COLUMNS.split(", "), row, strict=True)
        ]
        connection.execute(f"INSERT INTO tokens ({names}) VALUES ({','.join('?' * 20)})", values)  # noqa: S608
    marks = ",".join("?" * 11)
    connection.executemany(f"INSERT INTO requests ({REQUEST_COLUMNS}) VALUES ({marks})", REQUESTS)  # noqa: S608
    connection.execute("INSERT INTO ingest_sources VALUES (?, 'm', 3, 0, 1, 2)", (bytes(16),))
    connection.commit()


@pytest.fixture
def version_2(tmp_path):
    """The rows of `ROWS` and `REQUESTS` in a file that the code before version 3 made."""
    path = tmp_path / "version_2.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_2)
        fill(connection)
    return path


@pytest.fixture
def version_4(tmp_path):
    """The same in a file that the code before version 5 made."""
    path = tmp_path / "version_4.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_4)
        fill(connection)
        connection.execute("INSERT INTO reused_ids VALUES ('a~2', 'a', 9)")
        connection.commit()
    return path


@pytest.fixture
def version_3(tmp_path):
    path = tmp_path / "version_3.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_3)
        connection.execute("INSERT INTO request_numbers VALUES (1, 'a')")
        connection.execute(
            "INSERT INTO tokens (id, request_no, step, captured_at_us, stored_at_us, vector) VALUES (7, 1, 0, 5, 6, ?)",
            (bytes(80),),
        )
        marks = ",".join("?" * 11)
        connection.executemany(f"INSERT INTO requests ({REQUEST_COLUMNS}) VALUES ({marks})", REQUESTS)  # noqa: S608
        connection.commit()
    return path


def all_requests(connection):
    return connection.execute(f"SELECT {REQUEST_COLUMNS} FROM requests ORDER BY request_id").fetchall()  # noqa: S608


def structure(path):
    """Every object, of a table its columns and kind: ALTER TABLE leaves another text than CREATE TABLE."""
    with closing(sqlite3.connect(path)) as connection:
        found = []
        for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name"):
            if kind == "table":
                columns = connection.execute("SELECT * FROM pragma_table_xinfo(?)", (name,)).fetchall()
                kinds = connection.execute("SELECT type, wr, strict FROM pragma_table_list(?)", (name,)).fetchall()
                sql = (columns, kinds)
            found.append((kind, name, sql))
        return found


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


@pytest.mark.parametrize("version", ["old", "version_2", "version_3", "version_4"])
def test_the_tables_are_those_of_a_new_database(request, version, tmp_path):
    path = request.getfixturevalue(version)
    store.open_writer(path).close()
    store.open_writer(tmp_path / "new.db").close()
    assert structure(path) == structure(tmp_path / "new.db")


def run_todays_schema(path):
    subprocess.run(["sqlite3", path], input=store.schema_sql(), text=True, check=False, capture_output=True)


@pytest.mark.parametrize("before", [lambda _: None, run_todays_schema], ids=["as it was", "after today's schema.sql"])
def test_version_2_keeps_every_row_and_gains_the_zones_of_requests(version_2, before):
    before(version_2)
    with pytest.raises(SchemaMismatch, match="has schema version 2"):
        store.open_reader(version_2)
    with closing(store.open_writer(version_2)) as connection:
        assert everything(connection) == ROWS
        assert all_requests(connection) == REQUESTS
        zones = connection.execute("SELECT DISTINCT zone, zone_confidence FROM requests").fetchall()
        assert zones == [(None, None)]
        assert connection.execute("SELECT last_seq FROM ingest_sources").fetchall() == [(3,)]
        assert connection.execute("PRAGMA user_version").fetchone() == (store.STORE_VERSION,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        store.record_request_zone(connection, request_id="a", zone="diffuse", confidence=0.5)
    with closing(store.open_writer(version_2)) as connection:
        found = connection.execute("SELECT request_id, zone, zone_confidence FROM requests ORDER BY 1").fetchall()
    assert found == [("a", "diffuse", 0.5), ("b", None, None), ("c", None, None)]


def test_version_3_keeps_every_row_and_gains_the_names_of_ids_used_again(version_3):
    with pytest.raises(SchemaMismatch, match="has schema version 3"):
        store.open_reader(version_3)
    with closing(store.open_writer(version_3)) as connection:
        assert [(row[0], row[1]) for row in everything(connection)] == [(7, "a")]
        assert all_requests(connection) == REQUESTS
        assert connection.execute("SELECT count(*) FROM reused_ids").fetchone() == (0,)
        assert connection.execute("PRAGMA user_version").fetchone() == (store.STORE_VERSION,)


@pytest.mark.parametrize("before", [lambda _: None, run_todays_schema], ids=["as it was", "after today's schema.sql"])
def test_version_4_keeps_every_row_and_gains_head_sketches(version_4, before):
    before(version_4)
    with pytest.raises(SchemaMismatch, match="has schema version 4"):
        store.open_reader(version_4)
    with closing(store.open_writer(version_4)) as connection:
        assert everything(connection) == ROWS
        assert all_requests(connection) == REQUESTS
        assert connection.execute("SELECT request_id FROM reused_ids").fetchall() == [("a~2",)]
        assert connection.execute("SELECT last_seq FROM ingest_sources").fetchall() == [(3,)]
        found = connection.execute("SELECT head_sketch, zone_evidence, head_projection FROM fingerprints").fetchall()
        assert found == [(None, None, None)] * 3
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        table = store.read_fingerprints(connection, start_us=0, end_us=100)
        assert table.schema.equals(store.STORED)
        assert table["head_sketch"].null_count == 3
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("UPDATE tokens SET head_sketch = x'00'")
        rows = wire_rows(draw(6, seed=1), request_id="a~2")
        store.insert_fingerprints(connection, rows, model_id="m", stored_at_us=20, head_projection=PROJECTION)
        store.insert_head_figures(connection, rows, model_id="m", layers=(0,), num_heads=2)
    with closing(store.open_reader(version_4)) as connection:
        counts = connection.execute("SELECT count(*), count(head_sketch) FROM fingerprints").fetchone()
        assert counts == (9, 5)
        assert store.read_head_figures(connection, model_id="m", limit=10).num_rows == 2


@pytest.mark.parametrize("version", ["version_2", "version_3", "version_4"])
def test_a_migration_to_version_5_that_fails_changes_nothing(request, version, monkeypatch):
    path = request.getfixturevalue(version)
    before = structure(path)
    monkeypatch.setattr(migration, "_HEAD_SKETCHES", ("head_sketch BLOB", "projection_no NONSENSE"))
    with pytest.raises(store.StoreError, match="NONSENSE"):
        store.open_writer(path)
    assert structure(path) == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (int(version[-1]),)
        assert everything(connection)


def test_a_migration_from_version_2_that_fails_leaves_version_2(version_2, monkeypatch):
    monkeypatch.setattr(migration, "_REQUEST_ZONES", ("zone TEXT", "zone_confidence NONSENSE"))
    with pytest.raises(store.StoreError, match="NONSENSE"):
        store.open_writer(version_2)
    with closing(sqlite3.connect(version_2)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert "zone" not in [row[1] for row in connection.execute("PRAGMA table_info(requests)")]
        assert all_requests(connection) == REQUESTS


def test_todays_schema_run_by_hand_on_an_old_file_loses_nothing(old):
    """The shell sets the version's number without moving the rows; the sidecar sees through it."""
    run_todays_schema(old)
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
