import numpy as np
import pytest
from attention_rows import draw, fingerprint_of
from hypothesis import given
from hypothesis import strategies as st

from attn_core.features import NUM_FEATURES, features_from_vectors
from attn_core.sinkfree import sink_free
from attn_core.zones import ZONES, zone_probabilities


def token(n, weight_by_distance, *, sink=0.5, periodicity=0.05):
    """Fingerprint and companions of one row: `sink` on position 0, the rest spread by weight."""
    distance = np.arange(n)[::-1]
    rest = np.array([weight_by_distance(d) for d in distance], dtype=np.float64)
    rest[:4] = 0
    p = rest / rest.sum() * (1 - sink)
    p[0] += sink
    vector = fingerprint_of(np.broadcast_to(p, (8, 2, n)))
    return {
        "vectors": vector[None],
        "context_len": np.array([n]),
        "sink_mass": np.array([p[:4].sum()]),
        "periodicity": np.array([periodicity]),
    }


EXAMPLES = {
    "syntax_floor": token(300, lambda d: 1.0 if d < 3 else 1e-4),
    "semantic_bridge": token(300, lambda d: 1.0 if d in (40, 41, 60) else 0.002),
    "structure_ripple": token(300, lambda d: 1 / (d + 1), periodicity=0.8),
    "long_range": token(600, lambda d: 1.0 if 300 <= d < 310 else 0.001),
    "diffuse": token(300, lambda d: 1.0),
}


@pytest.mark.parametrize("zone", ZONES)
def test_each_zone_is_reached_by_what_its_name_says(zone):
    probabilities = zone_probabilities(**EXAMPLES[zone])
    assert ZONES[int(probabilities.argmax())] == zone


def test_the_same_reach_is_more_syntax_the_sharper_it_is():
    """Equal shares by distance; one token spreads its local half over ten positions, the other puts it on one."""

    def far(d):
        return 0.5 / 290 if d >= 10 else 0.0

    sharp = token(300, lambda d: 0.5 if d == 1 else far(d))
    spread = token(300, lambda d: 0.05 if d < 10 else far(d))
    np.testing.assert_allclose(sharp["vectors"][0, :3], spread["vectors"][0, :3], atol=1e-5)
    index = ZONES.index("syntax_floor")
    p_sharp, p_spread = (zone_probabilities(**one)[0, index] for one in (sharp, spread))
    assert p_sharp > p_spread


@given(st.integers(0, 2**31))
def test_probabilities_are_probabilities(seed):
    drawn = draw(30, seed=seed)
    p = zone_probabilities(
        drawn.vectors, context_len=drawn.context_len, sink_mass=drawn.sink_mass, periodicity=drawn.periodicity
    )
    assert p.shape == (30, 5)
    assert np.isfinite(p).all()
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)


@given(st.integers(0, 2**31))
def test_features_lie_in_the_unit_cube(seed):
    drawn = draw(30, seed=seed)
    features = features_from_vectors(drawn.vectors, context_len=drawn.context_len, sink_mass=drawn.sink_mass)
    assert features.shape == (30, NUM_FEATURES)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert (features >= 0).all()
    assert (features <= 1 + 1e-6).all()


@given(st.integers(6, 900), st.floats(0.05, 0.9))
def test_taking_the_sink_out_gives_the_shares_of_the_rest(n, sink):
    """Against the same row renormalised without its first four positions."""
    rng = np.random.default_rng(n)
    rest = rng.uniform(0.1, 1, n)
    rest[:4] = 0
    p = rest / rest.sum() * (1 - sink)
    p[0] = sink
    vector = fingerprint_of(np.broadcast_to(p, (8, 1, n)))[None]
    free = sink_free(vector, context_len=np.array([n]), sink_mass=np.array([sink]))
    q = p.copy()
    q[:4] = 0
    q /= q.sum()
    distance = np.arange(n)[::-1]
    expected = [q[(distance >= a) & (distance < b)].sum() for a, b in ((0, 10), (10, 100), (100, 10**9))]
    np.testing.assert_allclose(free.shares[0], expected, atol=2e-3)
    if n > 5:
        entropy = -(q[q > 0] * np.log(q[q > 0])).sum() / np.log(n - 4)
        assert free.evenness[0] == pytest.approx(entropy, abs=5e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_contexts_shorter_than_the_sink_still_answer(n):
    vector = fingerprint_of(np.full((8, 1, n), 1 / n))[None]
    p = zone_probabilities(
        vector, context_len=np.array([n]), sink_mass=np.array([min(1.0, 4 / n)]), periodicity=np.array([0.0])
    )
    assert np.isfinite(p).all()
