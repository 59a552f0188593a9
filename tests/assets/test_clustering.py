"""Clusters: HDBSCAN on landmarks, whose votes say which cluster every row is of."""

from __future__ import annotations

import numpy as np
import pytest
from hdbscan import HDBSCAN
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from attn_assets.discovery import clustering
from attn_assets.discovery.clustering import NOISE, Clustering, cluster_sample, relative_validity
from attn_assets.discovery.grouping import find_landmark_clusters, group, others_near, votes
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.spanning_tree import spanning_tree
from attn_core.landmarks import NUM_VOTES


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
    np.testing.assert_allclose(np.sort(found.persistence), np.sort(theirs.cluster_persistence_), atol=0.01)


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


@pytest.mark.parametrize("rows", [0, 1, 3, 39])
def test_too_few_rows_are_all_noise(rows):
    found = cluster_sample(blobs(rows), min_cluster_size=20, min_samples=20)
    assert found.num_clusters == 0
    assert (found.labels == NOISE).all()


def test_rows_all_alike_are_all_noise_and_warn_of_nothing():
    assert cluster_sample(np.ones((100, 2), np.float32), min_cluster_size=5, min_samples=5).num_clusters == 0


def test_many_repeated_rows_do_not_break_it():
    space = np.repeat(blobs(60, noise=0), 10, axis=0)
    found = cluster_sample(space, min_cluster_size=20, min_samples=5)
    assert found.num_clusters > 0


def test_clusters_are_found_in_many_dimensions():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 5, 1500)
    points = (rng.normal(0, 3, (5, 16))[kind] + rng.normal(0, 0.5, (1500, 16))).astype(np.float32)
    found, min_samples = find_landmark_clusters(points, min_cluster_size=20, seed=0)
    again, _ = find_landmark_clusters(points, min_cluster_size=20, seed=0)
    assert min_samples == 10
    np.testing.assert_array_equal(found.labels, again.labels)
    inside = found.labels >= 0
    assert inside.mean() > 0.9
    of_label = [np.bincount(kind[found.labels == one]).max() for one in range(found.num_clusters)]
    assert sum(of_label) >= 0.99 * inside.sum()


@given(seed=st.integers(0, 300), count=st.integers(0, 60), clusters=st.integers(0, 4))
def test_the_nearest_others_vote_and_not_the_landmark_itself(seed, count, clusters):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3)).astype(np.float32)
    labels = rng.integers(-1, clusters, count).astype(np.int32)
    found = votes(others_near(points), labels, num_clusters=clusters)
    for i in range(count):
        far = np.linalg.norm(points.astype(float) - points[i], axis=1)
        far[i] = np.inf
        near = np.argsort(far)[: min(NUM_VOTES, count - 1)]
        counts = [int((labels[near] == one).sum()) for one in range(clusters)]
        most = max(counts, default=0)
        assert found.share[i] == pytest.approx(most / max(len(near), 1))
        assert found.label[i] == NOISE if most == 0 else counts[found.label[i]] == most
        if most:
            assert found.distance[i] == pytest.approx(far[near][labels[near] == found.label[i]].min(), rel=1e-4)
    right = (found.label == labels) & (labels >= 0)
    assert (found.distance[right] <= found.reach[labels[right]]).all(), "members lie within their cluster's reach"


def test_a_cluster_that_too_few_join_is_none_and_its_rows_vote_again():
    found = Clustering(
        labels=np.array([0, 0, 0, 1, 1, 2, -1], np.int32),
        persistence=np.array([0.5, 0.4, 0.3], np.float32),
        validity=0.5,
    )
    asked = []

    def answer(landmarks, rows):
        asked.append((landmarks.tolist(), rows.tolist()))
        # Ten rows: five of cluster 0, three of cluster 1 and two of cluster 2, of whom one goes to 0 once 2 is none.
        first = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
        return np.where(first == 2, np.where(rows_of(10) == 8, 0, -1) if 2 not in landmarks else 2, first)[rows]

    grouped = group(found, min_samples=1, min_cluster_size=3, answer=answer, num_rows=10)
    assert grouped.labels.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, -1]
    assert grouped.landmarks.tolist() == [0, 0, 0, 1, 1, -1, -1]
    assert grouped.persistence.tolist() == pytest.approx([0.5, 0.4])
    assert [rows for _, rows in asked] == [list(range(10)), [8, 9]]


def rows_of(count):
    return np.arange(count)


def test_one_giant_cluster_is_given_up_for_the_many_within_it(monkeypatch):
    """25 groups that touch, and one far away: excess of mass sees the far one and all the rest."""
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(5) * 3.0, np.arange(5) * 3.0), axis=-1).reshape(-1, 2)
    groups = np.repeat(centres, 60, axis=0) + rng.normal(0, 0.7, (1500, 2))
    space = np.concatenate([groups, rng.normal(300, 0.5, (120, 2))]).astype(np.float32)
    found = cluster_sample(space, min_cluster_size=20, min_samples=10)
    assert 20 <= found.num_clusters <= 30
    assert np.bincount(found.labels[found.labels >= 0]).max() <= 0.35 * len(space)
    monkeypatch.setattr(clustering, "GIANT_SHARE", 1.0)
    assert cluster_sample(space, min_cluster_size=20, min_samples=10).num_clusters == 2


def test_two_kinds_that_fill_a_window_stay_two():
    rng = np.random.default_rng(1)
    space = np.concatenate([rng.normal(0, 1, (600, 2)), rng.normal(30, 1, (400, 2))]).astype(np.float32)
    assert cluster_sample(space, min_cluster_size=20, min_samples=10).num_clusters == 2
