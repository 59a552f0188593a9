"""Clusters: HDBSCAN on a sample, the other rows asked of its tree."""

from __future__ import annotations

import numpy as np
import pytest
from hdbscan import HDBSCAN, approximate_predict

from attn_assets.discovery.clustering import NOISE, assign, cluster_sample
from attn_assets.discovery.embedding import Embedding
from attn_assets.discovery.grouping import group, smoothing
from attn_assets.discovery.lineage import UNSEEN
from attn_assets.discovery.neighbours import Frame


def blobs(count: int, *, seed: int = 0, noise: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = np.array([[0, 0], [8, 0], [0, 9], [7, 8]])[rng.integers(0, 4, count)]
    points = centre + rng.normal(0, 0.5, (count, 2))
    lost = rng.random(count) < noise
    points[lost] = rng.uniform(-5, 14, (int(lost.sum()), 2))
    return points.astype(np.float32)


def test_labels_are_hdbscans():
    space = blobs(800)
    found = cluster_sample(space, min_cluster_size=20, min_samples=10)
    plain = HDBSCAN(min_cluster_size=20, min_samples=10).fit(space.astype(np.float64))
    np.testing.assert_array_equal(found.labels, plain.labels_)
    assert found.num_clusters == 4
    assert len(found.birth_distance) == len(found.persistence) == 4
    assert ((found.strength >= 0) & (found.strength <= 1)).all()
    assert (found.strength[found.labels == NOISE] == 0).all()
    assert 0 < found.validity <= 1


def test_new_rows_join_as_approximate_predict_says():
    space, queries = blobs(1500), blobs(800, seed=1, noise=0.3)
    found = cluster_sample(space, min_cluster_size=20, min_samples=10)
    labels, strength = assign(found, Frame(space), queries, min_samples=10)
    plain = HDBSCAN(min_cluster_size=20, min_samples=10, prediction_data=True).fit(space.astype(np.float64))
    judged, _ = approximate_predict(plain, queries.astype(np.float64))
    inside = judged >= 0
    assert (labels == judged)[inside].mean() >= 0.99
    assert (labels == judged).mean() >= 0.97
    assert (strength[labels == NOISE] == 0).all()
    assert ((strength >= 0) & (strength <= 1)).all()


@pytest.mark.parametrize("rows", [0, 1, 3, 39])
def test_too_few_rows_are_all_noise(rows):
    found = cluster_sample(blobs(rows), min_cluster_size=20, min_samples=20)
    assert found.num_clusters == 0
    assert (found.labels == NOISE).all()
    labels, _ = assign(found, Frame(blobs(1)), blobs(5), min_samples=20)
    assert (labels == NOISE).all()


def test_rows_all_alike_are_all_noise_and_warn_of_nothing():
    assert cluster_sample(np.ones((100, 2), np.float32), min_cluster_size=5, min_samples=5).num_clusters == 0


def test_many_repeated_rows_do_not_break_it():
    space = np.repeat(blobs(60, noise=0), 10, axis=0)
    found = cluster_sample(space, min_cluster_size=20, min_samples=5)
    assert found.num_clusters > 0
    assert np.isfinite(found.strength).all()
    labels, strength = assign(found, Frame(space), space, min_samples=5)
    assert (labels == found.labels)[found.labels >= 0].mean() > 0.95
    assert np.isfinite(strength).all()


def test_a_window_is_labelled_whole_and_in_any_batch_size():
    positions = blobs(1200)
    in_sample = np.zeros(1200, dtype=bool)
    in_sample[::2] = True
    embedding = Embedding(positions=positions, in_sample=in_sample)
    unseen = np.full(1200, UNSEEN, dtype=np.int32)
    found = group(embedding, min_cluster_size=20, batch_size=100, before=unseen, next_id=7)
    other = group(embedding, min_cluster_size=20, batch_size=333, before=unseen, next_id=7)
    np.testing.assert_array_equal(found.labels, other.labels)
    assert found.sizes.sum() == (found.labels >= 0).sum()
    assert sorted(found.lineage.ids) == [7, 8, 9, 10]
    assert set(found.cluster_ids[found.labels == NOISE]) == {-1}
    # Both halves come from the same blobs, so they are claimed alike.
    assert abs((found.labels[in_sample] >= 0).mean() - (found.labels[~in_sample] >= 0).mean()) < 0.1


def test_smoothing_grows_with_the_sample_within_bounds():
    assert smoothing(100, min_cluster_size=20) == 20
    assert smoothing(50_000, min_cluster_size=20) == 100
    assert smoothing(10_000_000, min_cluster_size=20) == 200
    assert smoothing(50_000, min_cluster_size=300) == 300
