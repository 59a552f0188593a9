"""The head sketch on its way: refused alone where it is none, stored, and told over HTTP with its matrix."""

import contextlib
import dataclasses
import sqlite3

import numpy as np
import pyarrow as pa
import pytest
from sidecar_tools import INFO, PROJECTION, Sender, guide_vector, publish_bundle, random_rows, with_column

from attn_core import bundle, wire
from attn_core.classify import Classifier
from attn_core.head_projection import MAX_HEADS, NUM_EVIDENCE, NUM_SKETCH
from attn_core.store import open_writer, read_fingerprints, read_head_figures
from attn_sidecar.admission import admissions
from attn_sidecar.privacy import without_content
from attn_sidecar.store.jobs import ArrivedBatch
from attn_sidecar.store.transaction import prepare, write

ARROW = "application/vnd.apache.arrow.stream"
OTHER = "cd" * 32
UNNAMED = dataclasses.replace(INFO, head_projection=None)
GOOD = random_rows(3)
"""All three have a sketch."""


def batch(rows, info=INFO, seq=0):
    return wire.Batch(source_id=b"s" * 16, seq=seq, kind="fingerprints", info=info, rows=rows)


def with_second(name, value):
    """The good rows with another value in the second."""
    values = GOOD.column(name).to_pylist()
    values[1] = value
    return with_column(GOOD, name, values)


def without_sketches(rows):
    return wire.with_head_columns(rows.select(wire.FINGERPRINTS.names[:-3]))


def halves(count, *, at, value):
    numbers = [0.5] * count
    numbers[at] = value
    return numbers


BAD_SECOND_ROWS = {
    "sketch is NaN": with_second("head_sketch", halves(NUM_SKETCH, at=15, value=float("nan"))),
    "sketch holds null": with_second("head_sketch", halves(NUM_SKETCH, at=0, value=None)),
    "evidence is infinite": with_second("zone_evidence", halves(NUM_EVIDENCE, at=4, value=float("-inf"))),
    "sketch alone": with_second("zone_evidence", None),
    "evidence alone": with_second("head_sketch", None),
    "figures of half a head": with_second("head_figures", [0.5] * 7),
    "figures of too many heads": with_second("head_figures", [0.5] * (MAX_HEADS + 1) * 5),
    "figures hold null": with_second("head_figures", halves(10, at=7, value=None)),
    "entropy is infinite": with_second("head_figures", halves(10, at=4, value=float("inf"))),
    "mass above 1": with_second("head_figures", halves(10, at=5, value=1.01)),
    "mass below 0": with_second("head_figures", halves(10, at=3, value=-0.01)),
}


@pytest.mark.parametrize("case", BAD_SECOND_ROWS)
@pytest.mark.parametrize("alone", [True, False], ids=["one batch", "among others"])
def test_what_is_no_sketch_is_refused_alone(case, alone):
    others = [] if alone else [batch(random_rows(5), seq=1), batch(without_sketches(random_rows(4)), UNNAMED, seq=2)]
    found, *rest = admissions([batch(BAD_SECOND_ROWS[case]), *others], now_us=2 * 10**15)
    assert [reason.partition(":")[0] for reason in found.refused] == ["sketch"]
    assert "row 1 " in found.refused[0]
    assert found.batch.rows.column("step").to_pylist() == [0, 2]
    assert [one.refused for one in rest] == [[] for _ in others]


@pytest.mark.parametrize("figures", [[], [1.0009, -0.0009, 0, 0, 16.5], [0.5] * MAX_HEADS * 5])
def test_figures_at_their_bounds_are_taken(figures):
    [found] = admissions([batch(with_second("head_figures", figures))], now_us=2 * 10**15)
    assert found.refused == []


@pytest.mark.parametrize("alone", [True, False], ids=["one batch", "among others"])
def test_a_sketch_without_its_matrix_is_refused(alone):
    """The fourth row has no sketch and needs no matrix; nor do the batches beside it lose anything."""
    others = [] if alone else [batch(random_rows(4), seq=1), batch(without_sketches(random_rows(4)), UNNAMED, seq=2)]
    found, *rest = admissions([batch(random_rows(4), UNNAMED), *others], now_us=2 * 10**15)
    assert [reason.partition(":")[0] for reason in found.refused] == ["sketch"] * 3
    assert found.batch.rows.column("step").to_pylist() == [3]
    assert [one.batch.rows.num_rows for one in rest] == [4 for _ in others]


