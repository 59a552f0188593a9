"""The map of requests."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from attn_assets.discovery.frame import MAX_STEP, movement
from attn_assets.discovery.learned_space import Coordinates
from attn_assets.discovery.renewal import LastMap
from attn_assets.discovery.requests_map import map_requests, request_features


@given(seed=st.integers(0, 999), requests=st.integers(1, 8), tokens=st.integers(1, 60), with_sketch=st.booleans())
def test_a_request_is_its_tokens_mean_and_its_first_token_whatever_their_order(seed, requests, tokens, with_sketch):
    rng = np.random.default_rng(seed)
    request_no = np.concatenate([np.arange(requests), rng.integers(0, requests, tokens)])
    step = rng.permutation(len(request_no))
    averages, sketch = (rng.normal(size=(len(request_no), width)).astype(np.float32) for width in (4, 3))
    sketch[rng.random(len(sketch)) < 0.3] = np.nan
    at = Coordinates(averages=averages, sketch=sketch if with_sketch else None)
    found = request_features(at, request_no=request_no, step=step)
    assert found.averages.shape == (requests, 8)
    assert (found.sketch is not None) is with_sketch
    for one in range(requests):
        mine = request_no == one
        own = averages[mine][np.argsort(step[mine])].astype(np.float64)
        np.testing.assert_allclose(found.averages[one], [*own.mean(axis=0), *own[0]], atol=1e-5)
        if found.sketch is None:
            continue
        of_heads = sketch[mine][np.argsort(step[mine])].astype(np.float64)
        of_heads = of_heads[~np.isnan(of_heads[:, 0])]
        expected = [*of_heads.mean(axis=0), *of_heads[0], *found.averages[one]] if len(of_heads) else [np.nan] * 14
        np.testing.assert_allclose(found.sketch[one], expected, atol=1e-5)


def answers(count: int, *, seed: int) -> np.ndarray:
    """Features of requests of three kinds."""
    rng = np.random.default_rng(seed)
    return (np.eye(12)[rng.integers(0, 3, count)] + 0.1 * rng.normal(size=(count, 12))).astype(np.float32)


def lying(features: np.ndarray) -> Coordinates:
    """Requests whose map rests on the averages."""
    return Coordinates(averages=features, sketch=None)


def test_requests_keep_their_place_from_hour_to_hour():
    features = answers(220, seed=0)
    ids = [f"request-{i}" for i in range(220)]
    before = map_requests(lying(features[:200]), request_ids=pa.array(ids[:200]), last=None, now_us=1, seed=0)
    known = np.concatenate([before.positions[20:], np.full((20, 2), np.nan, dtype=np.float32)])
    last = LastMap(positions=known, anchors=None)
    after = map_requests(lying(features[20:]), request_ids=pa.array(ids[20:]), last=last, now_us=2, seed=0)
    moved = movement(after.positions, known)
    assert moved.num_shared == 180
    assert moved.largest <= MAX_STEP + 1e-6
    assert after.drawn is not None
    assert after.drawn.event == "followed"
