"""`--online`: novelty and drift with their intervals, followed prototypes, and the request for an early run."""

import dataclasses
import json
import time

import msgspec
import numpy as np
import pytest
from sidecar_tools import WAIT_S, publish_bundle, random_rows
from starlette.testclient import TestClient

from attn_core import early_run, wire
from attn_core.baseline import FILE_NAME, Baseline, baseline_from_answers
from attn_core.early_run import EarlyRun
from attn_core.errors import BundleError, SettingsError
from attn_core.features import NUM_FEATURES, features_from_vectors
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.health import HealthBoard
from attn_sidecar.online.asking import Asker
from attn_sidecar.online.bounds import Bounds
from attn_sidecar.online.departure import NUM_GROUPS, Departure, Interval
from attn_sidecar.online.followed import FollowedCentres

FIRST, SECOND = "2026-01-10T04-02-11", "2026-01-10T05-00-00"
TOKENS_A_REQUEST = 50


def clustered(num_requests, *, seed, unclaimed=0.1, moved=0.0, request_spread=0.5):
    """Features, clusters and groups of requests whose tokens share an offset: two clusters, radius about 1."""
    rng = np.random.default_rng(seed)
    centre = np.zeros((2, NUM_FEATURES))
    centre[1, 0] = 10.0
    features, clusters, groups = [], [], []
    for request in range(num_requests):
        # A request is of one kind, or of none, as a whole: nothing is further from independent draws.
        kind = -1 if rng.random() < unclaimed else int(rng.integers(0, 2))
        offset = rng.normal(0, request_spread / np.sqrt(NUM_FEATURES), NUM_FEATURES)
        noise = rng.normal(0, np.sqrt((1 - request_spread**2) / NUM_FEATURES), (TOKENS_A_REQUEST, NUM_FEATURES))
        points = centre[max(kind, 0)] + offset + noise
        points[:, 1] += moved
        features.append(points)
        clusters += [kind] * TOKENS_A_REQUEST
        groups += [request % NUM_GROUPS] * TOKENS_A_REQUEST
    return np.concatenate(features), np.array(clusters), np.array(groups)


def baseline(seed=0, num_requests=400):
    features, clusters, _ = clustered(num_requests, seed=seed)
    return baseline_from_answers(features, clusters, cluster_ids=np.array([0, 1]))


def departure_of(features, clusters, groups, *, of=None):
    found = Departure(of or baseline())
    found.take(features, cluster_ids=clusters, group=groups)
    return found


def test_what_the_run_saw_is_neither_new_nor_moved():
    """Correlated tokens of the same kind: the intervals hold the truth in nearly all of 60 draws."""
    held = base = baseline()
    novelty_held = drift_small = 0
    for seed in range(60):
        found = departure_of(*clustered(64, seed=100 + seed), of=held)
        excess = found.novelty_excess()
        novelty_held += excess.low <= 0.1 - base.num_unclaimed / base.num_rows <= excess.high
        drift_small += found.drift().low < 0.1
    assert novelty_held >= 52, "a 95% interval over requests, not over tokens"
    assert drift_small >= 57


def test_drift_is_what_the_points_have_moved():
    """A mean squared over correlated tokens would say 0.2 where nothing has moved; products across groups do not."""
    for moved in (0.0, 0.4, 0.8):
        squares = [departure_of(*clustered(160, seed=200 + s, moved=moved)).drift().value ** 2 for s in range(8)]
        assert np.mean(squares) == pytest.approx(moved**2, abs=0.06)
    strong = departure_of(*clustered(160, seed=7, moved=0.8)).drift()
    assert strong.low > 0.5


def test_the_runs_own_mean_is_not_taken_for_the_truth():
    """25 held-out rows put it a fifth of a radius off: no drift of what came later."""
    sure = baseline()
    off = sure.mean.copy()
    off[:, 2] += np.sqrt(sure.scatter / 25)
    few = dataclasses.replace(sure, num_claimed=np.array([25, 25]), mean=off)
    squares = [departure_of(*clustered(160, seed=s, request_spread=0.0), of=few).drift().value ** 2 for s in range(4)]
    assert np.mean(squares) < 0.01
    certain = dataclasses.replace(few, num_claimed=np.array([10**6, 10**6]))
    assert departure_of(*clustered(160, seed=1, request_spread=0.0), of=certain).drift().value > 0.15


def test_more_unclaimed_points_than_expected_are_an_excess():
    found = departure_of(*clustered(160, seed=3, unclaimed=0.6))
    assert found.expected_novelty() == pytest.approx(0.1, abs=0.05)
    assert found.novelty() == pytest.approx(0.6, abs=0.1)
    assert found.novelty_excess().low > 0.3


