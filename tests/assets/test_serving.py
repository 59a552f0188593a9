"""Zone labels, prototypes, the served classifier and its calibration."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_fingerprints import PROJECTION, sketches_of, vectors_of

from attn_assets.discovery import quality, serving
from attn_assets.discovery.labelling import label_clusters
from attn_assets.discovery.learned_space import learn_space
from attn_assets.discovery.models import Models
from attn_assets.discovery.prototypes import exemplar_rows, k_means, spread_over
from attn_assets.discovery.serving import LandmarkRows, Served, label_rows, served
from attn_assets.discovery.window import Window, window_from_table
from attn_core.classify import Classified, Classifier
from attn_core.space import Space
from attn_core.zones import CHARACTERISTICS, LONG, NUM_EVIDENCE, USUAL, VALUES, ZONES, Z

ONE_MODEL = ("synthetic",)


def labelled(
    count: int, *, seed: int = 0, noise: float = 0.05, clusters: int = 4, with_sketch: bool = True
) -> tuple[LandmarkRows, np.ndarray, Window, Space]:
    """Landmarks whose clusters are their kinds, their labels, and the window and the space that they are of."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, clusters, size=count) if clusters else np.zeros(count, np.int64)
    drawn = vectors_of(kind, rng=rng)
    columns = {name: pa.array(drawn[name]) for name in ("context_len", "sink_mass", "periodicity")}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(drawn["vector"].ravel()), 20)
    if with_sketch:
        columns["head_sketch"] = pa.FixedSizeListArray.from_arrays(pa.array(sketches_of(kind, rng=rng).ravel()), 16)
        columns["zone_evidence"] = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(5 * count, np.float16)), 5)
        columns["head_projection"] = pa.array([PROJECTION] * count)
    window, models = window_from_table(pa.table(columns)), Models(names=ONE_MODEL, of_row=np.zeros(count, np.int64))
    space = learn_space(window, models, seed=0)
    labels = np.where(rng.random(count) < (noise if clusters else 1.1), -1, kind).astype(np.int32)
    labels[:clusters] = np.arange(clusters)
    landmarks = LandmarkRows.chosen(
        window,
        models,
        space,
        in_sample=np.ones(count, np.bool_),
        row_ids=np.arange(count),
        positions=np.zeros((count, 2), np.float32),
    )
    return landmarks, labels, window, space


def answers(found: Served, window: Window, space: Space) -> Classified:
    return Classifier(found.arrays, run_id=None, space=space).classify(
        window.vectors,
        context_len=window.context_len,
        sink_mass=window.sink_mass,
        head_sketch=window.sketch,
        head_projection=space.projection,
        model_id="synthetic",
    )


def test_a_cluster_has_the_zone_of_most_members_and_says_what_sets_them_apart():
    evidence = np.zeros((5, NUM_EVIDENCE))
    evidence[3:, VALUES + LONG], evidence[3:, USUAL + LONG], evidence[3:, Z + LONG] = 0.6, 0.2, 3.0
    labels = np.array([0, 0, -1, 1, 1], dtype=np.int32)
    zone_index = np.array([0, 0, 4, 3, 4], dtype=np.int8)
    zones = label_clusters(labels, num_clusters=2, zone_index=zone_index, evidence=evidence)
    assert [ZONES[i] for i in zones.zone_index] == ["syntax_floor", "long_range"]
    np.testing.assert_allclose(zones.shares, [[1, 0, 0, 0, 0], [0, 0, 0, 0.5, 0.5]])
    assert zones.margins[0].tolist() == [1.0, -1.0, -1.0, -1.0, -1.0]
    assert zones.margins[1, 3] == 0.0
    assert set(zones.evidence[0]) == set(CHARACTERISTICS)
    assert zones.evidence[1]["long_share"] == {"mean": 0.6, "usual": 0.2, "lift": 3.0}


@given(seed=st.integers(0, 500), count=st.integers(1, 12), rows=st.integers(1, 60))
def test_k_means_centres_lie_among_the_points_and_repeat_exactly(seed, count, rows):
    points = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    centres = k_means(points, count=count, seed=seed)
    assert 1 <= len(centres) <= min(count, rows)
    assert (centres >= points.min(axis=0) - 1e-5).all()
    assert (centres <= points.max(axis=0) + 1e-5).all()
    np.testing.assert_array_equal(centres, k_means(points, count=count, seed=seed))


def test_k_means_of_identical_points_is_that_point():
    centres = k_means(np.ones((30, 3), dtype=np.float32), count=5, seed=0)
    np.testing.assert_array_equal(centres, np.ones((1, 3)))


