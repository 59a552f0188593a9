import re
import sqlite3
import subprocess
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
from attention_rows import PROJECTION, draw, wire_rows

from attn_core import insertion, store, wire
from attn_core.classify import Classifier
from attn_core.errors import SchemaMismatch, StoreError


@pytest.fixture
def writer(tmp_path):
    with closing(store.open_writer(tmp_path / "f.db")) as connection:
        yield connection


def insert(connection, rows, **more):
    return store.insert_fingerprints(connection, rows, model_id="demo", stored_at_us=1, **more)


def test_the_sqlite3_shell_and_python_make_the_same_database(tmp_path):
    by_shell = tmp_path / "shell.db"
    for _ in range(2):  # idempotent
        subprocess.run(["sqlite3", by_shell], input=store.schema_sql(), text=True, check=True, capture_output=True)
    store.open_writer(tmp_path / "python.db").close()

    def tables(path):
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()

    assert tables(by_shell) == tables(tmp_path / "python.db")
    store.open_writer(by_shell).close()


def test_every_column_has_a_comment():
    columns = re.findall(r"^    [a-z_]+ +(?:TEXT|INTEGER|REAL|BLOB)\b.*$", store.schema_sql(), flags=re.MULTILINE)
    assert len(columns) > 70
    assert [line for line in columns if "-- " not in line] == []


def test_rows_come_back_as_they_were_inserted(writer):
    drawn = draw(50, seed=5)
    rows = wire_rows(drawn)
    assert insert(writer, rows) == 50
    table = store.read_fingerprints(writer, start_us=0, end_us=2**62)
    assert table.schema.equals(store.STORED)
    np.testing.assert_array_equal(wire.vectors_from_rows(table.combine_chunks().to_batches()[0]), drawn.vectors)
    for name in ("request_id", "step", "captured_at_us", "token_id", "token_text", "context_len", "sink_mass"):
        assert table[name].to_pylist() == rows.column(name).to_pylist()


def test_topk_is_stored_as_little_endian_blobs_and_null_where_not_asked_for(writer):
    insert(writer, wire_rows(draw(3, seed=5)))
    found = writer.execute("SELECT topk_positions, topk_probs FROM fingerprints ORDER BY step").fetchall()
    assert found[1] == (np.array([0, 1], "<i4").tobytes(), np.array([0.5, 0.25], "<f4").tobytes())
    assert found[2] == (None, None)


def sketches_of(rows, places):
    """(head_sketch, zone_evidence) of these rows as float16 bytes, None where there is none."""
    both = [rows.column(name).to_pylist() for name in ("head_sketch", "zone_evidence")]
    return [
        tuple(None if column[i] is None else np.array(column[i], "<f2").tobytes() for column in both) for i in places
    ]


def test_a_head_sketch_is_stored_as_float16_and_null_where_there_is_none(writer):
    """More rows than a statement holds, so that the blob is cut at every size of statement."""
    rows = wire_rows(draw(300, seed=5, longest=20))
    insert(writer, rows, head_projection=PROJECTION)
    found = writer.execute("SELECT head_sketch, zone_evidence, head_projection FROM fingerprints ORDER BY step")
    expected = [(*both, None if both[0] is None else PROJECTION) for both in sketches_of(rows, range(300))]
    assert expected[3] == (None, None, None)
    assert len(expected[2][0]) == 32
    assert found.fetchall() == expected
    table = store.read_fingerprints(writer, start_us=0, end_us=2**62)
    for name in ("head_sketch", "zone_evidence"):
        assert table[name].to_pylist() == rows.column(name).to_pylist()
    assert table["head_projection"].to_pylist() == [name for *_, name in expected]


def test_rows_that_all_have_a_sketch_keep_them(writer):
    rows = wire_rows(draw(300, seed=5, longest=20))
    rows = rows.filter(rows.column("head_sketch").is_valid())
    insert(writer, rows, head_projection=PROJECTION)
    found = writer.execute("SELECT head_sketch, zone_evidence FROM fingerprints ORDER BY step").fetchall()
    assert found == sketches_of(rows, range(225))
    assert writer.execute("SELECT DISTINCT head_projection FROM fingerprints").fetchall() == [(PROJECTION,)]


