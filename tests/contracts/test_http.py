"""The HTTP contract: the guide's endpoints with exactly its bodies, and a mend for every mistake."""

import contextlib
import json

import pytest
from sidecar_tools import guide_vector, publish_bundle, random_rows
from starlette.testclient import TestClient

from attn_core.zones import ZONES
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.settings import Settings

VECTOR = guide_vector()
RUN_ID = "2026-01-10T04-02-11"


@contextlib.contextmanager
def running(folder):
    settings = Settings(db=folder / "fingerprints.db", discovery_dir=folder / "discovery_outputs", zmq_bind=None)
    with TestClient(create_app(Sidecar(settings), static_dir=folder / "static")) as client:
        yield client


@pytest.fixture
def client(tmp_path):
    """Before the first discovery run."""
    with running(tmp_path) as client:
        yield client


@pytest.fixture
def ready_client(tmp_path):
    """With a published run."""
    publish_bundle(tmp_path / "discovery_outputs", run_id=RUN_ID)
    with running(tmp_path) as client:
        yield client


def test_health(client):
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["reasons"] == []


def test_classify_before_the_first_run(client):
    answer = client.post("/classify", json={"vector": VECTOR})
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["manifold", "schema_version", "run_id"]
    assert list(body["manifold"]) == ["zone", "confidence", "cluster_id", "cluster_label"]
    assert (body["schema_version"], body["run_id"]) == (1, None)
    assert body["manifold"]["zone"] in ZONES
    assert 0 <= body["manifold"]["confidence"] <= 1
    assert (body["manifold"]["cluster_id"], body["manifold"]["cluster_label"]) == (-1, "Unclustered")


def test_classify_with_a_run(ready_client):
    """A point that the run has seen, with its companions, lies on a prototype of its cluster."""
    points = ready_client.get("/clusters").json()["clusters"]
    assert {cluster["cluster_id"] for cluster in points} == {3, 5}
    row = random_rows(40, seed=1, request_id="seen").slice(0, 1).to_pylist()[0]
    asked = {name: row[name] for name in ("vector", "context_len", "sink_mass", "periodicity")}
    body = ready_client.post("/classify", json=asked).json()
    assert body["run_id"] == RUN_ID
    assert (body["manifold"]["cluster_id"], body["manifold"]["cluster_label"]) == (3, "Cluster 3")
    explained = ready_client.post("/classify", json={**asked, "explain": True}).json()["manifold"]
    assert list(explained) == [*body["manifold"], "cluster_confidence", "characteristic"]
    assert set(explained["characteristic"]) == {"name", "value", "usual"}


def test_companions_change_the_answer(client):
    plain = client.post("/classify", json={"vector": VECTOR}).json()["manifold"]
    told = {"vector": VECTOR, "context_len": 1500, "sink_mass": 0.05, "periodicity": 0.95}
    assert client.post("/classify", json=told).json()["manifold"] != plain
    assert client.post("/classify", json=told).json()["manifold"]["zone"] == "structure_ripple"


def test_fingerprint_is_stored_once_and_never_overwritten(client):
    body = {"request_id": "uuid", "vector": VECTOR, "step": 1}
    answer = client.post("/fingerprint", json=body)
    assert answer.status_code == 201
    first = answer.json()
    assert list(first) == ["stored", "request_id", "step", "manifold", "schema_version", "run_id"]
    assert (first["stored"], first["request_id"], first["step"]) == (True, "uuid", 1)
    assert first["manifold"] == client.post("/classify", json={"vector": VECTOR}).json()["manifold"]
    before = client.get("/requests/uuid").json()
    other = [1.0, 0.0, 0.0, 0.5, 1.0, *[0.0] * 7, *[0.1] * 8]
    again = client.post("/fingerprint", json={**body, "vector": other})
    assert (again.status_code, again.json()["stored"]) == (200, False)
    assert client.get("/requests/uuid").json() == before
    assert before["tokens"][0]["vector"] == VECTOR
    assert client.get("/stats").json()["fingerprints"] == 1


def test_discovery_status_unavailable(client):
    body = client.get("/discovery/status").json()
    assert (body["status"], body["detail"]) == ("unavailable", "discovery not available")
    assert len(body["what_to_do"]) == 3
    assert "latest symlink" in body["what_to_do"][2]


@pytest.mark.parametrize("path", ["/points", "/clusters"])
def test_what_needs_a_run_says_so(client, path):
    answer = client.get(path)
    assert_problem(answer, 404, "discovery-not-available", path)
    assert answer.json()["detail"] == "discovery not available"


def test_discovery_status_ready(ready_client):
    body = ready_client.get("/discovery/status").json()
    assert (body["status"], body["run_id"]) == ("ready", RUN_ID)


def test_stats(client):
    client.post("/fingerprint", json={"request_id": "a", "vector": VECTOR, "step": 0})
    body = client.get("/stats").json()
    assert {"fingerprints", "requests", "zones", "clusters", "run_id", "ingest"} <= set(body)
    assert (body["fingerprints"], body["clusters"], body["run_id"]) == (1, 0, None)
    assert set(body["zones"]) == set(ZONES)
    assert sum(body["zones"].values()) == 1


def assert_problem(answer, status, kind, path):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:attention-explorer:problem:{kind}"
    assert body["status"] == status
    for name in ("title", "detail", "mend"):
        assert body[name], (path, name)


def text_of(vector, **more):
    return json.dumps({"vector": vector, **more})