def test_a_sketch_is_stored_with_its_matrix_and_figures_beside_it(sender, settings, sidecar):
    rows = random_rows(250)
    sender.send(rows)
    sender.send(without_sketches(random_rows(2, request_id="bare")), info=UNNAMED)
    sender.send(with_second("head_sketch", None))
    sender.hear_all()
    assert dict(sidecar.ingest.counters.refused_rows) == {"sketch": 1}
    with contextlib.closing(sqlite3.connect(settings.db)) as connection:
        table = read_fingerprints(connection, start_us=0, end_us=2**62)
        figures = read_head_figures(connection, model_id=INFO.model_id, limit=10)
    table = table.filter(pa.array([one == "r" for one in table["request_id"].to_pylist()]))
    for name in ("head_sketch", "zone_evidence"):
        assert table[name].to_pylist() == rows.column(name).to_pylist()
    expected = [None if step % 4 == 3 else PROJECTION for step in range(250)]
    assert table["head_projection"].to_pylist() == expected
    assert figures["step"].to_pylist() == [1, 101, 201]
    assert set(figures["request_id"].to_pylist()) == {"r"}
    assert figures["layers"].to_pylist()[0] == list(INFO.captured_layers)
    assert {len(one) for one in figures["figures"].to_pylist()} == {8 * 9 * 5}


def test_rows_of_one_transaction_keep_each_their_own_matrix(tmp_path):
    """Two processes of one model, one of them with a newer matrix, and an answer whose id is used again."""
    batches = [
        batch(random_rows(2, request_id="a"), seq=0),
        batch(random_rows(2, request_id="b", seed=1), dataclasses.replace(INFO, head_projection=OTHER), seq=1),
        batch(random_rows(2, request_id="a", seed=2, start_us=10**15), seq=2),
    ]
    jobs = [ArrivedBatch(batch=one, answer=lambda _: None) for one in batches]
    with contextlib.closing(open_writer(tmp_path / "f.db")) as connection:
        write(connection, prepare(jobs, classifier=Classifier.without_run(), now_us=1))
        found = connection.execute(
            "SELECT DISTINCT request_id, head_projection FROM fingerprints ORDER BY 1"
        ).fetchall()
        figures = read_head_figures(connection, model_id=INFO.model_id, limit=10)
    assert found == [("a", PROJECTION), ("a~2", PROJECTION), ("b", OTHER)]
    assert sorted(figures["request_id"].to_pylist()) == ["a", "a~2", "b"]


def test_privacy_keeps_sketches_and_figures():
    before = random_rows(4)
    after = without_content(batch(before)).rows
    for name in ("head_sketch", "zone_evidence", "head_figures"):
        assert after.column(name).equals(before.column(name))


def test_an_answer_says_the_matrix_once(client, sender):
    rows = random_rows(6)
    sender.send(rows)
    sender.hear_all()
    answer = client.get("/requests/r").json()
    assert answer["head_projection"] == PROJECTION
    assert {token["head_projection"] for token in answer["tokens"]} == {None}
    for name in ("head_sketch", "zone_evidence"):
        assert [token[name] for token in answer["tokens"]] == rows.column(name).to_pylist()
    assert answer["tokens"][3]["head_sketch"] is None


def test_an_answer_without_sketches_names_no_matrix(client, sender):
    sender.send(without_sketches(random_rows(2)), info=UNNAMED)
    sender.hear_all()
    answer = client.get("/requests/r").json()
    assert answer["head_projection"] is None
    assert [token["zone_evidence"] for token in answer["tokens"]] == [None, None]


def test_tokens_of_several_matrices_say_their_own(client, sender):
    sender.send(random_rows(4))
    sender.send(random_rows(2, first_step=4), info=dataclasses.replace(INFO, head_projection=OTHER))
    sender.hear_all()
    answer = client.get("/requests/r").json()
    assert answer["head_projection"] is None
    assert [token["head_projection"] for token in answer["tokens"]] == [*[PROJECTION] * 3, None, OTHER, OTHER]
    assert client.get("/requests/r?from_step=4").json()["head_projection"] == OTHER


