from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from attention_rows import draw

from attn_core.classify import Classifier, ClassifierArrays, cluster_label, no_clusters
from attn_core.errors import BundleError
from attn_core.features import NUM_FEATURES, features_from_vectors
from attn_core.zones import ZONES, zone_probabilities

DRAWN = draw(400, seed=2)
COMPANIONS = {
    "context_len": DRAWN.context_len,
    "sink_mass": DRAWN.sink_mass,
    "periodicity": DRAWN.periodicity,
}
FEATURES = features_from_vectors(DRAWN.vectors, context_len=DRAWN.context_len, sink_mass=DRAWN.sink_mass)


def two_clusters():
    """Prototypes are drawn points: the first three make cluster 4, the next two cluster 9."""
    return ClassifierArrays(
        prototypes=FEATURES[:5],
        prototype_start=np.array([0, 3], dtype=np.int32),
        cluster_ids=np.array([4, 9], dtype=np.int32),
        cluster_radius=np.array([0.35, 0.2], dtype=np.float32),
        cluster_zone_lift=np.array([[1, 3, 1, 0.5, 1], [0.2, 1, 1, 1, 6]], dtype=np.float32),
        claimed_curve=np.array([[0, 1], [0.5, 0.99]], dtype=np.float32),
        unclaimed_curve=np.array([[0, 1], [0.1, 0.4]], dtype=np.float32),
    )


def by_hand(arrays, feature):
    """Cluster position of one point by the definition, or None."""
    bounds = [*arrays.prototype_start, len(arrays.prototypes)]
    distances = [min(np.linalg.norm(feature - p) for p in arrays.prototypes[a:b]) for a, b in pairwise(bounds)]
    best = int(np.argmin(distances))
    return best if distances[best] <= arrays.cluster_radius[best] else None


def test_points_go_to_the_nearest_prototype_within_reach():
    arrays = two_clusters()
    answer = Classifier(arrays, run_id="r").classify(DRAWN.vectors, **COMPANIONS)
    own = zone_probabilities(DRAWN.vectors, **COMPANIONS).astype(np.float64)
    expected = [by_hand(arrays, feature) for feature in FEATURES.astype(np.float64)]
    assert {None, 0, 1} <= set(expected)
    ids = [-1 if c is None else int(arrays.cluster_ids[c]) for c in expected]
    lifts = [np.ones(5) if c is None else arrays.cluster_zone_lift[c] for c in expected]
    zones = [np.argmax(np.maximum(probability, 1e-6) * lift) for probability, lift in zip(own, lifts, strict=True)]
    assert answer.cluster_id.tolist() == ids
    assert answer.zone_index.tolist() == [int(z) for z in zones]
    claimed = answer.cluster_id >= 0
    assert (answer.confidence[claimed] >= 0.5).all()
    assert (answer.confidence[~claimed] <= 0.4 + 1e-6).all()


def test_a_prototype_itself_is_claimed_with_the_highest_confidence():
    classifier = Classifier(two_clusters(), run_id="r")
    answer = classifier.classify(DRAWN.vectors[:5], **{k: v[:5] for k, v in COMPANIONS.items()})
    assert answer.cluster_id.tolist() == [4, 4, 4, 9, 9]
    assert (answer.confidence > 0.5).all()


def test_batches_and_single_rows_agree():
    classifier = Classifier(two_clusters(), run_id="r")
    whole = classifier.classify(DRAWN.vectors, **COMPANIONS)
    for i in range(0, 60, 7):
        one = classifier.classify(DRAWN.vectors[i : i + 1], **{k: v[i : i + 1] for k, v in COMPANIONS.items()})
        assert one.zone_index[0] == whole.zone_index[i]
        assert one.cluster_id[0] == whole.cluster_id[i]
        assert one.confidence[0] == pytest.approx(whole.confidence[i], abs=1e-5)


def test_rules_answer_before_the_first_run_and_say_so():
    classifier = Classifier.rules()
    assert classifier.run_id is None
    answer = classifier.classify(DRAWN.vectors, **COMPANIONS)
    assert set(answer.cluster_id.tolist()) == {-1}
    assert answer.confidence.max() <= 0.6 + 1e-6
    assert set(answer.zones()) <= set(ZONES)
    assert len(set(answer.zones())) >= 4


