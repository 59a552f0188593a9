"""Zone labels, prototypes, the served classifier and its calibration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_fingerprints import vectors_of

from attn_assets.discovery import quality, serving
from attn_assets.discovery.companions import fill_companions
from attn_assets.discovery.labelling import label_clusters, zone_of_rows
from attn_assets.discovery.prototypes import exemplar_rows, k_means, tile_clusters
from attn_core.classify import Classifier
from attn_core.features import features_from_vectors
from attn_core.zones import EVIDENCE, ZONES, zone_features, zone_probabilities


def labelled(
    count: int, *, seed: int = 0, noise: float = 0.05, clusters: int = 4
) -> tuple[serving.Labelled, np.ndarray]:
    """Rows whose clusters are their kinds, zones by the rules, and the clusters' zone lifts."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, clusters, size=count) if clusters else np.full(count, 0)
    drawn = vectors_of(kind, rng=rng)
    labels = np.where(rng.random(count) < (noise if clusters else 1.1), -1, kind).astype(np.int32)
    labels[:clusters] = np.arange(clusters)
    companions = {name: drawn[name] for name in ("context_len", "sink_mass", "periodicity")}
    probabilities = zone_probabilities(drawn["vector"], **companions)
    zones = label_clusters(
        labels,
        num_clusters=clusters,
        probabilities=probabilities,
        evidence=zone_features(drawn["vector"], **companions),
    )
    zone_index, _ = zone_of_rows(labels, zones=zones, probabilities=probabilities)
    features = features_from_vectors(drawn["vector"], context_len=drawn["context_len"], sink_mass=drawn["sink_mass"])
    rows = serving.Labelled(
        vectors=drawn["vector"],
        context_len=drawn["context_len"].astype(np.int64),
        sink_mass=drawn["sink_mass"],
        periodicity=drawn["periodicity"],
        features=features,
        labels=labels,
        zone_index=zone_index,
    )
    return rows, zones.lift


def test_a_cluster_has_the_zone_of_its_members_and_says_why():
    probabilities = np.array([[0.7, 0.1, 0.1, 0.05, 0.05]] * 3 + [[0, 0, 0, 0.6, 0.4]] * 2, dtype=np.float32)
    evidence = np.array([[2.0, 0, 0, 0, 0]] * 3 + [[0, 0, 3.0, 0, 0]] * 2)
    labels = np.array([0, 0, -1, 1, 1], dtype=np.int32)
    zones = label_clusters(labels, num_clusters=2, probabilities=probabilities, evidence=evidence)
    assert [ZONES[i] for i in zones.zone_index] == ["syntax_floor", "long_range"]
    np.testing.assert_allclose(zones.scores[0], probabilities[0], atol=1e-6)
    assert zones.margins[0, 0] == pytest.approx(0.6, abs=1e-6)
    assert zones.margins[1, 4] == pytest.approx(-0.2, abs=1e-6)
    assert set(zones.evidence[0]) == set(EVIDENCE)
    assert zones.evidence[1]["long_lift"]["mean"] == 3.0
    assert zones.evidence[1]["long_lift"]["lift"] > 0 > zones.evidence[1]["local_lift"]["lift"]
    zone, score = zone_of_rows(labels, zones=zones, probabilities=probabilities)
    assert zone.tolist() == [0, 0, 0, 3, 3]
    # By hand: own probability times cluster mean over overall mean, made to sum to 1; noise keeps its own.
    np.testing.assert_allclose(score, [0.76633, 0.76633, 0.7, 0.6129, 0.6129], atol=1e-4)


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


def test_prototypes_are_grouped_and_their_rows_are_members():
    rows, _ = labelled(900)
    tiles = tile_clusters(rows.features, rows.labels, num_clusters=4, seed=0)
    assert tiles.start[0] == 0
    assert (np.diff(tiles.start) > 0).all()
    np.testing.assert_array_equal(rows.labels[tiles.nearest_row], tiles.cluster)
    exemplars = exemplar_rows(tiles, rows.features, rows.labels, num_clusters=4)
    for cluster, chosen in enumerate(exemplars):
        assert 1 <= len(chosen) <= 5
        assert len(set(chosen)) == len(chosen)
        assert (rows.labels[chosen] == cluster).all()


def test_the_served_classifier_agrees_and_is_calibrated():
    rows, lift = labelled(3000)
    served = serving.fit(rows, cluster_ids=np.array([3, 8, 5, 9], np.int32), cluster_zone_lift=lift, seed=0)
    assert served.figures.cluster_agreement > 0.9
    assert served.figures.zone_agreement > 0.9
    assert served.figures.ece < 0.05
    assert served.figures.num_judged == 600
    fresh, _ = labelled(1500, seed=1, noise=0.0)
    answer = Classifier(served.arrays, run_id=None).classify(
        fresh.vectors, context_len=fresh.context_len, sink_mass=fresh.sink_mass, periodicity=fresh.periodicity
    )
    right = answer.cluster_id == np.array([3, 8, 5, 9])[fresh.labels]
    assert right.mean() > 0.85
    assert quality.expected_calibration_error(answer.confidence, answer.zone_index == fresh.zone_index) < 0.08


@pytest.mark.parametrize("count", [1, 3, 50])
def test_without_clusters_the_rules_answer_and_claim_nothing(count):
    rows, lift = labelled(count, clusters=0)
    served = serving.fit(rows, cluster_ids=np.zeros(0, np.int32), cluster_zone_lift=lift, seed=0)
    served.arrays.check()
    answer = Classifier(served.arrays, run_id=None).classify(
        rows.vectors, context_len=rows.context_len, sink_mass=rows.sink_mass, periodicity=rows.periodicity
    )
    assert (answer.cluster_id == -1).all()
    np.testing.assert_array_equal(answer.zone_index, rows.zone_index)
    assert ((answer.confidence >= 0) & (answer.confidence <= 1)).all()
    assert served.figures.cluster_agreement is None


def test_a_cluster_whose_members_all_fall_outside_the_fitting_part_is_tiled_all_the_same():
    rows, lift = labelled(40, noise=0.0)
    served = serving.fit(rows, cluster_ids=np.arange(4, dtype=np.int32), cluster_zone_lift=lift, seed=0)
    served.arrays.check()
    assert len(served.arrays.prototype_start) == 4


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
    lost = np.full(50, np.nan)
    filled = fill_companions(drawn["vector"], context_len=lost, sink_mass=lost, periodicity=lost)
    assert filled.num_filled == 50
    assert (np.log(filled.context_len) >= drawn["vector"][:, 3] - 1e-4).all()
    assert ((filled.sink_mass >= 0) & (filled.sink_mass <= 1)).all()
    known = {name: drawn[name].astype(np.float64) for name in ("context_len", "sink_mass", "periodicity")}
    kept = fill_companions(drawn["vector"], **known)
    assert kept.num_filled == 0
    np.testing.assert_array_equal(kept.context_len, drawn["context_len"])
