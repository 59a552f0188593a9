from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from attention_rows import draw

from attn_core.classify import Classifier, ClassifierArrays, cluster_label, no_clusters
from attn_core.errors import BundleError
from attn_core.features import NUM_FEATURES, features_from_vectors
from attn_core.zones import ZONES

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
        cluster_curve=np.array([[0, 1], [0.5, 0.99]], dtype=np.float32),
        unclaimed_confidence=np.array([0.25], dtype=np.float32),
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
    expected = [by_hand(arrays, feature) for feature in FEATURES.astype(np.float64)]
    assert {None, 0, 1} <= set(expected)
    ids = [-1 if c is None else int(arrays.cluster_ids[c]) for c in expected]
    assert answer.cluster_id.tolist() == ids
    claimed = answer.cluster_id >= 0
    assert (answer.cluster_confidence[claimed] >= 0.5).all()
    assert (answer.cluster_confidence[~claimed] == 0.25).all()


def test_a_cluster_changes_neither_zone_nor_its_confidence():
    alone = Classifier.without_run().classify(DRAWN.vectors, **COMPANIONS)
    with_clusters = Classifier(two_clusters(), run_id="r").classify(DRAWN.vectors, **COMPANIONS)
    np.testing.assert_array_equal(alone.zone_index, with_clusters.zone_index)
    np.testing.assert_array_equal(alone.confidence, with_clusters.confidence)


def test_what_lies_nearer_to_an_unclaimed_prototype_is_not_claimed():
    arrays = replace(two_clusters(), cluster_radius=np.array([9, 9], dtype=np.float32))
    assert (Classifier(arrays, run_id="r").classify(DRAWN.vectors, **COMPANIONS).cluster_id >= 0).all()
    unclaimed = replace(arrays, unclaimed_prototypes=FEATURES[5:200])
    answer = Classifier(unclaimed, run_id="r").classify(DRAWN.vectors, **COMPANIONS)
    assert (answer.cluster_id[5:200] == -1).all()
    assert answer.cluster_id[:5].tolist() == [4, 4, 4, 9, 9]


def test_a_prototype_itself_is_claimed_with_the_highest_confidence():
    classifier = Classifier(two_clusters(), run_id="r")
    answer = classifier.classify(DRAWN.vectors[:5], **{k: v[:5] for k, v in COMPANIONS.items()})
    assert answer.cluster_id.tolist() == [4, 4, 4, 9, 9]
    np.testing.assert_allclose(answer.cluster_confidence, 0.99)


def test_any_number_of_threads_and_single_rows_give_the_same_bytes():
    rows = draw(5000, seed=6, longest=60)
    given = {"context_len": rows.context_len, "sink_mass": rows.sink_mass, "periodicity": rows.periodicity}
    classifier = Classifier(two_clusters(), run_id="r")
    whole = classifier.classify(rows.vectors, **given, with_evidence=True)
    shared = classifier.classify(rows.vectors, **given, with_evidence=True, threads=3)
    for name, values in vars(whole).items():
        assert values.tobytes() == getattr(shared, name).tobytes()
    for i in range(0, 5000, 701):
        one = classifier.classify(rows.vectors[i : i + 1], **{k: v[i : i + 1] for k, v in given.items()})
        for name in ("zone_index", "confidence", "cluster_id", "cluster_confidence"):
            assert getattr(one, name)[0].tobytes() == getattr(whole, name)[i].tobytes()


def test_before_the_first_run_there_are_zones_and_no_clusters():
    classifier = Classifier.without_run()
    assert classifier.run_id is None
    answer = classifier.classify(DRAWN.vectors, **COMPANIONS)
    assert set(answer.cluster_id.tolist()) == {-1}
    assert set(answer.zones()) <= set(ZONES)
    assert len(set(answer.zones())) >= 4


def test_unknown_companions_lower_the_confidence():
    classifier = Classifier.without_run()
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
        {"unclaimed_prototypes": np.zeros((2, 4), dtype=np.float32)},
        {"unclaimed_confidence": np.array([1.5], dtype=np.float32)},
        {"cluster_curve": np.array([[0, 1], [0.5, 1.5]], dtype=np.float32)},
        {"prototype_start": np.array([0, 5], dtype=np.int32)},
        {"prototype_start": np.array([1, 3], dtype=np.int32)},
        {"cluster_ids": np.array([1], dtype=np.int32)},
        {"cluster_curve": np.zeros(3, dtype=np.float32)},
        {"cluster_curve": np.zeros((2, 0), dtype=np.float32)},
        {"cluster_curve": np.array([[0, 1], [0.5, np.nan]], dtype=np.float32)},
        {"cluster_curve": np.array([[0, np.nan], [0.5, 0.9]], dtype=np.float32)},
        {"cluster_curve": np.array([[1, 0], [0.5, 0.9]], dtype=np.float32)},
        {"unclaimed_confidence": np.array([np.nan], dtype=np.float32)},
        {"cluster_radius": np.array([np.inf, 1], dtype=np.float32)},
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
    np.savez(tmp_path / "e.npz", features_version=99, **vars(no_clusters()))
    with pytest.raises(BundleError, match="features version 99"):
        ClassifierArrays.load(tmp_path / "e.npz")


def test_labels():
    assert cluster_label(3) == "Cluster 3"
    assert cluster_label(-1) == "Unclustered"
