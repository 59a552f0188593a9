"""Runs are swapped under load: every answer is of one whole run, and none is refused."""

import json
import threading

import httpx
import pytest
from sidecar_tools import WAIT_S, publish_bundle, random_rows

from attn_core.bundle import point_latest

NUM_SWAPS = 50
NUM_CALLERS = 4


def ids_of_run(number):
    """Clusters that no other run has: an answer that mixed two runs would show."""
    return (2 * number + 1, 2 * number + 2)


@pytest.fixture(scope="module")
def seen_points():
    """Two points of the runs' own, one of each cluster, as /classify takes them."""
    rows = random_rows(40, seed=1, request_id="seen").to_pylist()
    return [
        json.dumps({name: rows[at][name] for name in ("vector", "context_len", "sink_mass", "periodicity")})
        for at in (0, 39)
    ]


def test_fifty_swaps_under_load_fail_no_request_and_mix_no_runs(start_process, seen_points):
    sidecar = start_process()
    runs = {f"2026-01-10T04-{k // 60:02d}-{k % 60:02d}": ids_of_run(k) for k in range(NUM_SWAPS + 1)}
    first = next(iter(runs))
    publish_bundle(sidecar.discovery_dir, run_id=first, cluster_ids=runs[first])
    assert sidecar.client.post("/discovery/reload").json()["run_id"] == first
    over, news = threading.Event(), threading.Condition()
    answered, wrong = [], []

    def call(which):
        with httpx.Client(base_url=sidecar.http, headers={"content-type": "application/json"}) as client:
            while not over.is_set():
                answer = client.post("/classify", content=seen_points[which])
                said = answer.json()
                with news:
                    if answer.status_code != 200 or said["manifold"]["cluster_id"] != runs[said["run_id"]][which]:
                        wrong.append(answer.text)
                    answered.append(said.get("run_id"))
                    news.notify()

    callers = [threading.Thread(target=call, args=(k % 2,)) for k in range(NUM_CALLERS)]
    for caller in callers:
        caller.start()
    try:
        for run_id in runs:
            if run_id != first:
                publish_bundle(sidecar.discovery_dir, run_id=run_id, cluster_ids=runs[run_id])
                # The watcher may have been quicker; then this finds it served already.
                assert sidecar.client.post("/discovery/reload").json()["run_id"] == run_id
            with news:
                assert news.wait_for(lambda run_id=run_id: wrong or answered[-1:] == [run_id], WAIT_S)
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert not wrong, wrong[:3]
    assert set(answered) == set(runs), "every run answered while it was served"


def test_a_torn_run_between_two_good_ones_is_never_seen(start_process, seen_points, tmp_path):
    sidecar = start_process()
    good, torn, better = (f"2026-01-10T04-00-0{k}" for k in range(3))
    publish_bundle(sidecar.discovery_dir, run_id=good, cluster_ids=(1, 2))
    sidecar.client.post("/discovery/reload")
    # Torn before it is in its place: the watcher looks at any moment.
    path = publish_bundle(tmp_path / "elsewhere", run_id=torn, cluster_ids=(3, 4))
    with (path / "classifier.npz").open("r+b") as file:
        file.truncate(100)
    path.rename(sidecar.discovery_dir / torn)
    point_latest(sidecar.discovery_dir, run_id=torn)
    assert sidecar.client.post("/discovery/reload").status_code == 409
    served = sidecar.client.post("/classify", content=seen_points[0], headers={"content-type": "application/json"})
    assert (served.json()["run_id"], served.json()["manifold"]["cluster_id"]) == (good, 1)
    assert torn in sidecar.client.get("/health").json()["reasons"][0]
    publish_bundle(sidecar.discovery_dir, run_id=better, cluster_ids=(5, 6))
    assert sidecar.client.post("/discovery/reload").json()["run_id"] == better
    assert sidecar.client.get("/health").json()["status"] == "ok"