BAD_BODIES = {
    "19 numbers": (text_of(VECTOR[:19]), 422, "vector-invalid", "19"),
    "21 numbers": (text_of([*VECTOR, 0.1]), 422, "vector-invalid", "21"),
    "NaN": (text_of([float("nan"), *VECTOR[1:]]), 400, "not-json", "NaN"),
    "Infinity": (text_of([float("inf"), *VECTOR[1:]]), 400, "not-json", "Infinity"),
    "too large for float32": (text_of([1e300, *VECTOR[1:]]), 422, "vector-invalid", "finite"),
    "too large for float64": (text_of(VECTOR).replace("[", "[1e999,", 1), 422, "body-invalid", "$.vector[0]"),
    "a string in the vector": (text_of(["a", *VECTOR[1:]]), 422, "body-invalid", "$.vector[0]"),
    "a string for a vector": (text_of("0.1, 0.2"), 422, "body-invalid", "$.vector"),
    "true in the vector": (text_of([True, *VECTOR[1:]]), 422, "body-invalid", "bool"),
    "masses that sum to 2": (text_of([1, 1, 0, *VECTOR[3:]]), 422, "vector-invalid", "sum to 2"),
    "a negative mass": (text_of([-0.1, *VECTOR[1:]]), 422, "vector-invalid", "local_mass"),
    "entropy past ln n": (text_of(VECTOR, context_len=1), 422, "vector-invalid", "nats"),
    "no vector": ("{}", 422, "body-invalid", "vector"),
    "a misspelt field": (text_of(VECTOR, contextlen=5), 422, "body-invalid", "contextlen"),
    "a sink of 2": (text_of(VECTOR, sink_mass=2), 422, "body-invalid", "$.sink_mass"),
    "a context of 0": (text_of(VECTOR, context_len=0), 422, "body-invalid", "$.context_len"),
    "empty": ("", 400, "empty-body", "JSON"),
    "text": ("What is 2+2?", 400, "not-json", "JSON"),
    "half of a body": ('{"vector": [0.1,', 400, "not-json", "JSON"),
    "an array": ("[1, 2]", 422, "body-invalid", "object"),
    "deeply nested": ('{"vector":' + "[" * 100_000, 422, "body-invalid", "array"),
    "2 MB": (text_of([0.1] * 400_000), 413, "body-too-large", "1048576"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
@pytest.mark.parametrize("path", ["/classify", "/fingerprint"])
def test_a_bad_body_is_told_what_is_wrong(client, path, case):
    content, status, kind, said = BAD_BODIES[case]
    if path == "/fingerprint" and isinstance(content, str) and content.startswith('{"vector"') and content[-1] == "}":
        content = '{"request_id": "a", "step": 0, ' + content[1:]
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert_problem(answer, status, kind, path)
    assert said in answer.json()["detail"] + answer.json()["mend"]
    assert client.get("/stats").json()["fingerprints"] == 0


def test_text_that_is_not_utf8(client):
    content = b'{"request_id": "\xff", "step": 0, "vector": ' + json.dumps(VECTOR).encode() + b"}"
    answer = client.post("/fingerprint", content=content, headers={"content-type": "application/json"})
    assert_problem(answer, 400, "not-json", "/fingerprint")
    assert "UTF-8" in answer.json()["mend"]


def test_a_body_in_parts_is_read_no_further_than_the_bound(client):
    sent = 0

    def parts():
        nonlocal sent
        for _ in range(40):
            sent += 1
            yield b" " * 65_536

    answer = client.post("/classify", content=parts(), headers={"content-type": "application/json"})
    assert_problem(answer, 413, "body-too-large", "/classify")


@pytest.mark.parametrize(
    "body", [{"request_id": "", "step": 0}, {"request_id": "a", "step": -1}, {"request_id": "a"}, {"step": 0}]
)
def test_a_fingerprint_needs_its_place(client, body):
    answer = client.post("/fingerprint", json={"vector": VECTOR, **body})
    assert_problem(answer, 422, "body-invalid", "/fingerprint")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_wrong_content_type(client, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    answer = client.post("/classify", content=text_of(VECTOR), headers=headers)
    assert_problem(answer, 415, "content-type", "/classify")


@pytest.mark.parametrize(("method", "path"), [("GET", "/nope"), ("POST", "/nope"), ("GET", "/assets/../../etc/passwd")])
def test_an_unknown_route(client, method, path):
    assert_problem(client.request(method, path), 404, "not-found", path)


@pytest.mark.parametrize(("method", "path"), [("GET", "/classify"), ("POST", "/health"), ("DELETE", "/requests/a")])
def test_a_wrong_method(client, method, path):
    answer = client.request(method, path)
    assert_problem(answer, 405, "method-not-allowed", path)
    assert answer.headers["allow"]


@pytest.mark.parametrize("limit", ["0", "1001", "ten", "-1", "9" * 5000])
def test_a_limit_that_is_none(client, limit):
    assert_problem(client.get("/requests", params={"limit": limit}), 422, "query-invalid", "/requests")


def test_an_unknown_request(client):
    assert_problem(client.get("/requests/nobody"), 404, "request-unknown", "/requests")


def test_openapi_lists_every_endpoint(client):
    document = client.get("/openapi.json").json()
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert listed >= {
        ("GET", "/health"),
        ("POST", "/fingerprint"),
        ("POST", "/classify"),
        ("GET", "/discovery/status"),
        ("POST", "/discovery/reload"),
        ("GET", "/stats"),
        ("GET", "/requests"),
        ("GET", "/requests/{request_id}"),
        ("GET", "/points"),
        ("GET", "/points/density"),
        ("GET", "/points/{point}"),
        ("GET", "/clusters"),
        ("GET", "/clusters/{cluster_id}"),
        ("GET", "/runs"),
        ("GET", "/runs/{run_id}"),
        ("GET", "/zones/timeline"),
        ("GET", "/compare"),
    }
    vector = document["components"]["schemas"]["ClassifyBody"]["properties"]["vector"]
    assert (vector["minItems"], vector["maxItems"]) == (20, 20)
