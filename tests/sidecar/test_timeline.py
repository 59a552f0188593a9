"""`/zones/timeline`, `/runs` and `/clusters/{id}`: what the store and the discovery folder know together."""

from collections import Counter
from contextlib import closing

import pytest
from sidecar_tools import START_US, publish_bundle, random_rows, request_row

from attn_core.store import HOUR_US, open_writer, record_run
from attn_sidecar.store.history import hour_counts
from attn_sidecar.store.reader import Reader

FIRST, SECOND, FAILED = "2026-01-10T04-02-11", "2026-01-10T05-00-00", "2026-01-10T06-00-00"
HOUR_START_US = START_US // HOUR_US * HOUR_US


@pytest.fixture
def hours(client, sender):
    """Tokens in two hours with an empty one between them."""
    for number, start_us in enumerate((START_US, START_US + 2 * HOUR_US)):
        sender.send(random_rows(20, seed=number, request_id=f"h{number}", start_us=start_us))
    sender.hear_all()
    return client


def test_each_hour_counts_its_tokens(hours):
    body = hours.get("/zones/timeline").json()
    assert [one["hour_start_us"] for one in body["hours"]] == [HOUR_START_US, HOUR_START_US + 2 * HOUR_US]
    for number, hour in enumerate(body["hours"]):
        tokens = hours.get(f"/requests/h{number}").json()["tokens"]
        zones = Counter(token["zone"] for token in tokens)
        assert (hour["model_id"], hour["num_fingerprints"]) == ("demo-model", 20)
        assert {one["zone"]: one["num_fingerprints"] for one in hour["zones"]} == zones
        assert sum(one["share"] for one in hour["zones"]) == pytest.approx(1, abs=1e-5)
        assert hour["clusters"] == [{"cluster_id": -1, "num_fingerprints": 20, "share": 1.0}]
        mean = sum(token["confidence"] for token in tokens) / 20
        assert hour["mean_confidence"] == pytest.approx(mean, abs=1e-5)
        for one in hour["zones"]:
            held = [token["confidence"] for token in tokens if token["zone"] == one["zone"]]
            assert one["mean_confidence"] == pytest.approx(sum(held) / len(held), abs=1e-5)
    assert body["hours"][0]["hour_utc"] == "2023-11-14T22:00Z"


def test_a_range_holds_its_first_instant_and_not_its_last(hours):
    params = {"from_us": START_US + 3000, "to_us": START_US + 5000}
    [hour] = hours.get("/zones/timeline", params=params).json()["hours"]
    assert hour["num_fingerprints"] == 2


def test_an_empty_store_has_no_hours(client):
    assert client.get("/zones/timeline").json()["hours"] == []


@pytest.mark.parametrize("query", ["from_us=0&to_us=1700000000000000", "from_us=2&to_us=1", "from_us=-1", "to_us=x"])
def test_a_range_that_is_none(client, query):
    answer = client.get(f"/zones/timeline?{query}")
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[1]) == (422, "query-invalid")


def test_the_hours_are_found_by_their_index_and_in_privacy_mode_too(hours, settings):
    """In privacy mode the tables are views, in which the index must still be used."""
    for privacy in (False, True):
        with closing(Reader(settings.db, privacy=privacy)) as reader:
            [plan, *_] = reader.rows(
                "EXPLAIN QUERY PLAN SELECT count(*), total(zone_confidence) FROM tokens "
                "WHERE captured_at_us >= 1 AND captured_at_us < 2 GROUP BY captured_at_us / 5, model_no"
            )
            assert "tokens_captured_at" in str(plan[3])
            assert sum(one.num_fingerprints for one in hour_counts(reader, from_us=0, to_us=2**60)) == 40


@pytest.fixture
def runs(client, settings):
    publish_bundle(settings.discovery_dir, run_id=FIRST)
    publish_bundle(settings.discovery_dir, run_id=SECOND)
    client.post("/discovery/reload")
    times = {"started_at_us": 1, "ended_at_us": 2, "window_start_us": 0, "window_end_us": 1}
    with closing(open_writer(settings.db)) as connection:
        record_run(connection, {"run_id": SECOND, "status": "published", **times, "metrics": {"validity": 0.9}})
        record_run(connection, {"run_id": FAILED, "status": "failed", **times, "error": "no fingerprints"})
    return client


def test_runs_of_the_database_and_of_the_folder_are_one_list(runs):
    found = runs.get("/runs").json()["runs"]
    assert [(one["run_id"], one["status"], one["available"], one["served"]) for one in found] == [
        (FAILED, "failed", False, False),
        (SECOND, "published", True, True),
        (FIRST, "published", True, False),
    ]
    assert (found[0]["error"], found[1]["metrics"], found[2]["metrics"]) == ("no fingerprints", {"validity": 0.9}, None)
    assert [one["run_id"] for one in runs.get("/runs", params={"status": "failed"}).json()["runs"]] == [FAILED]


def test_runs_come_in_pages(runs):
    seen, before = [], None
    while True:
        params = {"limit": 1, **({} if before is None else {"before": before})}
        page = runs.get("/runs", params=params).json()
        seen += [one["run_id"] for one in page["runs"]]
        before = page["next_before"]
        if before is None:
            break
    assert seen == [FAILED, SECOND, FIRST]


def test_one_run(runs):
    body = runs.get(f"/runs/{FIRST}").json()
    assert (body["run"]["run_id"], body["problem"]) == (FIRST, None)
    assert [one["cluster_id"] for one in body["lineage"]] == [3, 5]
    assert runs.get(f"/runs/{FAILED}").json()["lineage"] == []
    assert runs.get("/runs/2020-01-01T00-00-00").status_code == 404


def test_a_run_whose_bundle_is_torn_says_so(runs, settings):
    settings.discovery_dir.joinpath(FIRST, "classifier.npz").write_bytes(b"PK torn")
    assert "classifier.npz" in runs.get(f"/runs/{FIRST}").json()["problem"]


def test_a_cluster_shows_its_exemplars_in_their_text(runs, sender):
    sender.send(request_row("started", request_id="seen"), kind="requests")
    sender.send(random_rows(40, seed=1, request_id="seen"))
    sender.hear_all()
    body = runs.get("/clusters/3").json()
    assert (body["run_id"], body["cluster"]["cluster_label"], body["zones"]) == (SECOND, "Cluster 3", [])
    [exemplar] = body["exemplars"]
    assert (exemplar["token"]["request_id"], exemplar["token"]["step"]) == ("seen", 0)
    assert exemplar["text_before"] == "What is 2+2?"
    assert exemplar["text_after"] == " t1 t2 t3 t4 t5 t6"


def test_an_exemplar_that_the_store_no_longer_holds_is_named_all_the_same(runs):
    [exemplar] = runs.get("/clusters/3", params={"run": FIRST}).json()["exemplars"]
    assert exemplar == {"request_id": "seen", "step": 0, "token": None, "text_before": None, "text_after": None}
    assert runs.get("/clusters/99").status_code == 404


def test_json_is_compressed_for_who_takes_it(runs):
    plain = runs.get("/clusters", headers={"accept-encoding": "identity"})
    packed = runs.get("/clusters", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json() == plain.json()
    assert packed.headers["etag"] != plain.headers["etag"]
    for tag in (packed.headers["etag"], plain.headers["etag"]):
        assert runs.get("/clusters", headers={"if-none-match": tag}).status_code == 304
    refused = runs.get("/clusters", headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers
    assert "content-encoding" not in runs.get("/points").headers
    assert "content-encoding" not in runs.get("/health").headers