def test_prototypes_are_members_spread_over_their_cluster():
    landmarks, labels, _, _ = labelled(900)
    points = landmarks.at.main
    found = spread_over(points, labels, num_clusters=4, seed=0)
    assert (np.diff(found.cluster) >= 0).all()
    np.testing.assert_array_equal(labels[found.row], found.cluster)
    assert np.bincount(found.cluster).max() <= 24
    assert [int(found.weight[found.of(k)].sum()) for k in range(4)] == [int((labels == k).sum()) for k in range(4)]
    exemplars = exemplar_rows(found, points, labels, num_clusters=4)
    for cluster, chosen in enumerate(exemplars):
        assert 1 <= len(chosen) <= 5
        assert len(set(chosen)) == len(chosen)
        assert (labels[chosen] == cluster).all()


@pytest.mark.parametrize("with_sketch", [True, False])
def test_the_served_clusters_agree_and_their_confidence_is_right(with_sketch):
    ids = np.array([3, 8, 5, 9], np.int32)
    landmarks, labels, _, space = labelled(3000, with_sketch=with_sketch)
    assert (space.projection == PROJECTION) is with_sketch
    found = served(landmarks, labels, cluster_ids=ids)
    assert found.figures.cluster_agreement > 0.9
    assert found.figures.cluster_ece < 0.05
    assert found.figures.num_judged == 3000
    _, of_fresh, fresh, _ = labelled(1500, seed=1, noise=0.0, with_sketch=with_sketch)
    answer = answers(found, fresh, space)
    right = answer.cluster_id == ids[of_fresh]
    assert right.mean() > 0.85
    claimed = answer.cluster_id >= 0
    assert quality.expected_calibration_error(answer.cluster_confidence[claimed], right[claimed]) < 0.08


def test_a_row_is_answered_offline_as_it_is_served():
    landmarks, labels, window, space = labelled(3000)
    found = served(landmarks, labels, cluster_ids=np.arange(4, dtype=np.int32))
    rows = np.arange(0, 3000, 7)
    offline = label_rows(
        window, Models(names=ONE_MODEL, of_row=np.zeros(3000, np.int64)), space, found.arrays, rows, threads=2
    )
    np.testing.assert_array_equal(offline, answers(found, window, space).cluster_id[rows])


@pytest.mark.parametrize("count", [1, 3, 50])
def test_without_clusters_nothing_is_claimed(count):
    landmarks, labels, window, space = labelled(count, clusters=0)
    found = served(landmarks, labels, cluster_ids=np.zeros(0, np.int32))
    found.arrays.check()
    answer = answers(found, window, space)
    assert (answer.cluster_id == -1).all()
    assert ((answer.cluster_confidence >= 0) & (answer.cluster_confidence <= 1)).all()
    assert found.figures.cluster_agreement is None


@given(seed=st.integers(0, 500), count=st.integers(0, 400))
def test_a_confidence_curve_ascends_within_0_and_1(seed, count):
    rng = np.random.default_rng(seed)
    score = rng.random(count).astype(np.float32)
    curve = serving.confidence_curve(score, rng.random(count) < score)
    assert curve.shape[0] == 2
    assert (np.diff(curve[0]) >= 0).all()
    assert (np.diff(curve[1]) >= -1e-6).all()
    assert ((curve >= 0) & (curve <= 1)).all()


def test_a_confidence_curve_finds_the_truth():
    rng = np.random.default_rng(0)
    score = rng.random(20_000).astype(np.float32)
    curve = serving.confidence_curve(score, rng.random(20_000) < score**2)
    np.testing.assert_allclose(np.interp([0.3, 0.5, 0.8], *curve), [0.09, 0.25, 0.64], atol=0.05)


def test_calibration_error_of_known_cases():
    sure = np.full(100, 0.95)
    assert quality.expected_calibration_error(sure, np.arange(100) < 95) == pytest.approx(0.0, abs=1e-9)
    assert quality.expected_calibration_error(sure, np.zeros(100, bool)) == pytest.approx(0.95)
    assert quality.expected_calibration_error(np.zeros(0), np.zeros(0, bool)) == 0.0


def test_missing_companions_are_filled_within_what_the_vector_allows():
    rng = np.random.default_rng(0)
    drawn = vectors_of(rng.integers(0, 4, 50), rng=rng)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(drawn["vector"].ravel()), 20)
    names = ("context_len", "sink_mass", "periodicity")
    lost = window_from_table(pa.table({"vector": vector, **{name: pa.nulls(50, pa.float32()) for name in names}}))
    assert not lost.complete.any()
    assert (np.log(lost.context_len) >= drawn["vector"][:, 3] - 1e-4).all()
    assert ((lost.sink_mass >= 0) & (lost.sink_mass <= 1)).all()
    known = window_from_table(pa.table({"vector": vector, **{name: drawn[name] for name in names}}))
    assert known.complete.all()
    np.testing.assert_array_equal(known.context_len, drawn["context_len"])
    np.testing.assert_array_equal(known.sink_mass, drawn["sink_mass"])
