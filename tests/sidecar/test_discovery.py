"""Serving what discovery published: swapped whole, refused when torn."""

import pyarrow as pa
import pytest
from sidecar_tools import publish_bundle, random_rows, without_notice

from attn_core.zones import ZONES
from attn_sidecar.discovery import Discovery
from attn_sidecar.health import HealthBoard

FIRST, SECOND = "2026-01-10T04-02-11", "2026-01-10T05-00-00"


def test_the_watcher_finds_a_new_run_by_itself(client, settings):
    """No reload is asked for: the run is announced on `/events` once it is served."""
    with client.websocket_connect("/events") as socket:
        assert socket.receive_json()["run_id"] is None
        publish_bundle(settings.discovery_dir, run_id=FIRST)
        assert without_notice(socket.receive_json()) == {"kind": "run", "run_id": FIRST}
        assert client.get("/discovery/status").json()["run_id"] == FIRST
        publish_bundle(settings.discovery_dir, run_id=SECOND, cluster_ids=(3, 8))
        assert without_notice(socket.receive_json()) == {"kind": "run", "run_id": SECOND}
    assert [c["cluster_id"] for c in client.get("/clusters").json()["clusters"]] == [3, 8]


def torn_npz(path):
    path.joinpath("classifier.npz").write_bytes(b"PK torn")


def torn_manifest(path):
    path.joinpath("manifest.json").write_text('{"schema_version": 1,')


def no_file(path):
    path.joinpath("embeddings.parquet").unlink()


@pytest.mark.parametrize("tear", [torn_npz, torn_manifest, no_file])
def test_a_torn_bundle_leaves_the_old_one_in_place(client, settings, tear):
    publish_bundle(settings.discovery_dir, run_id=FIRST)
    assert client.post("/discovery/reload").json()["run_id"] == FIRST
    points = client.get("/points").content
    tear(publish_bundle(settings.discovery_dir, run_id=SECOND))
    refused = client.post("/discovery/reload")
    assert refused.status_code == 409
    assert refused.json()["type"].endswith(":bundle-refused")
    status = client.get("/discovery/status").json()
    assert (status["status"], status["run_id"]) == ("ready", FIRST)
    assert status["problem"]
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert health.json()["reasons"][0].startswith("discovery: ")
    assert client.get("/points").content == points
    publish_bundle(settings.discovery_dir, run_id="2026-01-10T06-00-00")
    assert client.post("/discovery/reload").json()["run_id"] == "2026-01-10T06-00-00"
    assert client.get("/health").json() == {"status": "ok", "version": "0.1.0", "reasons": []}


def test_a_bundle_whose_tables_do_not_fit_is_refused(tmp_path, monkeypatch):
    """Hashes that match are not enough: a zone of another vocabulary cannot be served."""
    monkeypatch.setattr("sidecar_tools.ZONES", ("a", "b", "c", "d", "e"))
    publish_bundle(tmp_path)
    health = HealthBoard()
    discovery = Discovery(tmp_path, health=health, on_swap=lambda _: None)
    assert not discovery.reload()
    assert discovery.served.run_id is None
    assert "cannot be served" in discovery.problem
    assert not health.blocked


def test_points_are_the_embedding_as_arrow(client, settings):
    publish_bundle(settings.discovery_dir)
    client.post("/discovery/reload")
    names = "x,y,cluster_id,zone,confidence,request_id,step,token_text"
    answer = client.get("/points", params={"columns": names})
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    table = pa.ipc.open_stream(answer.content).read_all()
    assert ",".join(table.column_names) == names
    assert table.num_rows == 40
    assert table.column("zone").combine_chunks().dictionary.to_pylist() == list(ZONES)
    assert sorted(table.column("step").to_pylist()) == list(range(40))
    assert set(table.column("cluster_id").to_pylist()) == {3, 5}
    again = client.get("/points", params={"columns": names}, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_arrivals_are_classified_with_the_run_served(client, settings, sender):
    publish_bundle(settings.discovery_dir, run_id=FIRST)
    client.post("/discovery/reload")
    sender.send(random_rows(40, seed=1, request_id="seen"))
    sender.hear_all()
    tokens = client.get("/requests/seen").json()["tokens"]
    assert {token["classified_run_id"] for token in tokens} == {FIRST}
    assert [token["cluster_id"] for token in tokens] == [3] * 20 + [5] * 20
    assert client.get("/stats").json()["clusters"] == 2
