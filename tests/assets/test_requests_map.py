"""The map of requests."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from attn_assets.discovery.frame import MAX_STEP, movement
from attn_assets.discovery.renewal import LastMap
from attn_assets.discovery.requests_map import map_requests, request_features


@given(seed=st.integers(0, 999), requests=st.integers(1, 8), tokens=st.integers(1, 60))
def test_a_request_is_its_tokens_mean_spread_and_step_whatever_their_order(seed, requests, tokens):
    rng = np.random.default_rng(seed)
    request_no = np.concatenate([np.arange(requests), rng.integers(0, requests, tokens)])
    step = rng.permutation(len(request_no))
    features = rng.normal(size=(len(request_no), 4)).astype(np.float32)
    found = request_features(features, request_no=request_no, step=step)
    assert found.shape == (requests, 12)
    for one in range(requests):
        own = features[request_no == one][np.argsort(step[request_no == one])].astype(np.float64)
        np.testing.assert_allclose(found[one, :4], own.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(found[one, 4:8], own.std(axis=0), atol=1e-5)
        walked = np.abs(np.diff(own, axis=0)).mean(axis=0) if len(own) > 1 else np.zeros(4)
        np.testing.assert_allclose(found[one, 8:], walked, atol=1e-5)


def answers(count: int, *, seed: int) -> np.ndarray:
    """Features of requests of three kinds."""
    rng = np.random.default_rng(seed)
    return (np.eye(12)[rng.integers(0, 3, count)] + 0.1 * rng.normal(size=(count, 12))).astype(np.float32)


def test_requests_keep_their_place_from_hour_to_hour():
    features = answers(220, seed=0)
    ids = [f"request-{i}" for i in range(220)]
    before = map_requests(features[:200], request_ids=pa.array(ids[:200]), last=None, now_us=1, seed=0)
    known = np.concatenate([before.positions[20:], np.full((20, 2), np.nan, dtype=np.float32)])
    last = LastMap(positions=known, anchors=None)
    after = map_requests(features[20:], request_ids=pa.array(ids[20:]), last=last, now_us=2, seed=0)
    moved = movement(after.positions, known)
    assert moved.num_shared == 180
    assert moved.largest <= MAX_STEP + 1e-6
    assert after.drawn is not None
    assert after.drawn.event == "followed"
