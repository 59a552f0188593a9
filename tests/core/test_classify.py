from dataclasses import replace

import numpy as np
import pytest
from attention_rows import draw

from attn_core.classify import Classifier, ClassifierArrays, cluster_label, no_clusters
from attn_core.errors import BundleError
from attn_core.features import NUM_FEATURES, features_from_vectors
from attn_core.head_projection import NUM_SKETCH
from attn_core.landmarks import LEAST_SHARE, NUM_VOTES, Landmarks
from attn_core.space import Space
from attn_core.usual import KNOTS_LN_N, Usual
from attn_core.zones import HEADS, ZONES, UsualHeads, ZoneFormulas

DRAWN = draw(400, seed=2)
COMPANIONS = {
    "context_len": DRAWN.context_len,
    "sink_mass": DRAWN.sink_mass,
    "periodicity": DRAWN.periodicity,
}
FEATURES = features_from_vectors(DRAWN.vectors, context_len=DRAWN.context_len, sink_mass=DRAWN.sink_mass)


def landmarks(rows, label, *, num_clusters, cells=3):
    """Landmarks in cells by their first column; every vote of theirs is worth its share."""
    order = np.argsort(rows[:, 0], kind="stable")
    start = np.unique(np.linspace(0, len(rows), cells, endpoint=False).astype(np.int32))
    return Landmarks(
        rows=np.ascontiguousarray(rows[order], dtype=np.float32),
        label=np.asarray(label, np.int32)[order],
        position=np.ascontiguousarray(rows[order, :2], dtype=np.float32),
        cell_start=start,
        reach=np.full(num_clusters, 100, np.float32),
        claimed_curve=np.array([[0, 1], [0, 1]], np.float32),
        unclaimed_curve=np.array([[0, 1], [0.9, 0.2]], np.float32),
    )


KIND = np.digitize(FEATURES[:, 12], [0.4, 0.7]) - 1
"""Of the drawn points, by their evenness: -1, 0 or 1."""


def two_clusters(**changed):
    """The drawn points are landmarks, of no cluster, of cluster 4 or of cluster 9."""
    found = landmarks(FEATURES, KIND, num_clusters=2)
    return ClassifierArrays(cluster_ids=np.array([4, 9], dtype=np.int32), averages=replace(found, **changed))


def by_hand(arrays, feature):
    """Cluster id and share of the votes of one point, by the definition; all cells are looked into."""
    lie = arrays.averages
    order = np.argsort(np.linalg.norm(lie.rows.astype(float) - feature, axis=1), kind="stable")[:NUM_VOTES]
    votes = np.bincount(lie.label[order] + 1, minlength=3)[1:]
    share = votes.max() / len(order)
    return (int(arrays.cluster_ids[votes.argmax()]) if share >= LEAST_SHARE else -1), share


def test_a_point_is_of_the_cluster_that_its_nearest_landmarks_vote_for():
    arrays, fresh = two_clusters(), draw(300, seed=9)
    given = {"context_len": fresh.context_len, "sink_mass": fresh.sink_mass, "periodicity": fresh.periodicity}
    answer = Classifier(arrays, run_id="r").classify(fresh.vectors, **given)
    points = features_from_vectors(fresh.vectors, context_len=fresh.context_len, sink_mass=fresh.sink_mass)
    expected = [by_hand(arrays, feature) for feature in points.astype(np.float64)]
    assert {one for one, _ in expected} == {-1, 4, 9}
    assert np.mean(answer.cluster_id == [one for one, _ in expected]) > 0.99, "but for landmarks that are equally far"
    claimed = answer.cluster_id >= 0
    shares = np.array([share for _, share in expected])
    assert np.mean(np.isclose(answer.cluster_confidence[claimed], shares[claimed], atol=1e-5)) > 0.97
    assert np.mean(np.isclose(answer.cluster_confidence[~claimed], 0.9 - 0.7 * shares[~claimed], atol=1e-5)) > 0.97