def test_unknown_companions_lower_the_confidence():
    classifier = Classifier.rules()
    known = classifier.classify(DRAWN.vectors, **COMPANIONS)
    for missing in (("context_len",), ("sink_mass",), ("periodicity",), tuple(COMPANIONS)):
        given = {k: None if k in missing else v for k, v in COMPANIONS.items()}
        answer = classifier.classify(DRAWN.vectors, **given)
        assert np.isfinite(answer.confidence).all()
        assert ((answer.confidence >= 0) & (answer.confidence <= 1)).all()
    assert answer.confidence.mean() < known.confidence.mean()


def test_no_rows_is_no_answer_not_an_error():
    empty = Classifier(two_clusters(), run_id="r").classify(
        np.zeros((0, 20)), context_len=np.zeros(0, int), sink_mass=np.zeros(0), periodicity=np.zeros(0)
    )
    assert len(empty.zone_index) == len(empty.cluster_id) == len(empty.confidence) == 0


def test_arrays_survive_the_disk(tmp_path):
    arrays = two_clusters()
    arrays.save(tmp_path / "classifier.npz")
    loaded = ClassifierArrays.load(tmp_path / "classifier.npz")
    for name in ClassifierArrays.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(arrays, name))


@pytest.mark.parametrize(
    "wrong",
    [
        {"prototypes": np.zeros((5, NUM_FEATURES - 1), dtype=np.float32)},
        {"prototypes": np.full((5, NUM_FEATURES), np.nan, dtype=np.float32)},
        {"cluster_zone_lift": np.ones((2, 4), dtype=np.float32)},
        {"cluster_zone_lift": np.full((2, 5), -1, dtype=np.float32)},
        {"prototype_start": np.array([0, 5], dtype=np.int32)},
        {"prototype_start": np.array([1, 3], dtype=np.int32)},
        {"cluster_ids": np.array([1], dtype=np.int32)},
        {"claimed_curve": np.zeros(3, dtype=np.float32)},
    ],
)
def test_contradicting_arrays_are_refused(tmp_path, wrong):
    replace(two_clusters(), **wrong).save(tmp_path / "c.npz")
    with pytest.raises(BundleError, match="contradict one another"):
        ClassifierArrays.load(tmp_path / "c.npz")


def test_what_is_no_classifier_is_refused(tmp_path):
    for content in (b"", b"PK not really", b"x" * 500):
        (tmp_path / "c.npz").write_bytes(content)
        with pytest.raises(BundleError, match="is not a classifier"):
            ClassifierArrays.load(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", x=np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(BundleError):
        ClassifierArrays.load(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", features_version=99, zones="[]", **vars(no_clusters()))
    with pytest.raises(BundleError, match="features version 99"):
        ClassifierArrays.load(tmp_path / "e.npz")


def test_labels():
    assert cluster_label(3) == "Cluster 3"
    assert cluster_label(-1) == "Unclustered"


def test_any_number_of_threads_gives_the_same_answers():
    rng = np.random.default_rng(0)
    rows = 5_000
    vectors = rng.dirichlet(np.ones(20), rows).astype(np.float32)
    vectors[:, :3] = rng.dirichlet(np.ones(3), rows)
    vectors[:, 4:12] = rng.dirichlet(np.ones(8), rows)
    known = {
        "context_len": rng.integers(600, 900, rows),
        "sink_mass": rng.uniform(0, 0.5, rows).astype(np.float32),
        "periodicity": rng.uniform(0, 1, rows).astype(np.float32),
    }
    features = features_from_vectors(
        vectors[:64], context_len=known["context_len"][:64], sink_mass=known["sink_mass"][:64]
    )
    arrays = replace(
        no_clusters(),
        prototypes=features,
        prototype_start=np.array([0, 10, 30], dtype=np.int32),
        cluster_ids=np.array([4, 2, 9], dtype=np.int32),
        cluster_radius=np.array([0.5, 0.4, 0.3], dtype=np.float32),
        cluster_zone_lift=np.ones((3, 5), dtype=np.float32),
    )
    classifier = Classifier(arrays, run_id=None)
    alone = classifier.classify(vectors, **known)
    assert len(set(alone.cluster_id)) == 4
    for threads in (2, 3, 5):
        shared = classifier.classify(vectors, **known, threads=threads)
        np.testing.assert_array_equal(alone.cluster_id, shared.cluster_id)
        np.testing.assert_array_equal(alone.zone_index, shared.zone_index)
        np.testing.assert_array_equal(alone.confidence, shared.confidence)
