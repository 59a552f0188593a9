"""`/metrics`: parsed as Prometheus does, and held to what was really done."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sidecar_tools import publish_bundle, random_rows, request_row, with_column
from starlette.testclient import TestClient

from attn_sidecar.api.metrics import MOST_REASONS
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.durations import EDGES_S, Durations
from attn_sidecar.http_times import OTHER
from attn_sidecar.settings import Settings

UNITS = ("_bytes", "_seconds", "_total", "_ratio", "_radii", "_info", "_count", "_sum", "_bucket", "_created")
PLAIN = re.compile(r"attn_(health|thread|ingest|store|http|live|discovery|online|sidecar)_[a-z_]+")


def scrape(client):
    """Every sample by (name, labels)."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples, name, **labels):
    return samples.get((name, tuple(sorted(labels.items()))))


def test_a_batch_changes_the_numbers(client, sender):
    before = scrape(client)
    assert value(before, "attn_ingest_batches_total") == 0
    sender.send(random_rows(40))
    sender.send(request_row("started"), kind="requests")
    sender.send(random_rows(40))
    sender.hear_all()
    sender.send(with_column(random_rows(3, request_id="other"), "step", [-1, 0, 1]))
    sender.send(with_column(random_rows(1, request_id="none"), "step", [-1]))
    sender.hear_all()
    after = scrape(client)
    assert value(after, "attn_ingest_batches_total") == 5
    assert value(after, "attn_ingest_rows_total") == 83
    assert value(after, "attn_ingest_acknowledged_batches_total") == 4
    assert value(after, "attn_ingest_refused_rows_total", reason="step") == 2
    assert value(after, "attn_ingest_refused_batches_total", reason="step") == 1
    assert value(after, "attn_store_rows_total", outcome="new") == 42
    assert value(after, "attn_store_rows_total", outcome="repeated") == 40
    assert value(after, "attn_store_commit_seconds_count") == value(after, "attn_store_commits_total") >= 1
    assert value(after, "attn_store_commit_seconds_sum") > 0
    assert value(after, "attn_store_rows_waiting") == 0
    assert value(after, "attn_store_size_bytes", file="database") > 0
    assert value(after, "attn_store_disk_free_bytes") > 0
    assert value(after, "attn_ingest_sources") == 1


def test_requests_are_counted_by_route_and_status(client):
    client.post("/classify", content=b"{", headers={"content-type": "application/json"})
    for path in ("/stats", "/requests/none", "/requests/neither", "/nothing/here", "/nor/here"):
        client.get(path)
    client.request("BREW", "/stats")
    samples = scrape(client)

    def count(method, route, status):
        return value(samples, "attn_http_requests_total", method=method, route=route, status=str(status))

    assert count("POST", "/classify", 400) == 1
    assert count("GET", "/stats", 200) == 1
    assert count("GET", "/requests/{request_id:path}", 404) == 2
    assert count("GET", OTHER, 404) == 2
    assert count(OTHER, "/stats", 405) == 1
    took = {"method": "POST", "route": "/classify"}
    assert value(samples, "attn_http_request_duration_seconds_count", **took) == 1
    assert value(samples, "attn_http_request_duration_seconds_bucket", le="+Inf", **took) == 1


def test_no_caller_can_make_labels(client, sidecar):
    client.get("/metrics")
    size = len(scrape(client))
    for k in range(50):
        client.get(f"/no/{k}")
        client.request(f"VERB{k}", f"/requests/{k}")
        sidecar.ingest.counters.refused[f"reason{k}"] += 1
    grown = scrape(client)
    assert len(grown) < size + MOST_REASONS + 80
    assert value(grown, "attn_ingest_refused_batches_total", reason="other") == 50 - MOST_REASONS
    assert len({dict(labels).get("route") for _, labels in grown}) < 30


def test_health_and_the_run_are_there(client, sidecar, settings):
    samples = scrape(client)
    assert value(samples, "attn_health_well", part="store") == 1
    assert value(samples, "attn_health_blocked") == 0
    assert not [name for name, _ in samples if name == "attn_discovery_run_info"]
    sidecar.health.ail("store", "full", blocks=True)
    publish_bundle(settings.discovery_dir)
    client.post("/discovery/reload")
    samples = scrape(client)
    assert value(samples, "attn_health_well", part="store") == 0
    assert value(samples, "attn_health_blocked") == 1
    assert value(samples, "attn_discovery_run_info", run_id="2026-01-10T04-02-11") == 1
    assert value(samples, "attn_discovery_clusters") == 2


def test_the_operators_page_names_every_figure_and_no_other(client, settings):
    publish_bundle(settings.discovery_dir)
    client.post("/discovery/reload")
    page = (Path(__file__).resolve().parents[2] / "docs" / "sidecar.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(attn_[a-z_]+)", page))
    text = client.get("/metrics").text
    shown = {f"{f.name}_total" if f.type == "counter" else f.name for f in text_string_to_metric_families(text)}
    shown = {name for name in shown if name.startswith("attn_")}
    of_online = {name for name in shown if name.startswith("attn_online_")}
    assert of_online
    assert shown - of_online == {name for name in named if not name.startswith("attn_online_")}
    assert {name for name in named if name.startswith("attn_online_")} <= of_online | {"attn_online_"}


def test_live_clients_are_counted(client):
    with client.websocket_connect("/events") as socket:
        socket.receive_json()
        assert value(scrape(client), "attn_live_clients") == 1


@pytest.mark.parametrize("changes", [{"online": False, "zmq_bind": None}, {}])
def test_names_say_their_units_and_nothing_is_global(settings, tmp_path, changes):
    """Two sidecars in one process do not share figures: no registry but their own."""
    fields = {**vars(settings), **changes}
    second = Settings(**{**fields, "db": tmp_path / "b.db"})
    with (
        TestClient(create_app(Sidecar(Settings(**fields)), static_dir=tmp_path)) as one,
        TestClient(create_app(Sidecar(second), static_dir=tmp_path)) as two,
    ):
        for _ in range(3):
            one.get("/health")
        route = {"method": "GET", "route": "/health", "status": "200"}
        assert value(scrape(one), "attn_http_requests_total", **route) == 3
        samples = scrape(two)
        assert value(samples, "attn_http_requests_total", **route) is None
        for name, _ in samples:
            assert PLAIN.fullmatch(name) or name.startswith("process_"), name
            if "size" in name or "seconds" in name or "duration" in name:
                assert name.endswith(UNITS), name


def test_durations_fall_into_their_buckets():
    durations = Durations()
    for duration_s in (0.0, EDGES_S[0], EDGES_S[0] * 1.01, 99.0):
        durations.add(duration_s)
    counted = dict(durations.cumulative())
    assert (counted[str(EDGES_S[0])], counted[str(EDGES_S[1])], counted["10.0"], counted["+Inf"]) == (2, 3, 3, 4)