def test_what_lies_beyond_a_clusters_reach_is_of_a_kind_that_was_not_seen():
    near = Classifier(two_clusters(), run_id="r").classify(DRAWN.vectors, **COMPANIONS)
    assert (near.cluster_id >= 0).any()
    arrays = two_clusters(reach=np.zeros(2, np.float32), rows=two_clusters().averages.rows + np.float32(0.5))
    far = Classifier(arrays, run_id="r").classify(DRAWN.vectors, **COMPANIONS)
    assert (far.cluster_id == -1).all()
    np.testing.assert_allclose(far.cluster_confidence.max(), 0.9)


def test_a_cluster_changes_neither_zone_nor_its_confidence():
    alone = Classifier.without_run().classify(DRAWN.vectors, **COMPANIONS)
    with_clusters = Classifier(two_clusters(), run_id="r").classify(DRAWN.vectors, **COMPANIONS)
    np.testing.assert_array_equal(alone.zone_index, with_clusters.zone_index)
    np.testing.assert_array_equal(alone.confidence, with_clusters.confidence)


def test_a_landmark_lies_where_it_lies_and_a_point_among_its_nearest():
    arrays = two_clusters()
    answer = Classifier(arrays, run_id="r").classify(DRAWN.vectors, **COMPANIONS, with_position=True)
    lie = arrays.averages.position
    assert ((answer.position >= lie.min(axis=0)) & (answer.position <= lie.max(axis=0))).all()
    assert np.abs(answer.position - FEATURES[:, :2]).max(axis=1).mean() < 0.1
    nowhere = Classifier.without_run().classify(DRAWN.vectors, **COMPANIONS, with_position=True)
    assert np.isnan(nowhere.position).all()


def sketched():
    """A run whose map rests on sketches of the matrix "m", and sketches of the drawn points: the kind says all."""
    rng = np.random.default_rng(0)
    sketch = (rng.normal(0, 3, (3, NUM_SKETCH))[KIND + 1] + rng.normal(0, 0.3, (len(KIND), NUM_SKETCH))).astype(
        np.float32
    )
    usual = Usual(mean=np.zeros((NUM_SKETCH, len(KNOTS_LN_N))), spread=np.ones((NUM_SKETCH, len(KNOTS_LN_N))))
    plain = Space.plain()
    space = replace(plain, default=replace(plain.default, sketch=usual), projection="m", projected_model="model")
    arrays = replace(two_clusters(), sketch=landmarks(sketch, KIND, num_clusters=2))
    return Classifier(arrays, run_id="r", space=space), sketch


def test_a_token_with_a_sketch_goes_by_it_and_one_without_by_its_averages():
    classifier, sketch = sketched()
    by_averages = classifier.classify(DRAWN.vectors, **COMPANIONS)
    swapped = sketch[::-1].copy()
    swapped[::5] = np.nan
    found = classifier.classify(DRAWN.vectors, **COMPANIONS, head_sketch=swapped, head_projection="m")
    kinds = np.array([4, 9, -1])[KIND[::-1]]
    lacking = np.arange(len(KIND)) % 5 == 0
    assert (found.cluster_id == kinds)[~lacking].all()
    np.testing.assert_array_equal(found.cluster_id[lacking], by_averages.cluster_id[lacking])
    other = classifier.classify(DRAWN.vectors, **COMPANIONS, head_sketch=swapped, head_projection="another")
    np.testing.assert_array_equal(other.cluster_id, by_averages.cluster_id)


def test_clusters_alone_are_those_of_classify():
    classifier, sketch = sketched()
    given = {"context_len": DRAWN.context_len, "sink_mass": DRAWN.sink_mass}
    whole = classifier.classify(DRAWN.vectors, **COMPANIONS, head_sketch=sketch, head_projection="m")
    ids, confidence = classifier.clusters_of(DRAWN.vectors, **given, head_sketch=sketch, head_projection="m", threads=2)
    np.testing.assert_array_equal(ids, whole.cluster_id)
    np.testing.assert_array_equal(confidence, whole.cluster_confidence)