def test_a_sketch_of_zeros_is_a_sketch(writer):
    rows = wire_rows(draw(1, seed=5)).to_pylist()
    rows[0] |= {"head_sketch": [0.0] * 16, "zone_evidence": [0.0] * 5}
    insert(writer, pa.RecordBatch.from_pylist(rows, schema=wire.FINGERPRINTS), head_projection=PROJECTION)
    assert writer.execute("SELECT head_sketch, head_projection FROM fingerprints").fetchone() == (bytes(32), PROJECTION)


def test_rows_without_any_sketch_are_bound_without_one(writer):
    rows = wire.with_head_columns(wire_rows(draw(4, seed=5)).select(wire.FINGERPRINTS.names[:-3]))
    insert(writer, rows)
    assert next(iter(insertion.lay_out(rows, None))).sketches == b""
    table = store.read_fingerprints(writer, start_us=0, end_us=2**62)
    assert [table[name].null_count for name in ("head_sketch", "zone_evidence", "head_projection")] == [4, 4, 4]


def test_a_sketch_of_another_length_is_an_error(writer):
    insert(writer, wire_rows(draw(1, seed=5)), head_projection=PROJECTION)
    with pytest.raises(sqlite3.IntegrityError):
        writer.execute("UPDATE tokens SET head_sketch = x'00'")


def figures_table(connection, **more):
    return store.read_head_figures(connection, **{"model_id": "demo", "limit": 1000} | more)


def keep_figures(connection, rows, **more):
    insert(connection, rows)
    its = {"model_id": "demo", "layers": (4, 0, 4), "num_heads": 1} | more
    store.insert_head_figures(connection, rows, **its)


def test_raw_head_figures_come_back_as_float16(writer):
    rows = wire_rows(draw(12, seed=5), request_id="a")
    keep_figures(writer, rows)
    keep_figures(writer, rows)  # sent again
    table = figures_table(writer)
    assert table.schema.equals(store.STORED_HEAD_FIGURES)
    assert table["step"].to_pylist() == [0, 5, 10]
    assert table["request_id"].to_pylist() == ["a"] * 3
    assert table["layers"].to_pylist() == [[0, 4]] * 3
    assert table["num_heads"].to_pylist() == [1] * 3
    assert table["context_len"].to_pylist() == [rows.column("context_len")[i].as_py() for i in (0, 5, 10)]
    for found, i in zip(table["figures"].to_pylist(), (0, 5, 10), strict=True):
        np.testing.assert_allclose(found, rows.column("head_figures")[i].as_py(), atol=5e-4)


def test_the_newest_head_figures_of_each_model_are_kept(writer, monkeypatch):
    monkeypatch.setattr(insertion, "MOST_HEAD_FIGURES", 3)
    keep_figures(writer, wire_rows(draw(1, seed=5), request_id="other"), model_id="other")
    keep_figures(writer, wire_rows(draw(6, seed=5), request_id="late", start_us=2_000_000))
    keep_figures(writer, wire_rows(draw(6, seed=5), request_id="early", start_us=1_000_000))
    assert figures_table(writer)["request_id"].to_pylist() == ["early", "late", "late"]
    assert figures_table(writer)["step"].to_pylist() == [5, 0, 5]
    assert figures_table(writer, limit=1)["step"].to_pylist() == [5]
    assert figures_table(writer, model_id="other").num_rows == 1
    assert figures_table(writer, model_id="nobody").num_rows == 0


def test_head_figures_go_with_a_token_that_is_taken_out_by_hand(writer):
    keep_figures(writer, wire_rows(draw(12, seed=5)))
    writer.execute("DELETE FROM fingerprints WHERE step = 5")
    assert figures_table(writer)["step"].to_pylist() == [0, 10]


