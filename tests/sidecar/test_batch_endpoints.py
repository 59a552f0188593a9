"""The batch forms of `/classify` and `/fingerprint`: the single forms' answers, in JSON and in Arrow."""

import time

import numpy as np
import pyarrow as pa
import pytest
from sidecar_tools import publish_bundle, random_rows

ARROW = "application/vnd.apache.arrow.stream"
COMPANIONS = ("context_len", "sink_mass", "periodicity")
BAD = [2.0, *[0.0] * 19]


def asked_rows(count=12):
    """Questions that know different things beside their vector."""
    found = []
    for number, row in enumerate(random_rows(count, seed=5).to_pylist()):
        found.append(
            {"vector": row["vector"], **{name: row[name] for k, name in enumerate(COMPANIONS) if number >> k & 1}}
        )
    return found


def stream(table, *, options=None):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=5)
    return sink.getvalue().to_pybytes()


def arrow_of(rows):
    columns = {
        "vector": pa.array([row["vector"] for row in rows], pa.list_(pa.float32(), 20)),
        "context_len": pa.array([row.get("context_len") for row in rows], pa.int32()),
        "sink_mass": pa.array([row.get("sink_mass") for row in rows], pa.float32()),
        "periodicity": pa.array([row.get("periodicity") for row in rows], pa.float64()),
    }
    for name, kind in (("request_id", pa.string()), ("step", pa.int32()), ("captured_at_us", pa.int64())):
        if any(name in row for row in rows):
            columns[name] = pa.array([row.get(name) for row in rows], kind)
    return pa.table(columns)


def post(client, path, body, *, accept="*/*", content_type=ARROW):
    return client.post(path, content=body, headers={"content-type": content_type, "accept": accept})


def opened(answer):
    return pa.ipc.open_stream(answer.content).read_all().to_pylist()


@pytest.fixture(params=[False, True], ids=["shipped", "run"])
def any_client(client, settings, request):
    if request.param:
        publish_bundle(settings.discovery_dir)
        client.post("/discovery/reload")
    return client


def test_a_batch_is_answered_as_its_rows_are(any_client):
    rows = asked_rows()
    single = [any_client.post("/classify", json=row).json() for row in rows]
    body = any_client.post("/classify/batch", json={"fingerprints": rows}).json()
    assert list(body) == ["manifolds", "invalid", "schema_version", "run_id"]
    assert (body["invalid"], body["run_id"]) == ([], single[0]["run_id"])
    for one, many in zip(single, body["manifolds"], strict=True):
        assert many == one["manifold"]
    assert post(any_client, "/classify/batch", stream(arrow_of(rows))).json() == body
    table = opened(post(any_client, "/classify/batch", stream(arrow_of(rows)), accept=ARROW))
    explained = any_client.post("/classify/batch", json={"fingerprints": rows, "explain": True}).json()["manifolds"]
    assert [{name: one[name] for name in many} for one, many in zip(explained, body["manifolds"], strict=True)] == (
        body["manifolds"]
    )
    for row, many in zip(table, explained, strict=True):
        assert (row["zone"], row["cluster_id"], row["invalid"]) == (many["zone"], many["cluster_id"], None)
        for name in ("confidence", "cluster_confidence"):
            assert round(row[name], 6) == many[name]
        reason = many["characteristic"]
        assert row["characteristic"] == reason["name"]
        assert row["characteristic_value"] == np.float32(reason["value"])
        assert row["usual_value"] == np.float32(reason["usual"])


def test_an_invalid_question_costs_the_others_nothing(client):
    rows = asked_rows(3)
    rows[1] = {"vector": BAD}
    body = client.post("/classify/batch", json={"fingerprints": rows}).json()
    assert [one is None for one in body["manifolds"]] == [False, True, False]
    assert body["invalid"][0]["row"] == 1
    assert "local_mass" in body["invalid"][0]["detail"]
    table = opened(post(client, "/classify/batch", stream(arrow_of(rows)), accept=ARROW))
    assert [row["zone"] is None for row in table] == [False, True, False]
    assert table[1]["invalid"] == body["invalid"][0]["detail"]
    assert {name for name, value in table[1].items() if value is not None} == {"invalid"}


def fingerprints(count=6):
    return [{**row, "request_id": "batch", "step": step} for step, row in enumerate(asked_rows(count))]


@pytest.mark.parametrize("as_arrow", [False, True])
def test_a_batch_is_stored_once(client, as_arrow):
    rows = fingerprints()

    def send():
        if as_arrow:
            return post(client, "/fingerprint/batch", stream(arrow_of(rows)))
        return client.post("/fingerprint/batch", json={"fingerprints": rows})

    first, again = send(), send()
    assert (first.status_code, first.json()["stored"], first.json()["num_stored"]) == (201, [True] * 6, 6)
    assert (again.status_code, again.json()["stored"], again.json()["num_stored"]) == (200, [False] * 6, 0)
    tokens = client.get("/requests/batch").json()["tokens"]
    assert [token["vector"] for token in tokens] == [row["vector"] for row in rows]
    assert [token["zone"] for token in tokens] == [one["zone"] for one in first.json()["manifolds"]]
    for name in COMPANIONS:
        assert [token[name] for token in tokens] == [row.get(name) for row in rows]


