"""Valid and nearly valid inputs to every interface, and what a foreign hand may have left in the database.

No input is answered by 5xx, ends a thread, or loses its neighbours; no stored row can break an endpoint.
"""

import contextlib
import json
import sqlite3
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sidecar_tools import START_US, Sender, publish_bundle, random_rows, request_row, with_column
from starlette.testclient import TestClient

from attn_core.store import open_writer
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.settings import Settings

EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
WAYS_TO_READ = (
    "/requests", "/requests?limit=1000", "/requests?zone=diffuse", "/requests?request_zone=diffuse",
    "/requests?response_id=odd", "/stats", "/zones/timeline", "/zones/timeline?from_us=0&to_us=3600000000", "/runs",
    "/runs/2026-01-10T04-02-11", "/clusters", "/clusters/3", "/points", "/points/0", "/points/density",
    "/compare?a_model=demo-model&b_model=m", "/compare?a_run=2026-01-10T04-02-11&b_model=demo-model",
    "/discovery/status", "/metrics", "/health",
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["", "odd", "a/b", "\x00", "é~2", "x" * 600, "../x", "%2f"]))
INTS = st.one_of(
    st.integers(-3, 5), st.sampled_from([2**31 - 1, -(2**31), 2**24, 2**24 + 1, 100]), st.integers(-(2**31), 2**31 - 1)
)
INSTANTS = st.one_of(
    st.sampled_from([0, -1, START_US, 2**53 - 1, 2**53, 2**62, -(2**63), 2**63 - 1, START_US * 2]),
    st.integers(START_US - 10**9, START_US + 10**9),
)
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 0.5, float("nan"), float("inf"), -1e-30, 1.0005, 1.01, 1e30, 800.0]),
    st.floats(width=32),
)
JSONS = st.one_of(
    st.sampled_from(
        [
            "[]", "{}", "null", "[1]", "[[]]", '[{"message": 0, "role": "user", "start": 5, "end": 2}]',
            '[{"message": 0, "role": "user", "start": 0, "end": 99999999}]', '{"a": 1e999}', '{"a": NaN}',
            '{"a": "\\ud800"}', '{"a": ' + "[" * 300 + "]" * 300 + "}", '{"n": 123456789012345678901234567890}', "{",
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
        max_leaves=6,
    ).map(json.dumps),
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One sidecar for all examples, as in life: what one leaves behind the next one meets."""
    folder = tmp_path_factory.mktemp("odd")
    its = Settings(
        db=folder / "a.db", discovery_dir=folder / "runs", zmq_bind="tcp://127.0.0.1:*", online=True, rate_limit=0
    )
    publish_bundle(its.discovery_dir)
    sidecar = Sidecar(its)
    with (
        TestClient(create_app(sidecar), raise_server_exceptions=False) as client,
        contextlib.closing(Sender(sidecar.ingest.address)) as sender,
    ):
        yield sidecar, client, sender


def assert_well(sidecar, client):
    """Every endpoint answers, every thread lives and has met no fault."""
    for path in WAYS_TO_READ:
        answer = client.get(path)
        assert answer.status_code < 500, (path, answer.text)
    for one in client.get("/requests?limit=50").json()["requests"]:
        answer = client.get("/requests/" + _quoted(one["request_id"]))
        assert answer.status_code in (200, 404), (one["request_id"], answer.text)
    for thread in sidecar.health.watched:
        assert thread.num_errors == 0, thread.why_unwell()
        assert thread.name == "attn-integrity" or thread.is_alive()


def _quoted(text):
    return quote(text, safe="")


def _float16s(width):
    """As many numbers as a list has, and nulls; what is beyond float16 is infinite."""
    numbers = FLOATS.map(lambda one: np.inf if one > 65_000 else -np.inf if one < -65_000 else one)
    return st.lists(st.none() | numbers, min_size=width, max_size=width)


@st.composite
def odd_columns(draw):
    """Some columns of two odd token rows."""
    changes = {
        "request_id": st.lists(TEXTS, min_size=2, max_size=2),
        "step": st.lists(INTS, min_size=2, max_size=2),
        "captured_at_us": st.lists(INSTANTS, min_size=2, max_size=2),
        "token_text": st.lists(TEXTS, min_size=2, max_size=2),
        "token_id": st.lists(INTS, min_size=2, max_size=2),
        "context_len": st.lists(INTS, min_size=2, max_size=2),
        "sink_mass": st.lists(FLOATS, min_size=2, max_size=2),
        "prompt_mass": st.lists(FLOATS, min_size=2, max_size=2),
        "periodicity": st.lists(FLOATS, min_size=2, max_size=2),
        "residual_mass": st.lists(st.none() | FLOATS, min_size=2, max_size=2),
        "topk_positions": st.lists(st.none() | st.lists(st.none() | INTS, max_size=3), min_size=2, max_size=2),
        "topk_probs": st.lists(st.none() | st.lists(st.none() | FLOATS, max_size=3), min_size=2, max_size=2),
        "head_sketch": st.lists(st.none() | _float16s(16), min_size=2, max_size=2),
        "zone_evidence": st.lists(st.none() | _float16s(5), min_size=2, max_size=2),
        "head_figures": st.lists(st.none() | st.lists(st.none() | FLOATS, max_size=11), min_size=2, max_size=2),
        "vector": st.lists(st.tuples(st.integers(0, 19), FLOATS), min_size=2, max_size=2),
    }
    names = draw(st.lists(st.sampled_from(sorted(changes)), max_size=3, unique=True))
    return {name: draw(changes[name]) for name in names}


_COUNT = iter(range(10**9))


@EXAMPLES
@given(odd=odd_columns())
def test_odd_token_rows_leave_their_neighbours_whole(running, odd):
    sidecar, client, sender = running
    k = next(_COUNT)
    rows = random_rows(2, seed=k, request_id=f"odd{k}")
    for name, values in odd.items():
        if name == "vector":
            vectors = np.asarray(rows.column("vector").flatten().to_numpy()).copy().reshape(2, 20)
            for i, (place, value) in enumerate(values):
                vectors[i, place] = value
            values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 20)
        rows = with_column(rows, name, values)
    neighbours = [random_rows(3, seed=k, request_id=f"before{k}"), random_rows(3, seed=k, request_id=f"after{k}")]
    seq = sender.send(pa.concat_batches([neighbours[0], rows, neighbours[1]]))
    assert sender.hear() == (seq, None)
    for name in (f"before{k}", f"after{k}"):
        assert len(client.get(f"/requests/{name}").json()["tokens"]) == 3
    if k % 10 == 0:
        assert_well(sidecar, client)


@EXAMPLES
@given(
    spans=st.none() | JSONS,
    params=st.none() | JSONS,
    at_us=INSTANTS,
    prompt_len=INTS,
    event=st.sampled_from(["started", "ended", "paused", ""]),
    request_id=st.none() | TEXTS,
    ids=st.none() | st.lists(st.none() | INTS, max_size=4),
    texts=st.none() | st.lists(st.none() | TEXTS, max_size=4),
    reason=st.none() | TEXTS,
)
def test_odd_request_events_leave_their_neighbours_whole(running, **odd):
    sidecar, client, sender = running
    k = next(_COUNT)
    names = {
        "prompt_spans": "spans", "sampling_params": "params", "prompt_token_ids": "ids", "prompt_token_texts": "texts",
        "finish_reason": "reason",
    }  # fmt: skip
    rows = request_row("started", request_id=f"odd{k}")
    for column in rows.schema.names:
        name = names.get(column, column)
        if name in odd:
            rows = with_column(rows, column, [odd[name]])
    good = request_row("started", request_id=f"good{k}")
    seq = sender.send(pa.concat_batches([rows, good]), kind="requests")
    assert sender.hear() == (seq, None)
    assert client.get("/requests", params={"response_id": f"good{k}"}).json()["requests"][0]["prompt_len"] == 3
    if k % 10 == 0:
        assert_well(sidecar, client)


VECTOR = random_rows(1).column("vector")[0].values.to_numpy().tobytes()
BLOBS = st.binary(max_size=9)
TOKENS = {
    "step": st.integers(0, 2**63 - 1), "captured_at_us": INSTANTS, "stored_at_us": INSTANTS,
    "token_id": st.none() | INTS, "token_text": st.none() | TEXTS,
    "vector": st.binary(min_size=80, max_size=80) | st.just(VECTOR),
    "context_len": st.none() | INTS | st.just(2**62),
    "sink_mass": st.none() | FLOATS, "prompt_mass": st.none() | FLOATS,
    "periodicity": st.none() | FLOATS, "zone_no": st.none() | st.integers(0, 9),
    "zone_confidence": st.none() | FLOATS, "cluster_id": st.none() | INTS | st.just(2**62),
    "topk_positions": st.none() | BLOBS, "topk_probs": st.none() | BLOBS, "residual_mass": st.none() | FLOATS,
}  # fmt: skip
REQUESTS = {
    "model_id": st.none() | TEXTS, "started_at_us": st.none() | INSTANTS, "ended_at_us": st.none() | INSTANTS,
    "prompt_len": st.none() | INTS, "prompt_token_ids": st.none() | BLOBS, "prompt_token_texts": st.none() | JSONS,
    "prompt_spans": st.none() | JSONS, "sampling_params": st.none() | JSONS, "num_output_tokens": st.none() | INTS,
    "finish_reason": st.none() | TEXTS, "zone": st.none() | TEXTS, "zone_confidence": st.none() | FLOATS,
}  # fmt: skip
RUNS = {
    "status": st.sampled_from(["running", "published", "failed", "interrupted"]), "started_at_us": INSTANTS,
    "ended_at_us": st.none() | INSTANTS, "window_start_us": INSTANTS, "window_end_us": INSTANTS,
    "num_fingerprints": st.none() | INTS, "num_clusters": st.none() | INTS, "noise_share": st.none() | FLOATS,
    "parameters": st.none() | JSONS, "metrics": st.none() | JSONS, "error": st.none() | TEXTS,
}  # fmt: skip


def insert(connection, table, row):
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    with contextlib.suppress(sqlite3.IntegrityError):
        connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))  # noqa: S608


@settings(EXAMPLES, max_examples=40)
@given(
    token=st.fixed_dictionaries(TOKENS),
    request=st.fixed_dictionaries(REQUESTS),
    run=st.fixed_dictionaries(RUNS),
    run_id=st.sampled_from(["2026-01-10T04-02-11", "2026-01-10T04-02-12", "x"]) | TEXTS,
)
def test_no_stored_row_can_break_an_endpoint(running, token, request, run, run_id):
    """Written past admission, as by an older version or by hand; every column as foreign as its type lets it be."""
    sidecar, client, _ = running
    k = next(_COUNT)
    name = f"foreign{k}"
    with contextlib.closing(open_writer(sidecar.settings.db)) as connection:
        insert(connection, "request_numbers", {"request_no": 10**6 + k, "request_id": name})
        insert(connection, "tokens", {"request_no": 10**6 + k, **token})
        insert(connection, "requests", {"request_id": name, **request})
        insert(connection, "discovery_runs", {"run_id": run_id, **run})
        insert(connection, "clusters", {
            "run_id": run_id, "cluster_id": 3, "cluster_label": "", "size": -5, "zone": "nowhere",
            "centroid": token["vector"],
        })  # fmt: skip
        insert(connection, "zone_labels", {
            "run_id": run_id, "cluster_id": 3, "zone": "nowhere", "score": 7.0, "margin": -1.0,
            "evidence": request["sampling_params"] or "[",
        })  # fmt: skip
    answer = client.get(f"/requests/{name}")
    assert answer.status_code in (200, 404), answer.text
    assert_well(sidecar, client)


@settings(EXAMPLES, max_examples=25)
@given(
    manifest=st.dictionaries(
        st.sampled_from(
            ["models", "window_end_us", "previous_run_id", "gone_cluster_ids", "parameters", "quality", "odd"]
        ),
        st.none() | INTS | TEXTS | st.lists(INTS, max_size=2),
        max_size=4,
    ),
    table=st.sampled_from(["embeddings", "clusters", "prototypes", "requests"]),
    column=st.sampled_from(["x", "zone", "cluster_id", "exemplars", "request_id", "centroid", "size"]),
    value=st.sampled_from([None, 7, "text", -1.5, [1], {"a": 1}]),
)
def test_an_odd_bundle_is_refused_or_served_whole(running, manifest, table, column, value):
    """A bundle whose hashes are right and whose content is not: what is served stays or is whole."""
    sidecar, client, _ = running
    k = next(_COUNT)

    def spoil(directory):
        path = directory / f"{table}.parquet"
        held = pq.read_table(path)
        if column in held.column_names:
            held = held.drop_columns(column)
        pq.write_table(held.append_column(column, pa.array([value] * held.num_rows)), path)

    run_id = f"2026-02-{1 + k % 28:02}T{k // 28 % 24:02}-{k // 672 % 60:02}-00"
    publish_bundle(sidecar.settings.discovery_dir, run_id=run_id, manifest=manifest, more=spoil)
    answer = client.post("/discovery/reload")
    assert answer.status_code in (200, 409), answer.text
    for path in (*WAYS_TO_READ, f"/runs/{run_id}", f"/points?run={run_id}", f"/clusters?run={run_id}",
                 f"/clusters/3?run={run_id}"):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code < 500, (path, answer.text)
    for thread in sidecar.health.watched:
        assert thread.num_errors == 0, thread.why_unwell()


@EXAMPLES
@given(body=st.dictionaries(
    st.sampled_from(["vector", "request_id", "step", "captured_at_us", "context_len", "sink_mass", "periodicity"]),
    st.none() | INTS | INSTANTS | TEXTS | st.floats(allow_nan=False, allow_infinity=False),
), spoiled=st.lists(st.tuples(st.integers(0, 19), st.floats(allow_nan=False, allow_infinity=False)), max_size=2),
)  # fmt: skip
def test_odd_posts_are_answered(running, body, spoiled):
    _, client, _ = running
    k = next(_COUNT)
    vector = random_rows(1, seed=k).column("vector")[0].as_py()
    for place, value in spoiled:
        vector[place] = value
    whole = {"vector": vector, **body}
    posted = {"request_id": f"post{k}", "step": 0, **whole}
    good = {"request_id": f"beside{k}", "step": 0, "vector": random_rows(1, seed=k).column("vector")[0].as_py()}
    for path, sent in (
        ("/classify", whole),
        ("/fingerprint", posted),
        ("/classify/batch", {"fingerprints": [whole, {"vector": good["vector"]}]}),
        ("/fingerprint/batch", {"fingerprints": [{**posted, "step": 1}, good]}),
    ):
        answer = client.post(path, json=sent)
        assert answer.status_code in (200, 201, 422), (path, answer.text)
    batch = client.post("/fingerprint/batch", json={"fingerprints": [good]})
    assert batch.status_code in (200, 201)
    assert client.get(f"/requests/beside{k}").status_code == 200


def test_after_all_of_it_everything_is_well(running):
    sidecar, client, _ = running
    assert_well(sidecar, client)