def test_a_sketch_is_changed_by_hand(writer):
    """The view shows one blob as two columns; changed there, they come together again."""
    rows = wire_rows(draw(2, seed=5))
    insert(writer, rows, head_projection=PROJECTION)
    writer.execute("UPDATE fingerprints SET sink_mass = 0.5")
    found = writer.execute("SELECT head_sketch, zone_evidence FROM fingerprints ORDER BY step").fetchall()
    assert found == sketches_of(rows, range(2))
    other = np.arange(5, dtype="<f2").tobytes()
    writer.execute("UPDATE fingerprints SET zone_evidence = ?, head_projection = 'new' WHERE step = 1", (other,))
    found = writer.execute("SELECT head_sketch, zone_evidence, head_projection FROM fingerprints ORDER BY step")
    (first, second) = sketches_of(rows, range(2))
    assert found.fetchall() == [(*first, PROJECTION), (second[0], other, "new")]


def test_a_sliced_batch_stores_its_own_rows(writer):
    rows = wire_rows(draw(9, seed=6))
    insert(writer, rows.slice(4, 3), head_projection=PROJECTION)
    sketches = writer.execute("SELECT head_sketch, zone_evidence FROM fingerprints ORDER BY step").fetchall()
    assert sketches == sketches_of(rows, range(4, 7))
    found = writer.execute("SELECT step, vector, topk_positions FROM fingerprints ORDER BY step").fetchall()
    whole = wire.vectors_from_rows(rows)
    assert [row[0] for row in found] == [4, 5, 6]
    assert found[0][1] == whole[4].tobytes()
    assert found[0][2] == np.array([0, 4], "<i4").tobytes()
    assert found[1][2] is None


def test_what_is_held_is_not_stored_twice_nor_changed(writer):
    first = wire_rows(draw(10, seed=7))
    insert(writer, first)
    assert insert(writer, wire_rows(draw(12, seed=8))) == 2
    assert writer.execute("SELECT count(*), count(DISTINCT step) FROM fingerprints").fetchone() == (12, 12)
    kept = writer.execute("SELECT vector FROM fingerprints WHERE step = 3").fetchone()[0]
    assert kept == wire.vectors_from_rows(first)[3].tobytes()


def test_a_row_that_breaks_the_schema_is_an_error_not_a_silence(writer):
    rows = wire_rows(draw(1, seed=7)).to_pylist()
    rows[0]["step"] = -1
    with pytest.raises(sqlite3.IntegrityError):
        insert(writer, pa.RecordBatch.from_pylist(rows, schema=wire.FINGERPRINTS))


def test_the_answer_on_arrival_is_stored(writer):
    drawn = draw(6, seed=9)
    classified = Classifier.without_run().classify(
        drawn.vectors, context_len=drawn.context_len, sink_mass=drawn.sink_mass, periodicity=drawn.periodicity
    )
    insert(writer, wire_rows(drawn), classified=classified, run_id="2026-01-10T04-02-11")
    found = writer.execute(
        "SELECT zone, zone_confidence, cluster_id, classified_run_id FROM fingerprints ORDER BY step"
    ).fetchall()
    assert [row[0] for row in found] == classified.zones()
    assert [row[1] for row in found] == pytest.approx(classified.confidence.tolist())
    assert {row[2:] for row in found} == {(-1, "2026-01-10T04-02-11")}


@pytest.mark.parametrize("order", [("started", "ended"), ("ended", "started")])
def test_a_start_and_an_end_make_one_request(writer, order):
    base = dict.fromkeys(wire.REQUESTS.names) | {"request_id": "r", "prompt_len": 3}
    events = {
        "started": base | {"event": "started", "at_us": 10, "prompt_token_ids": [1, 2]},
        "ended": base | {"event": "ended", "at_us": 20, "num_output_tokens": 4, "finish_reason": "stop"},
    }
    events["started"]["prompt_token_texts"] = ["a", "é"]
    for event in order:
        rows = pa.RecordBatch.from_pylist([events[event]], schema=wire.REQUESTS)
        store.upsert_requests(writer, rows, model_id="demo")
    found = writer.execute(
        "SELECT started_at_us, ended_at_us, prompt_token_ids, prompt_token_texts, finish_reason FROM requests"
    ).fetchall()
    assert found == [(10, 20, np.array([1, 2], "<i4").tobytes(), '["a", "é"]', "stop")]