def test_one_long_request_proves_nothing():
    features, clusters, _ = clustered(64, seed=1, unclaimed=1.0)
    alone = departure_of(features, clusters, np.zeros(len(features), dtype=np.int64))
    assert alone.novelty() == 1.0
    assert alone.novelty_excess() is None
    assert alone.drift() is None


def test_what_is_old_is_forgotten():
    found = departure_of(*clustered(160, seed=1, unclaimed=1.0))
    features, clusters, groups = clustered(160, seed=2, unclaimed=0.0)
    found.forget(0.01)
    found.take(features, cluster_ids=clusters, group=groups)
    assert found.novelty() < 0.02


def test_a_point_moves_the_centre_of_its_own_cluster_only():
    base = baseline()
    followed = FollowedCentres(base)
    point = base.mean[0] + 8.0 * np.eye(NUM_FEATURES)[0]
    followed.take(point[None], cluster_ids=np.array([0]))
    assert followed.positions[0, 0] == pytest.approx(base.mean[0, 0] + 8.0 / 21)
    assert followed.positions[1].tolist() == base.mean[1].tolist()
    followed.take(point[None], cluster_ids=np.array([-1]))
    assert followed.positions[0, 0] == pytest.approx(base.mean[0, 0] + 8.0 / 21)


def test_centres_follow_and_the_served_ones_stay():
    features, clusters, _ = clustered(40, seed=1, unclaimed=0.0, moved=0.5)
    base = baseline()
    before = base.mean.copy()
    followed = FollowedCentres(base)
    assert followed.shift() is None
    for _ in range(5):
        followed.forget(0.5)
        followed.take(features, cluster_ids=clusters)
    assert followed.positions[:, 1] == pytest.approx([0.5, 0.5], abs=0.15)
    assert followed.shift() == pytest.approx(0.5, abs=0.15)
    assert (base.mean == before).all()


def test_a_baseline_comes_back_as_it_was_saved(tmp_path):
    saved = baseline()
    saved.save(tmp_path / FILE_NAME)
    loaded = Baseline.load(tmp_path / FILE_NAME)
    for name, value in vars(saved).items():
        assert np.array_equal(getattr(loaded, name), value), name
    (tmp_path / FILE_NAME).write_bytes(b"PK no baseline")
    with pytest.raises(BundleError, match="not a baseline"):
        Baseline.load(tmp_path / FILE_NAME)


@pytest.mark.parametrize(
    ("bad", "flag"),
    [
        ({"novelty": 0.0}, "--online-novelty"),
        ({"novelty": float("nan")}, "--online-novelty"),
        ({"drift": -1.0}, "--online-drift"),
        ({"min_points": 0}, "--online-min-points"),
        ({"half_life_points": 0}, "--online-half-life"),
    ],
)
def test_a_bound_that_cannot_be_used_is_named(bad, flag):
    with pytest.raises(SettingsError, match=flag):
        Bounds(**bad)


def interval(value, half_width=0.01):
    return Interval(value=value, low=value - half_width, high=value + half_width)


@pytest.fixture
def asker(tmp_path):
    made = Asker(tmp_path / "runs", health=HealthBoard(), now_us=lambda: 42)
    made.serve(FIRST)
    return made


def judge(asker, *, novelty=0.0, drift=0.0, half_width=0.01):
    excess, moved = interval(novelty, half_width), interval(drift, half_width)
    asker.judge(FIRST, novelty_excess=excess, drift=moved, bounds=Bounds())


def test_a_bound_is_passed_with_the_whole_interval_and_left_far_below(asker, tmp_path):
    judge(asker, novelty=0.2, half_width=0.1)
    assert early_run.asked(tmp_path / "runs") is None, "the interval still holds the bound"
    judge(asker, novelty=0.2)
    standing = early_run.asked(tmp_path / "runs")
    assert (standing.run_id, standing.reason, standing.asked_at_us) == (FIRST, "novelty", 42)
    assert "0.200" in standing.evidence
    judge(asker, novelty=0.1)
    assert early_run.asked(tmp_path / "runs") == standing, "below the bound, and not far enough"
    judge(asker, novelty=0.05)
    assert early_run.asked(tmp_path / "runs") is None
    judge(asker, drift=0.6)
    assert early_run.asked(tmp_path / "runs").reason == "drift"