def test_live_tokens_bring_their_sketches(client, sender):
    rows = random_rows(2)
    with client.websocket_connect("/events") as socket:
        socket.receive_json()
        sender.send(rows)
        message = socket.receive_json()
    assert (message["kind"], message["head_projection"]) == ("tokens", PROJECTION)
    assert [token["head_sketch"] for token in message["tokens"]] == rows.column("head_sketch").to_pylist()


def test_stats_name_the_matrix_of_each_source(client, sender, sidecar):
    with contextlib.closing(Sender(sidecar.ingest.address)) as bare:
        sender.send(random_rows(1))
        bare.send(without_sketches(random_rows(1, request_id="bare")), info=UNNAMED)
        sender.hear_all()
        bare.hear_all()
        clocks = client.get("/stats").json()["ingest"]["clocks"]
        found = {one["source"]: one["head_projection"] for one in clocks}
        assert found == {sender.source_id.hex(): PROJECTION, bare.source_id.hex(): None}
    sender.send(random_rows(1, request_id="later"), info=dataclasses.replace(INFO, head_projection=OTHER))
    sender.hear_all()
    clocks = client.get("/stats").json()["ingest"]["clocks"]
    assert {one["source"]: one["head_projection"] for one in clocks}[sender.source_id.hex()] == OTHER


SKETCH = {
    "head_sketch": [k / 8 - 1 for k in range(NUM_SKETCH)],
    "zone_evidence": [k / 4 for k in range(NUM_EVIDENCE)],
    "head_projection": PROJECTION,
}


def posted(step, **more):
    return {"request_id": "p", "step": step, "vector": random_rows(1, seed=step).column("vector")[0].as_py(), **more}


def stored_tokens(client):
    return client.get("/requests/p").json()


def test_a_posted_sketch_is_stored(client):
    rough = SKETCH | {"head_sketch": [0.1] * NUM_SKETCH}
    assert client.post("/fingerprint", json=posted(0, **SKETCH)).status_code == 201
    assert client.post("/fingerprint", json=posted(1)).status_code == 201
    assert client.post("/fingerprint", json=posted(2, **rough)).status_code == 201
    answer = stored_tokens(client)
    assert answer["head_projection"] == PROJECTION
    assert [token["head_sketch"] for token in answer["tokens"]] == [
        SKETCH["head_sketch"], None, [float(np.float16(0.1))] * NUM_SKETCH
    ]  # fmt: skip
    assert [token["zone_evidence"] for token in answer["tokens"]] == [
        SKETCH["zone_evidence"], None, SKETCH["zone_evidence"]
    ]  # fmt: skip


