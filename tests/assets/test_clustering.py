"""Clusters: HDBSCAN on a sample, the other rows asked of its tree."""

from __future__ import annotations

import numpy as np
import pytest
from hdbscan import HDBSCAN, approximate_predict
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from attn_assets.discovery.clustering import NOISE, assign, cluster_sample, relative_validity
from attn_assets.discovery.embedding import Embedding
from attn_assets.discovery.grouping import group, smoothing
from attn_assets.discovery.lineage import UNSEEN
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.spanning_tree import spanning_tree


def blobs(count: int, *, seed: int = 0, noise: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = np.array([[0, 0], [8, 0], [0, 9], [7, 8]])[rng.integers(0, 4, count)]
    points = centre + rng.normal(0, 0.5, (count, 2))
    lost = rng.random(count) < noise
    points[lost] = rng.uniform(-5, 14, (int(lost.sum()), 2))
    return points.astype(np.float32)


def plain(space: np.ndarray) -> HDBSCAN:
    """hdbscan itself, with the exact spanning tree (its default takes short cuts)."""
    exact = HDBSCAN(
        min_cluster_size=20, min_samples=10, approx_min_span_tree=False, gen_min_span_tree=True, prediction_data=True
    )
    return exact.fit(space.astype(np.float64))


def renumbered(labels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The labels under the numbers that most of their rows have in `like`: cluster numbers are arbitrary."""
    numbers = {k: np.bincount(like[(labels == k) & (like >= 0)]).argmax() for k in range(labels.max() + 1)}
    assert len(set(numbers.values())) == len(numbers)
    return np.array([numbers.get(k, NOISE) for k in labels])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_are_hdbscans(seed):
    space = blobs(800, seed=seed)
    found = cluster_sample(space, min_cluster_size=20, min_samples=10)
    theirs = plain(space)
    # Rows equally far may leave a cluster in either order.
    assert (renumbered(found.labels, theirs.labels_) == theirs.labels_).mean() >= 0.995
    assert found.num_clusters == theirs.labels_.max() + 1
    assert len(found.birth_distance) == len(found.persistence) == found.num_clusters
    np.testing.assert_allclose(np.sort(found.persistence), np.sort(theirs.cluster_persistence_), atol=0.01)
    assert ((found.strength >= 0) & (found.strength <= 1)).all()
    assert (found.strength[found.labels == NOISE] == 0).all()


@pytest.mark.parametrize("rows", [2, 17, 40, 500])
def test_the_spanning_tree_is_the_lightest(rows):
    space = np.round(blobs(rows), 1)  # rounded: many rows are equally far, or the same
    frame = Frame(space)
    core = frame.nearest(space, k=min(6, rows)).distance[:, -1]
    edges = spanning_tree(frame, core)
    distance = np.linalg.norm(space[:, None].astype(float) - space[None], axis=2)
    mutual = np.maximum(np.maximum(distance, core[:, None]), core[None])
    # Scipy takes 0 for no edge at all.
    lightest = minimum_spanning_tree(mutual + 1e-9).data
    np.testing.assert_allclose(edges[:, 2], np.sort(lightest), atol=1e-5)
    joined = csr_array((np.ones(rows - 1), edges[:, :2].astype(int).T), shape=(rows, rows))
    assert connected_components(joined, directed=False)[0] == 1


def test_the_validity_is_hdbscans():
    space = blobs(800)
    theirs = plain(space)
    edges = theirs.minimum_spanning_tree_.to_numpy()
    ours = relative_validity(theirs.labels_.astype(np.int32), edges, num_clusters=theirs.labels_.max() + 1)
    assert ours == pytest.approx(theirs.relative_validity_, abs=1e-9)


def test_new_rows_join_as_approximate_predict_says():
    space, queries = blobs(1500), blobs(800, seed=1, noise=0.3)
    found = cluster_sample(space, min_cluster_size=20, min_samples=10)
    labels, strength = assign(found, Frame(space), queries, min_samples=10)
    judged, _ = approximate_predict(plain(space), queries.astype(np.float64))
    inside, ours = judged >= 0, renumbered(labels, judged)
    assert (ours == judged)[inside].mean() >= 0.99
    assert (ours == judged).mean() >= 0.97
    assert (strength[labels == NOISE] == 0).all()
    assert ((strength >= 0) & (strength <= 1)).all()


def test_a_row_joins_the_nearest_of_all_by_mutual_reachability():
    space, queries = blobs(600), blobs(300, seed=1, noise=0.3)
    found = cluster_sample(space, min_cluster_size=20, min_samples=10)
    labels, _ = assign(found, Frame(space), queries, min_samples=10)
    near = np.linalg.norm(queries[:, None].astype(float) - space[None], axis=2)
    order = np.argsort(near, axis=1, kind="stable")[:, :20]
    distance = np.take_along_axis(near, order, axis=1)
    reach = np.maximum(np.maximum(distance, found.core_distance[order]), distance[:, 10:11])
    best = np.take_along_axis(order, reach.argmin(axis=1)[:, None], axis=1)[:, 0]
    wanted = np.where(reach.min(axis=1) < found.birth_distance[found.labels[best]], found.labels[best], NOISE)
    assert (labels == wanted).mean() >= 0.995


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
