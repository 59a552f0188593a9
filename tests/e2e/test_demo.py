"""`make demo` on real tokens: what it says happened did happen."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing

import httpx
import numpy as np
import pytest
from openai import OpenAI
from running_stack import ROOT, free_ports

from attn_core.bundle import open_bundle
from attn_core.fingerprint import valid_rows, vectors_from_blobs
from attn_core.zones import ZONES


def rows(demo, query, *parameters):
    with closing(sqlite3.connect(f"{demo.places.database.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query, parameters).fetchall()


def test_the_database_holds_a_thousand_valid_fingerprints_of_the_model(demo):
    found = rows(demo, "SELECT vector, context_len, sink_mass, prompt_mass, periodicity FROM fingerprints")
    assert len(found) >= 1000
    assert valid_rows(vectors_from_blobs([row[0] for row in found]), np.array([row[1] for row in found])).all()
    shares = np.array([row[2:] for row in found])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert len({row[0] for row in found}) > 0.95 * len(found)  # real attention does not repeat itself


def test_every_request_is_whole(demo):
    found = rows(
        demo,
        "SELECT r.prompt_len, r.num_output_tokens, r.finish_reason, r.prompt_spans, count(*), max(f.step), "
        "min(f.context_len) FROM requests r JOIN fingerprints f USING (request_id) GROUP BY request_id",
    )
    assert len(found) >= 20
    for prompt_len, num_output, finish, spans, count, last, shortest in found:
        assert num_output == count == last + 1
        assert shortest == prompt_len  # step 0 is the last position of the prefill
        assert finish in {"stop", "length"}
        assert all(0 <= span["start"] < span["end"] <= prompt_len for span in json.loads(spans))
        assert "user" in {span["role"] for span in json.loads(spans)}


def test_the_bundle_verifies_and_places_every_fingerprint(demo):
    bundle = open_bundle(demo.places.discovery / "latest")
    embeddings = bundle.table("embeddings").to_pylist()
    stored = set(rows(demo, "SELECT request_id, step FROM fingerprints WHERE captured_at_us < ?", window_end(demo)))
    assert {(row["request_id"], row["step"]) for row in embeddings} == stored
    assert len(stored) >= 1000
    assert {row["zone"] for row in embeddings} <= set(ZONES)
    assert np.isfinite([[row["x"], row["y"]] for row in embeddings]).all()
    sizes = Counter(row["cluster_id"] for row in embeddings)
    for cluster in bundle.table("clusters").to_pylist():
        assert cluster["size"] == sizes[cluster["cluster_id"]]


def window_end(demo):
    return rows(demo, "SELECT max(window_end_us) FROM discovery_runs WHERE status = 'published'")[0][0]


def test_the_guides_client_prints_attention_tokens(demo):
    client = OpenAI(base_url=f"{demo.server}/v1", api_key="none")
    response = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "What is 2+2?"}],
        extra_body={"return_attention_tokens": True},
        max_tokens=64,  # so small a model may not find an end by itself
        stream=True,
    )
    tokens = []
    for chunk in response:
        if chunk.choices and hasattr(chunk.choices[0].delta, "attention_tokens"):
            tokens += chunk.choices[0].delta.attention_tokens
    assert [token["step"] for token in tokens] == list(range(len(tokens)))
    assert len(tokens) > 5
    for token in tokens:
        assert len(token["fingerprint"]) == 20
        assert len(token["topk_positions"]) == len(token["topk_probs"]) == min(32, token["context_len"])
        assert sum(token["topk_probs"]) + token["residual_mass"] == pytest.approx(1, abs=1e-4)
        assert token["topk_probs"] == sorted(token["topk_probs"], reverse=True)


def test_every_endpoint_of_the_guide_answers(demo):
    vector = vectors_from_blobs([rows(demo, "SELECT vector FROM fingerprints LIMIT 1")[0][0]])[0].tolist()
    run_id = open_bundle(demo.places.discovery / "latest").run_id
    health = httpx.get(f"{demo.sidecar}/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    answer = httpx.post(f"{demo.sidecar}/classify", json={"vector": vector}).json()
    assert set(answer) == {"manifold", "schema_version", "run_id"}
    assert set(answer["manifold"]) == {"zone", "confidence", "cluster_id", "cluster_label"}
    assert answer["run_id"] == run_id
    assert answer["schema_version"] == 1
    assert answer["manifold"]["zone"] in ZONES
    body = {"request_id": "by-hand", "vector": vector, "step": 1}
    assert httpx.post(f"{demo.sidecar}/fingerprint", json=body).status_code in {200, 201}
    assert httpx.get(f"{demo.sidecar}/discovery/status").json()["run_id"] == run_id
    stats = httpx.get(f"{demo.sidecar}/stats").json()
    assert stats["fingerprints"] >= 1000
    # By hand it came, by hand it goes: the other tests look at the model's tokens only.
    with closing(sqlite3.connect(demo.places.database)) as connection, connection:
        connection.execute("DELETE FROM fingerprints WHERE request_id = 'by-hand'")


GOOD = [0.5, 0.3, 0.2, 1.0, *[0.125] * 8, *[1.0] * 8]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (json.dumps({"vector": GOOD[:19]}), "19"),
        (json.dumps({"vector": [*GOOD[:19], float("nan")]}), ""),
        (json.dumps({"vector": ["a"] * 20}), ""),
        ("hello", ""),
        ("", ""),
        (json.dumps({"vector": GOOD, "padding": "x" * 2_000_000}), ""),
    ],
    ids=["19 numbers", "NaN", "text in the vector", "no JSON", "empty", "2 MB"],
)
@pytest.mark.parametrize("path", ["/classify", "/fingerprint"])
def test_bad_input_is_told_what_is_wrong(demo, path, body, says):
    if path == "/fingerprint" and body.startswith("{"):
        body = '{"request_id": "bad", "step": 0, ' + body[1:]
    answer = httpx.post(f"{demo.sidecar}{path}", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert says in problem["detail"]
    assert problem["title"]


GRAPH = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
  assetNodes { assetKey { path } hasAssetChecks isPartitioned }
  sensors { name sensorState { status } } schedules { name } jobs { name } } } } }"""