def test_sources_keep_their_highest_number(writer):
    for seq, dropped in ((4, 0), (2, 1)):
        store.record_source(writer, source_id=b"s" * 16, model_id="demo", seq=seq, dropped=dropped, at_us=seq)
    assert writer.execute("SELECT last_seq, dropped, first_seen_us FROM ingest_sources").fetchone() == (4, 1, 4)


def test_hours_with_new_rows_name_the_late_ones_too(writer):
    hour = store.HOUR_US
    insert(writer, wire_rows(draw(3, seed=1), request_id="a", start_us=10 * hour))
    seen = store.max_id(writer)
    insert(writer, wire_rows(draw(2, seed=1), request_id="late", start_us=7 * hour))
    insert(writer, wire_rows(draw(4, seed=1), request_id="b", start_us=10 * hour))
    assert store.hours_with_rows_after(writer, after_id=seen) == [(7 * hour, 2, 5), (10 * hour, 4, 9)]
    assert store.hours_with_rows_after(writer, after_id=9) == []


def test_a_window_is_half_open(writer):
    insert(writer, wire_rows(draw(3, seed=1), start_us=1_000_000))
    table = store.read_fingerprints(writer, start_us=1_000_000, end_us=1_002_000)
    assert table["step"].to_pylist() == [0, 1]
    assert store.read_fingerprints(writer, start_us=0, end_us=5).num_rows == 0


def test_readers_cannot_write_and_need_a_database(tmp_path, writer):
    with pytest.raises(StoreError, match="no database at"):
        store.open_reader(tmp_path / "missing.db")
    with closing(store.open_reader(tmp_path / "f.db")) as reader, pytest.raises(sqlite3.OperationalError):
        reader.execute("DELETE FROM fingerprints")


def test_foreign_files_are_named_and_left_alone(tmp_path):
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(SchemaMismatch, match="not a fingerprint database"):
        store.open_writer(other)
    with closing(sqlite3.connect(other)) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("mine",)]
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(SchemaMismatch, match="schema version 99"):
        store.open_reader(other)
    text = tmp_path / "text.db"
    text.write_text("this is not a database, and long enough to have a header " * 20)
    with pytest.raises(StoreError, match="no SQLite database"):
        store.open_writer(text)
    with pytest.raises(StoreError, match="check that the folder exists"):
        store.open_writer(tmp_path / "no" / "such" / "folder.db")


def test_runs_and_clusters_are_kept(writer):
    run = {"run_id": "2026-01-10T04-02-11", "status": "running", "started_at_us": 1, "window_start_us": 0}
    store.record_run(writer, run | {"window_end_us": 2, "parameters": {"min_cluster_size": 20}})
    store.record_run(writer, run | {"window_end_us": 2, "status": "published", "num_clusters": 1})
    found = writer.execute("SELECT status, num_clusters, parameters FROM discovery_runs").fetchall()
    assert found == [("published", 1, '{"min_cluster_size": 20}')]
    store.record_clusters(
        writer,
        run["run_id"],
        clusters=[(3, "Cluster 3", 50, "diffuse", bytes(80))],
        zone_labels=[(3, "diffuse", 0.8, 0.5, "{}")],
    )
    assert writer.execute("SELECT count(*) FROM zone_labels JOIN clusters USING (run_id, cluster_id)").fetchone() == (
        1,
    )
    with pytest.raises(StoreError, match="unknown run fields"):
        store.record_run(writer, run | {"sise": 1})


def test_the_views_answer(writer):
    insert(writer, wire_rows(draw(3, seed=1)))
    assert writer.execute("SELECT num_fingerprints FROM zones_per_hour").fetchall() == [(3,)]
    assert writer.execute("SELECT step FROM newest_fingerprints").fetchall() == [(2,), (1,), (0,)]