WRONG = {
    "short": ({"head_sketch": [0.0] * 15}, "head_sketch"),
    "long evidence": ({"zone_evidence": [0.0] * 6}, "zone_evidence"),
    "beyond float16": ({"head_sketch": [0.0] * 15 + [70_000.0]}, "head_sketch"),
    "no hash": ({"head_projection": "ab"}, "head_projection"),
    "a line break behind": ({"head_projection": PROJECTION + "\n"}, "head_projection"),
    "half": ({"head_projection": None}, "come together or not at all"),
    "evidence alone": ({"head_projection": None, "head_sketch": None}, "zone_evidence alone"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("path", ["/classify", "/fingerprint"])
def test_a_wrong_sketch_is_refused_with_what_is_wrong(case, path, client):
    changes, said = WRONG[case]
    body = posted(0, **(SKETCH | changes))
    if path == "/classify":
        body = {name: value for name, value in body.items() if name not in ("request_id", "step")}
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert client.get("/requests/p").status_code == 404


def test_a_vector_is_classified_with_its_sketch_beside_it(client):
    body = {"vector": posted(0)["vector"], "context_len": 900, **SKETCH}
    assert client.post("/classify", json=body).status_code == 200


def test_a_batch_stores_its_sketches_and_refuses_half_of_one_alone(client):
    rows = [posted(0, **SKETCH), posted(1), posted(2, **SKETCH, context_len=900), posted(3)]
    del rows[2]["zone_evidence"]
    answer = client.post("/fingerprint/batch", json={"fingerprints": rows}).json()
    assert answer["stored"] == [True, True, False, True]
    assert answer["invalid"][0]["row"] == 2
    assert "come together" in answer["invalid"][0]["detail"]
    assert [token["head_sketch"] for token in stored_tokens(client)["tokens"]] == [SKETCH["head_sketch"], None, None]
    questions = [{name: value for name, value in row.items() if name not in ("request_id", "step")} for row in rows]
    asked = client.post("/classify/batch", json={"fingerprints": questions}).json()
    assert [one["row"] for one in asked["invalid"]] == [2]


def arrow_body(rows, *, kind=None):
    kind = kind or pa.list_(pa.float16(), NUM_SKETCH)
    columns = {
        "vector": pa.array([row["vector"] for row in rows], pa.list_(pa.float32(), 20)),
        "request_id": pa.array([row["request_id"] for row in rows]),
        "step": pa.array([row["step"] for row in rows], pa.int32()),
        "head_sketch": pa.array([row.get("head_sketch") for row in rows], kind),
        "zone_evidence": pa.array([row.get("zone_evidence") for row in rows], pa.list_(pa.float32())),
        "head_projection": pa.array([row.get("head_projection") for row in rows], pa.string()),
    }
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_an_arrow_batch_stores_its_sketches(client):
    rows = [
        posted(0, **SKETCH),
        posted(1),
        posted(2, **SKETCH | {"head_projection": None}),
        posted(3, **SKETCH | {"head_projection": PROJECTION.upper()}),
        posted(4, **SKETCH | {"zone_evidence": [0.0] * 4}),
        posted(5, **SKETCH | {"zone_evidence": [float("nan")] * 5}),
        posted(6, **SKETCH | {"head_projection": OTHER}),
    ]
    answer = client.post("/fingerprint/batch", content=arrow_body(rows), headers={"content-type": ARROW}).json()
    assert answer["stored"] == [True, True, False, False, False, False, True]
    details = {one["row"]: one["detail"] for one in answer["invalid"]}
    assert "come together" in details[2]
    assert "SHA-256" in details[3]
    assert details[4] == details[5] == "zone_evidence has 5 numbers within +-60000, none null"
    tokens = stored_tokens(client)["tokens"]
    assert [token["head_projection"] for token in tokens] == [PROJECTION, None, OTHER]
    assert [token["zone_evidence"] for token in tokens] == [SKETCH["zone_evidence"], None, SKETCH["zone_evidence"]]


def test_an_arrow_sketch_of_another_type_is_refused(client):
    body = arrow_body([posted(0, **SKETCH | {"head_sketch": [1] * 16})], kind=pa.list_(pa.int32()))
    answer = client.post("/fingerprint/batch", content=body, headers={"content-type": ARROW})
    assert answer.status_code == 422
    assert "head_sketch is list" in answer.json()["detail"]


def test_a_vector_is_placed_on_the_map_when_asked(client, settings):
    body = {"vector": guide_vector(), "context_len": 900, "sink_mass": 0.2, "periodicity": 0.1}
    before = client.post("/classify", json={**body, "include": ["position"]}).json()["manifold"]
    assert (before["x"], before["y"]) == (None, None), "there is no map yet"
    publish_bundle(settings.discovery_dir)
    client.post("/discovery/reload")
    plain = client.post("/classify", json=body).json()["manifold"]
    assert set(plain) == {"zone", "confidence", "cluster_id", "cluster_label"}
    placed = client.post("/classify", json={**body, "include": ["position"]}).json()["manifold"]
    points = bundle.open_bundle(settings.discovery_dir / "latest").table("embeddings")
    for axis in ("x", "y"):
        values = points[axis].to_numpy()
        assert values.min() <= placed[axis] <= values.max()
    assert 0 <= placed["cluster_confidence"] <= 1
    assert {name: placed[name] for name in plain} == plain
    refused = client.post("/classify", json={**body, "include": ["places"]})
    assert refused.status_code == 422