def test_head_evidence_moves_a_zone_by_how_far_it_is_from_usual():
    flat = Usual(mean=np.full((5, len(KNOTS_LN_N)), 2.0), spread=np.full((5, len(KNOTS_LN_N)), 0.5))
    formula = replace(
        ZoneFormulas.shipped().default, head_slope=np.ones(5), heads=UsualHeads(projection="m", usual=flat)
    )
    classifier = Classifier(no_clusters(), run_id=None, formulas=ZoneFormulas(of_model={}, default=formula))
    evidence = np.tile(np.array([2, 3, 2, 2, 2], np.float32), (len(KIND), 1))
    found = classifier.classify(
        DRAWN.vectors, **COMPANIONS, zone_evidence=evidence, head_projection="m", with_evidence=True
    )
    np.testing.assert_allclose(found.evidence[:, HEADS : HEADS + 5], np.tile([0, 2, 0, 0, 0], (len(KIND), 1)))
    plain = classifier.classify(DRAWN.vectors, **COMPANIONS, with_evidence=True)
    assert (plain.evidence[:, HEADS : HEADS + 5] == 0).all()
    assert (found.zone_index == 1).sum() > (plain.zone_index == 1).sum()
    other = classifier.classify(DRAWN.vectors, **COMPANIONS, zone_evidence=evidence, head_projection="another")
    np.testing.assert_array_equal(other.zone_index, plain.zone_index)


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
    arrays = sketched()[0].arrays
    arrays.save(tmp_path / "classifier.npz")
    loaded = ClassifierArrays.load(tmp_path / "classifier.npz")
    np.testing.assert_array_equal(loaded.cluster_ids, arrays.cluster_ids)
    for name in Landmarks.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(loaded.averages, name), getattr(arrays.averages, name))
        np.testing.assert_array_equal(getattr(loaded.sketch, name), getattr(arrays.sketch, name))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": np.zeros((400, NUM_FEATURES - 1), dtype=np.float32)},
        {"rows": np.full((400, NUM_FEATURES), np.nan, dtype=np.float32)},
        {"label": np.full(400, 2, dtype=np.int32)},
        {"label": np.zeros(399, dtype=np.int32)},
        {"position": np.zeros((400, 3), dtype=np.float32)},
        {"position": np.full((400, 2), np.inf, dtype=np.float32)},
        {"cell_start": np.array([0, 400], dtype=np.int32)},
        {"cell_start": np.array([1, 3], dtype=np.int32)},
        {"cell_start": np.array([0, 5, 5], dtype=np.int32)},
        {"cell_start": np.zeros(0, dtype=np.int32)},
        {"reach": np.ones(1, dtype=np.float32)},
        {"reach": np.array([1, np.nan], dtype=np.float32)},
        {"claimed_curve": np.array([[0, 1], [0.5, 1.5]], dtype=np.float32)},
        {"claimed_curve": np.zeros(3, dtype=np.float32)},
        {"claimed_curve": np.zeros((2, 0), dtype=np.float32)},
        {"unclaimed_curve": np.array([[0, 1], [0.5, np.nan]], dtype=np.float32)},
        {"unclaimed_curve": np.array([[1, 0], [0.5, 0.9]], dtype=np.float32)},
    ],
)
def test_contradicting_arrays_are_refused(tmp_path, wrong):
    two_clusters(**wrong).save(tmp_path / "c.npz")
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
    np.savez(tmp_path / "e.npz", features_version=99, cluster_ids=np.zeros(0, np.int32))
    with pytest.raises(BundleError, match="features version 99"):
        ClassifierArrays.load(tmp_path / "e.npz")


def test_labels():
    assert cluster_label(3) == "Cluster 3"
    assert cluster_label(-1) == "Unclustered"