PLOTTED = """{ assetNodes { groupName assetKey { path } assetMaterializations(limit: 1) {
  metadataEntries { __typename label } } } }"""


def graphql(demo, query):
    return httpx.post(f"{demo.dagster}/graphql", json={"query": query}, timeout=60).json()["data"]


def test_dagster_lists_the_graph_without_a_warning(demo):
    node = graphql(demo, GRAPH)["repositoriesOrError"]["nodes"][0]
    assets = {asset["assetKey"]["path"][-1]: asset for asset in node["assetNodes"]}
    names = {"fingerprints", "umap_embedding", "hdbscan_clusters", "zone_labels", "classifier_bundle"}
    assert names <= set(assets)
    for name in names:
        assert assets[name]["hasAssetChecks"], name
        assert assets[name]["isPartitioned"], name
    assert node["sensors"]
    assert node["schedules"]
    log = demo.program("dagster").log.read_text()
    assert [line for line in log.splitlines() if "Warning" in line or " WARNING " in line] == []


def test_a_materialised_hour_has_numbers_to_plot(demo):
    hourly = [asset for asset in graphql(demo, PLOTTED)["assetNodes"] if asset["groupName"] == "discovery"]
    assert len(hourly) == 5
    for asset in hourly:
        materialised = asset["assetMaterializations"]
        assert materialised, asset["assetKey"]
        numbers = [e for e in materialised[0]["metadataEntries"] if e["__typename"].startswith(("Int", "Float"))]
        assert len(numbers) >= 3, asset["assetKey"]


def test_the_summary_is_a_table_of_what_is_true(demo):
    run_id = open_bundle(demo.places.discovery / "latest").run_id
    assert "every vector valid" in demo.output
    assert "zones by kind of prompt" in demo.output
    assert run_id[:10] in demo.output


def test_the_quickstart_shows_a_zone_a_token(demo):
    done = subprocess.run(
        [sys.executable, ROOT / "examples/manifold_quickstart.py", "--server", demo.server, "--sidecar", demo.sidecar],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert any(zone in done.stdout for zone in ZONES)
    assert "is served" in done.stdout


def run_demo(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def port_flags(ports):
    names = ("--server-port", "--sidecar-port", "--zmq-port", "--dagster-port")
    return [part for name, port in zip(names, ports, strict=True) for part in (name, port)]


def test_a_taken_port_is_named_before_anything_starts(tmp_path):
    ports = free_ports(4)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[1]))
        taken.listen()
        process = run_demo("--data", tmp_path, *port_flags(ports))
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"port {ports[1]} is taken" in output
    assert "--sidecar-port" in output
    assert list(tmp_path.iterdir()) == []


def processes_naming(text):
    """Command lines of live processes that mention `text`."""
    listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if text in line and "ps -ewwo" not in line]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_half_way_leaves_nothing_behind(tmp_path, sign):
    ports = free_ports(4)
    process = run_demo("--data", tmp_path, *port_flags(ports))
    for line in process.stdout:
        if "sidecar is ready" in line:
            break
    assert processes_naming(str(ports[0]))
    os.killpg(process.pid, sign)
    output, _ = process.communicate(timeout=60)
    assert "stopped" in output
    assert process.returncode in {0, 130}
    assert processes_naming(str(ports[0])) == []
    assert processes_naming(str(tmp_path)) == []


def test_output_that_nobody_reads_any_more_stops_it_too(tmp_path):
    ports = free_ports(4)
    process = run_demo("--data", tmp_path, *port_flags(ports))
    for line in process.stdout:
        if "sidecar is ready" in line:
            break
    process.stdout.close()
    assert process.wait(timeout=120) not in {0, None}
    assert processes_naming(str(ports[0])) == []
    assert processes_naming(str(tmp_path)) == []