@pytest.mark.parametrize("as_arrow", [False, True])
@pytest.mark.parametrize("fault", ["a share of -0.5", "tomorrow", "1970"])
def test_one_invalid_row_is_refused_alone(client, as_arrow, fault):
    rows = fingerprints()
    if fault == "a share of -0.5":
        rows[4]["vector"] = BAD
    else:
        now_us = time.time_ns() // 1000
        rows[4]["captured_at_us"] = now_us + 86_400_000_000 if fault == "tomorrow" else 1_000
    if as_arrow:
        answer = post(client, "/fingerprint/batch", stream(arrow_of(rows)))
    else:
        answer = client.post("/fingerprint/batch", json={"fingerprints": rows})
    assert answer.status_code == 201
    body = answer.json()
    assert (body["num_stored"], body["stored"]) == (5, [True] * 4 + [False, True])
    [invalid] = body["invalid"]
    assert invalid["row"] == 4
    assert {"a share of -0.5": "local_mass", "tomorrow": "86400 s in the future", "1970": "before 2020"}[fault] in (
        invalid["detail"]
    )
    assert [row for row, one in enumerate(body["manifolds"]) if one is None] == [4]
    steps = [token["step"] for token in client.get("/requests/batch").json()["tokens"]]
    assert steps == [row["step"] for row in rows if row is not rows[4]]


@pytest.mark.parametrize("as_arrow", [False, True])
def test_a_batch_without_one_valid_row_is_refused(client, as_arrow):
    rows = [{**row, "vector": BAD} for row in fingerprints()]
    if as_arrow:
        answer = post(client, "/fingerprint/batch", stream(arrow_of(rows)))
    else:
        answer = client.post("/fingerprint/batch", json={"fingerprints": rows})
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[1]) == (422, "vector-invalid")
    assert "row 0" in answer.json()["detail"]
    assert client.get("/stats").json()["fingerprints"] == 0


GOOD = arrow_of(asked_rows(3))
BAD_STREAMS = {
    "no arrow": (b"What is 2+2?", 400, "not-arrow"),
    "half a stream": (stream(GOOD)[:300], 400, "not-arrow"),
    "compressed": (stream(GOOD, options=pa.ipc.IpcWriteOptions(compression="zstd")), 400, "not-arrow"),
    "a dictionary": (
        stream(GOOD.append_column("zone", pa.array(["a"] * 3).dictionary_encode())), 400, "not-arrow"
    ),
    "a stranger column": (stream(GOOD.append_column("note", pa.array(["a"] * 3))), 422, "body-invalid"),
    "no vector": (stream(GOOD.drop_columns("vector")), 422, "body-invalid"),
    "19 numbers": (
        stream(pa.table({"vector": pa.array([[0.1] * 19], pa.list_(pa.float32()))})), 422, "body-invalid"
    ),
    "a null vector": (stream(pa.table({"vector": pa.array([None], pa.list_(pa.float32(), 20))})), 422, "body-invalid"),
    "texts": (stream(pa.table({"vector": pa.array([["a"] * 20])})), 422, "body-invalid"),
    "no row": (stream(GOOD.slice(0, 0)), 422, "body-invalid"),
    "a sink of 2": (
        stream(GOOD.drop_columns("sink_mass").append_column("sink_mass", pa.array([2.0] * 3))), 422, "body-invalid"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_STREAMS)
def test_a_bad_stream_is_told_what_is_wrong(client, case):
    body, status, kind = BAD_STREAMS[case]
    answer = post(client, "/classify/batch", body)
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[1]) == (status, kind), answer.text
    assert answer.json()["mend"]


@pytest.mark.parametrize("path", ["/classify/batch", "/fingerprint/batch"])
def test_bounds_of_a_batch(client, path):
    assert client.post(path, json={"fingerprints": []}).status_code == 422
    assert post(client, path, b"x", content_type="text/plain").status_code == 415
    assert post(client, path, b"", content_type="application/json").status_code == 400
    too_much = post(client, path, b" " * ((16 << 20) + 1), content_type="application/json")
    assert (too_much.status_code, too_much.json()["type"].rsplit(":", 1)[1]) == (413, "body-too-large")
    assert client.post(path, json={"fingerprints": [{"vector": [0.1]}]}).status_code == 422


@pytest.mark.parametrize("as_arrow", [False, True])
@pytest.mark.parametrize("path", ["/classify/batch", "/fingerprint/batch"])
def test_a_context_longer_than_any_is_refused(client, path, as_arrow):
    for context_len, status in ((2**24, (200, 201)), (2**24 + 1, (422,))):
        rows = [{**row, "context_len": context_len} for row in fingerprints(2)]
        if path == "/classify/batch":
            rows = [{"vector": row["vector"], "context_len": context_len} for row in rows]
        if as_arrow:
            answer = post(client, path, stream(arrow_of(rows)))
        else:
            answer = client.post(path, json={"fingerprints": rows})
        assert answer.status_code in status, answer.text
    assert answer.json()["type"].endswith(":body-invalid")
    assert str(2**24) in answer.json()["detail"] + answer.json()["mend"]