def test_a_request_outlives_the_process_and_ends_with_its_run(asker, tmp_path):
    judge(asker, drift=0.9)
    again = Asker(tmp_path / "runs", health=HealthBoard(), now_us=lambda: 77)
    again.serve(FIRST)
    assert again.standing.asked_at_us == 42
    judge(again, drift=0.9)
    assert early_run.asked(tmp_path / "runs").asked_at_us == 42, "not asked twice"
    again.serve(SECOND)
    assert early_run.asked(tmp_path / "runs") is None


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    health = HealthBoard()
    asker = Asker(tmp_path / "runs", health=health, now_us=lambda: 42)
    asker.serve(FIRST)
    judge(asker, drift=0.9)
    assert health.reasons[0].startswith("online: ")
    assert not health.blocked
    (tmp_path / "runs").unlink()
    judge(asker, drift=0.9)
    assert health.reasons == []
    assert early_run.asked(tmp_path / "runs").reason == "drift"


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 9}', '{"schema_version": 1, "reason": "boredom"}'])
def test_a_request_that_is_none_is_refused(tmp_path, text):
    (tmp_path / early_run.FILE_NAME).write_text(text)
    with pytest.raises(BundleError):
        early_run.asked(tmp_path)
    Asker(tmp_path, health=HealthBoard(), now_us=lambda: 0).serve(FIRST)
    assert early_run.asked(tmp_path) is None, "the sidecar clears it away"


def test_a_request_is_written_whole(tmp_path):
    request = EarlyRun(run_id=FIRST, reason="drift", evidence="moved", asked_at_us=5)
    early_run.ask(tmp_path, request)
    assert early_run.asked(tmp_path) == request
    assert [path.name for path in tmp_path.iterdir()] == [early_run.FILE_NAME]
    assert json.loads((tmp_path / early_run.FILE_NAME).read_text())["schema_version"] == 1


def publish_with_baseline(folder, *, run_id=FIRST, num_points=400):
    """A run over random tokens, with a baseline over the same."""
    rows = random_rows(num_points, seed=1, request_id="seen")
    features = features_from_vectors(
        wire.vectors_from_rows(rows),
        context_len=rows.column("context_len").to_numpy(),
        sink_mass=rows.column("sink_mass").to_numpy(),
    )
    clusters = np.repeat([3, 5], num_points // 2)
    found = baseline_from_answers(features, clusters, cluster_ids=np.array([3, 5]))
    publish_bundle(folder, run_id=run_id, num_points=num_points, more=lambda path: found.save(path / FILE_NAME))


def online(client, sidecar, holds):
    """The figures of `/stats` once they hold this; the thread that follows comes after the acknowledgement."""
    deadline = time.monotonic() + WAIT_S
    while not holds(msgspec.to_builtins(sidecar.online.figures())):
        assert time.monotonic() < deadline, sidecar.online.figures()
    return client.get("/stats").json()["online"]


def send(sender, *, seed, requests, tokens=25):
    for k in range(requests):
        sender.send(random_rows(tokens, seed=seed + k, request_id=f"{seed}-{k}"))
    sender.hear_all()


def test_novelty_asks_for_an_early_run_and_a_new_run_answers_it(client, sidecar, settings, sender):
    publish_with_baseline(settings.discovery_dir)
    client.post("/discovery/reload")
    clusters = client.get("/clusters").json()
    send(sender, seed=500, requests=20)
    figures = online(client, sidecar, lambda f: f["num_points"] == 500)
    assert figures["not_judged"] == "500 of the 1000 points that are needed have come"
    assert figures["early_run_asked_at_us"] is None
    send(sender, seed=600, requests=30)
    figures = online(client, sidecar, lambda f: f["early_run_reason"] is not None)
    assert figures["early_run_reason"] == "novelty"
    assert figures["novelty_expected"] == 0.0
    assert figures["novelty_excess_interval"][0] > figures["novelty_bound"]
    assert early_run.asked(settings.discovery_dir).run_id == FIRST
    assert client.get("/clusters").json() == clusters, "what is served has not changed"
    publish_with_baseline(settings.discovery_dir, run_id=SECOND)
    client.post("/discovery/reload")
    figures = online(client, sidecar, lambda f: f["run_id"] == SECOND)
    assert (figures["num_points"], figures["novelty"], figures["early_run_reason"]) == (0, None, None)
    assert early_run.asked(settings.discovery_dir) is None


def test_a_run_without_a_baseline_is_followed_and_not_judged(client, sidecar, settings, sender):
    publish_bundle(settings.discovery_dir, run_id=FIRST)
    client.post("/discovery/reload")
    send(sender, seed=500, requests=50)
    figures = online(client, sidecar, lambda f: f["num_points"] + f["num_passed_over"] == 1250)
    assert figures["novelty"] > 0.5
    assert figures["novelty_excess"] is None
    assert FILE_NAME in figures["not_judged"]
    assert early_run.asked(settings.discovery_dir) is None


def test_a_request_is_found_again_after_a_restart(settings, tmp_path):
    publish_with_baseline(settings.discovery_dir)
    early_run.ask(settings.discovery_dir, EarlyRun(run_id=FIRST, reason="drift", evidence="", asked_at_us=5))
    for _ in range(2):
        sidecar = Sidecar(settings)
        with TestClient(create_app(sidecar, static_dir=tmp_path / "static")) as client:
            assert online(client, sidecar, lambda f: f["run_id"] == FIRST)["early_run_asked_at_us"] == 5
