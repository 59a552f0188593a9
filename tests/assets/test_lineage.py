"""Cluster ids that last."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attn_assets.discovery.lineage import UNSEEN, trace

LABELS = st.integers(1, 6).flatmap(
    lambda count: st.tuples(
        st.just(count), arrays(np.int32, st.integers(count, 80), elements=st.integers(-1, count - 1))
    )
)


def whole(count: int, labels: np.ndarray) -> np.ndarray:
    """Every cluster has a member, as HDBSCAN's do."""
    labels = labels.copy()
    labels[:count] = np.arange(count)
    return labels


def of(*sizes: tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.full(size, value, dtype=np.int32) for value, size in sizes])


@given(LABELS, st.integers(0, 100))
def test_a_first_run_counts_up_from_the_next_id(drawn, next_id):
    count, labels = drawn[0], whole(*drawn)
    found = trace(labels, np.full(len(labels), UNSEEN, np.int32), num_clusters=count, next_id=next_id)
    assert sorted(found.ids) == list(range(next_id, next_id + count))
    assert found.next_id == next_id + count
    assert {one.event for one in found.clusters} == {"born"}
    sizes = np.bincount(labels[labels >= 0], minlength=count)
    assert (np.diff(sizes[np.argsort(found.ids)]) <= 0).all(), "larger clusters get lower ids"


@given(LABELS, st.randoms(use_true_random=False))
def test_the_same_clusters_keep_their_ids_whatever_they_are_called(drawn, random):
    count, labels = drawn[0], whole(*drawn)
    names = list(range(10, 10 + count))
    random.shuffle(names)
    before = np.append(np.array(names), -1)[labels].astype(np.int32)
    found = trace(labels, before, num_clusters=count, next_id=100)
    np.testing.assert_array_equal(found.ids, names)
    assert {one.event for one in found.clusters} == {"kept"}
    assert all(one.overlap == 1.0 for one in found.clusters)
    assert found.gone == ()
    assert found.next_id == 100


@given(LABELS, LABELS)
def test_ids_are_distinct_and_new_ones_never_used_before(new, old):
    size = min(len(new[1]), len(old[1]))
    count = min(new[0], size)
    labels = whole(count, np.minimum(new[1][:size], count - 1))
    before = old[1][:size]
    found = trace(labels, before, num_clusters=count, next_id=50)
    ids = found.ids.tolist()
    assert len(set(ids)) == count
    for one in found.clusters:
        known = one.cluster_id in before
        assert known == (one.event in ("kept", "merged"))
        assert known or one.cluster_id >= 50
    assert set(found.gone) == set(before[before >= 0].tolist()) - set(ids)


def test_rows_that_were_not_there_before_do_not_count():
    labels = of((0, 10), (0, 1000), (1, 10))
    before = of((4, 10), (UNSEEN, 1000), (9, 10))
    found = trace(labels, before, num_clusters=2, next_id=20)
    assert found.ids.tolist() == [4, 9]
    assert [one.overlap for one in found.clusters] == [1.0, 1.0]


def test_a_split_names_its_parent_and_the_larger_part_keeps_the_id():
    found = trace(of((0, 70), (1, 30)), of((5, 100)), num_clusters=2, next_id=6)
    assert found.ids.tolist() == [5, 6]
    assert [(one.event, one.parents) for one in found.clusters] == [("kept", (5,)), ("split", (5,))]


def test_a_merger_names_both_parents():
    found = trace(of((0, 100)), of((5, 70), (6, 30)), num_clusters=1, next_id=7)
    assert [(one.cluster_id, one.event, one.parents) for one in found.clusters] == [(5, "merged", (5, 6))]
    assert found.gone == (6,)


def test_a_cluster_dissolved_into_noise_is_gone_and_its_id_is_not_used_again():
    found = trace(of((-1, 50), (0, 50)), of((3, 50), (-1, 50)), num_clusters=1, next_id=4)
    assert found.gone == (3,)
    assert [(one.cluster_id, one.event) for one in found.clusters] == [(4, "born")]


def test_no_clusters_at_all():
    found = trace(of((-1, 30)), of((2, 30)), num_clusters=0, next_id=3)
    assert (found.clusters, found.gone, found.next_id) == ((), (2,), 3)
