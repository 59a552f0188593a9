"""`/compare`: intervals that hold, effects in order, and two sides of any kind."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidecar_tools import publish_bundle, random_rows

from attn_core.fingerprint import NAMES
from attn_sidecar.comparison import (
    Labelled,
    effective_num,
    feature_differences,
    share_difference,
    share_of,
    wilson,
)

FIRST, SECOND = "2026-01-10T04-02-11", "2026-01-10T05-00-00"


@pytest.mark.parametrize(
    ("share", "num", "low", "high"),
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    [
        (81 / 263, 263, 0.2553, 0.3662),
        (15 / 148, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1 / 29, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_as_published(share, num, low, high):
    assert wilson(share, num) == pytest.approx((low, high), abs=6e-5)


def independent(count, hits):
    labels = np.array([1] * hits + [0] * (count - hits))
    return Labelled(requests=np.arange(count), labels=labels)


def test_newcombes_interval_as_published():
    """Newcombe (1998), table II (a): 56 of 70 against 48 of 80; tokens of requests of their own are independent."""
    a, _ = share_of(independent(80, 48), 1)
    b, _ = share_of(independent(70, 56), 1)
    found = share_difference(a, b)
    assert (found.difference, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=2e-3)


@given(st.integers(2, 40), st.integers(1, 30))
def test_tokens_that_repeat_their_request_count_as_one(num_requests, each):
    rng = np.random.default_rng(num_requests * 100 + each)
    of_request = rng.integers(0, 2, num_requests).astype(float)
    found = effective_num(np.repeat(of_request, each), np.repeat(np.arange(num_requests), each))
    assert found <= num_requests + 1e-6
    assert found >= min(num_requests - 1, 1) - 1e-6


def test_the_interval_of_a_share_holds_it_as_often_as_it_says():
    """500 samples of 40 requests whose tokens resemble one another: plain Wilson would miss far more than 5%."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(500):
        chance = rng.beta(2, 3, 40)
        labels = (rng.random((40, 50)) < chance[:, None]).astype(int).ravel()
        share, _ = share_of(Labelled(requests=np.repeat(np.arange(40), 50), labels=labels), 1)
        held += share.low <= 0.4 <= share.high
    assert 0.92 <= held / 500 <= 0.98


def test_effects_are_in_units_of_the_spread_and_in_order():
    rng = np.random.default_rng(4)
    a, b = (rng.normal(size=(4000, 20)).astype(np.float32) for _ in range(2))
    b[:, 3] = b[:, 3] * 1 + 0.8
    b[:, 15] -= 0.3
    each = np.arange(4000)
    found = feature_differences(a, b, requests_a=each, requests_b=each)
    assert [one.name for one in found[:2]] == [NAMES[3], NAMES[15]]
    assert found[0].effect == pytest.approx(0.8, abs=0.06)
    assert found[1].effect == pytest.approx(-0.3, abs=0.06)
    assert all(one.low <= one.effect <= one.high for one in found)
    assert found[0].high - found[0].low == pytest.approx(2 * 1.96 * math.sqrt(2 / 4000), rel=0.1)


def test_a_number_that_never_varies_has_no_effect():
    flat = np.ones((10, 20), np.float32)
    found = feature_differences(flat, flat * 2, requests_a=np.arange(10), requests_b=np.arange(10))
    assert {one.effect for one in found} == {0.0}


@pytest.fixture
def stored(client, sender, settings):
    publish_bundle(settings.discovery_dir, run_id=FIRST)
    publish_bundle(settings.discovery_dir, run_id=SECOND, num_points=60, seed=2, cluster_ids=(3, 8))
    client.post("/discovery/reload")
    sender.send(random_rows(60, seed=2, request_id="seen"))
    sender.send(random_rows(30, seed=9, request_id="later", start_us=1_700_003_600_000_000))
    sender.hear_all()
    return client


def test_two_runs(stored):
    body = stored.get("/compare", params={"a_run": FIRST, "b_run": SECOND}).json()
    assert (body["a"]["num_fingerprints"], body["b"]["num_fingerprints"]) == (40, 60)
    assert (body["a"]["num_requests"], body["b"]["num_vectors"]) == (1, 60)
    clusters = {one["cluster_id"]: one for one in body["clusters"]}
    assert {number: (one["a"]["share"], one["b"]["share"]) for number, one in clusters.items()} == {
        3: (0.5, 0.5),
        5: (0.5, 0.0),
        8: (0.0, 0.5),
    }
    assert clusters[8]["difference"] == 0.5
    assert len(body["features"]) == 20


def test_two_hours_of_one_model(stored):
    hours = [one["hour_utc"] for one in stored.get("/zones/timeline").json()["hours"]]
    body = stored.get("/compare", params={"a_hour": hours[0], "b_hour": hours[1], "b_model": "demo-model"}).json()
    assert (body["a"]["num_fingerprints"], body["b"]["num_fingerprints"]) == (60, 30)
    for zone in body["zones"]:
        assert zone["low"] <= zone["difference"] <= zone["high"]
        assert zone["difference"] == pytest.approx(zone["b"]["share"] - zone["a"]["share"], abs=2e-6)
    effects = [abs(one["effect"]) for one in body["features"]]
    assert effects == sorted(effects, reverse=True)


def test_a_side_without_tokens_is_said_and_not_guessed(stored):
    body = stored.get("/compare", params={"a_model": "another", "b_run": FIRST}).json()
    assert (body["a"]["num_fingerprints"], body["features"]) == (0, [])
    assert all((one["a"]["low"], one["a"]["high"]) == (0, 1) for one in body["zones"])


@pytest.mark.parametrize(("query", "status"), [("a_run=" + FIRST, 422), ("a_model=x&b_run=2020-01-01T00-00-00", 404)])
def test_a_side_that_is_none(stored, query, status):
    assert stored.get(f"/compare?{query}").status_code == status
