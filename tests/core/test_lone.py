"""One vector at a time gives the answers that the whole batch gives."""

import itertools
import math

import numpy as np
import pytest
from attention_rows import draw

from attn_core.classify import Classifier, ClassifierArrays
from attn_core.features import features_from_vectors
from attn_core.lone import LoneClassifier, checked

COMPANIONS = ("context_len", "sink_mass", "periodicity")


def with_clusters(drawn):
    """Six clusters of tokens; their radii leave some tokens unclaimed."""
    features = features_from_vectors(drawn.vectors, context_len=drawn.context_len, sink_mass=drawn.sink_mass)
    curve = np.array([[0, 0.3, 1], [0.1, 0.5, 0.95]], dtype=np.float32)
    arrays = ClassifierArrays(
        prototypes=features[:60],
        prototype_start=np.arange(0, 60, 10, dtype=np.int32),
        cluster_ids=np.array([4, 1, 9, 2, 7, 0], dtype=np.int32),
        cluster_radius=np.linspace(0.3, 1.3, 6, dtype=np.float32),
        cluster_zone_lift=np.random.default_rng(3).uniform(0, 3, (6, 5)).astype(np.float32),
        claimed_curve=curve,
        unclaimed_curve=curve * np.array([[1], [0.6]], dtype=np.float32),
    )
    arrays.check()
    return Classifier(arrays, run_id="run")


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("known", list(itertools.product([False, True], repeat=3)))
def test_the_answers_are_those_of_the_batch(clustered, known):
    drawn = draw(400, seed=11)
    classifier = with_clusters(draw(60, seed=12)) if clustered else Classifier.rules()
    given = {name: getattr(drawn, name) if has else None for name, has in zip(COMPANIONS, known, strict=True)}
    batch = classifier.classify(drawn.vectors, **given)
    lone = LoneClassifier(classifier)
    different = 0
    for i, vector in enumerate(drawn.vectors):
        one = {name: None if column is None else column[i].item() for name, column in given.items()}
        row = checked(vector.tolist(), one["context_len"])
        assert row is not None
        zone, confidence, cluster_id = lone.classify(row, **one)
        same = (zone, cluster_id) == (batch.zone_index[i], batch.cluster_id[i])
        different += not same
        if same:
            assert confidence == pytest.approx(float(batch.confidence[i]), abs=2e-5)
    # Two zones within float32's last digit of each other may fall either way.
    assert different <= 1
    if clustered and all(known):
        assert 0.1 < (batch.cluster_id >= 0).mean() < 0.9


def test_short_contexts_agree_too():
    """Contexts of 1 to 12, where distance classes and the sink run into each other."""
    lone, classifier = LoneClassifier(Classifier.rules()), Classifier.rules()
    for n in range(1, 13):
        vector = np.array([1, 0, 0, 0, *[1, 0, 0, 0, 0, 0, 0, 0], *[0] * 8], dtype=np.float32)
        for sink in (0.0, 0.5, 1.0):
            want = classifier.classify(
                vector[None], context_len=np.array([n]), sink_mass=np.array([sink]), periodicity=np.array([0.3])
            )
            zone, confidence, _ = lone.classify(vector.tolist(), context_len=n, sink_mass=sink, periodicity=0.3)
            assert zone == want.zone_index[0]
            assert confidence == pytest.approx(float(want.confidence[0]), abs=2e-5)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 1.1), (1, -0.01), (3, -1.0), (3, 99.0), (5, 0.9), (13, 50.0), (2, math.inf), (19, math.nan), (7, 1e300)],
)
def test_what_breaks_an_invariant_is_left_to_the_definition(place, value):
    vector = draw(1, seed=5).vectors[0].tolist()
    assert checked(vector, 100_000) is not None
    vector[place] = value
    assert checked(vector, 100_000) is None


@pytest.mark.parametrize("count", [0, 19, 21])
def test_another_number_of_numbers_is_none(count):
    assert checked([0.0] * count, None) is None
