"""Cluster ids that last."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attn_assets.discovery.changes import EVENTS, counts_by_event, lineage_table
from attn_assets.discovery.lineage import UNSEEN, trace
from attn_assets.discovery.previous import Previous

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


def test_a_cluster_that_dissolves_for_an_hour_comes_back_under_its_id():
    before = of((3, 50), (7, 50))
    gone = trace(of((-1, 50), (0, 50)), before, num_clusters=1, next_id=8)
    assert gone.gone == (3,)
    back = trace(
        of((0, 50), (1, 50)), np.append(gone.ids, -1)[of((-1, 50), (0, 50))].astype(np.int32),
        num_clusters=2, next_id=gone.next_id, former=gone.former,
    )  # fmt: skip
    found = [(one.cluster_id, one.event, one.overlap) for one in back.clusters]
    assert found == [(3, "returned", 1.0), (7, "kept", 1.0)]
    assert back.next_id == 8
    assert (back.former == -1).all(), "what has come back is remembered no more"


def test_two_clusters_that_merge_for_an_hour_part_under_their_own_ids():
    apart, one = of((0, 70), (1, 30)), of((0, 100))
    first = trace(apart, of((UNSEEN, 100)), num_clusters=2, next_id=0)
    merged = trace(one, first.ids[apart].astype(np.int32), num_clusters=1, next_id=2, former=first.former)
    assert [(c.cluster_id, c.event) for c in merged.clusters] == [(0, "merged")]
    again = trace(apart, merged.ids[one].astype(np.int32), num_clusters=2, next_id=2, former=merged.former)
    assert [(c.cluster_id, c.event) for c in again.clusters] == [(0, "kept"), (1, "returned")]


@given(LABELS, st.integers(1, 6))
def test_flickering_uses_up_no_ids(drawn, times):
    count, labels = drawn[0], whole(*drawn)
    noise = np.full_like(labels, -1)
    found = trace(labels, np.full(len(labels), UNSEEN, np.int32), num_clusters=count, next_id=0)
    first = found.ids
    for _ in range(times):
        before = np.append(found.ids, -1)[labels].astype(np.int32)
        away = trace(noise, before, num_clusters=0, next_id=found.next_id, former=found.former)
        assert set(away.gone) == set(first.tolist())
        found = trace(labels, noise, num_clusters=count, next_id=away.next_id, former=away.former)
        np.testing.assert_array_equal(found.ids, first)
        assert found.next_id == count


def test_what_comes_back_only_in_small_part_is_new():
    former = of((3, 10), (-1, 90))
    found = trace(of((0, 100)), of((-1, 100)), num_clusters=1, next_id=4, former=former)
    assert [(one.cluster_id, one.event) for one in found.clusters] == [(4, "born")]


def test_an_id_that_is_in_use_is_not_given_back_as_well():
    labels, before = of((0, 50), (1, 50)), of((3, 50), (-1, 50))
    found = trace(labels, before, num_clusters=2, next_id=4, former=of((-1, 50), (3, 50)))
    assert found.ids.tolist() == [3, 4]


def previous(before: np.ndarray, sizes: dict[int, int], num_rows: int) -> Previous:
    former = np.full_like(before, -1)
    return Previous(run_id="r", before=before, former=former, next_id=9, sizes=sizes, num_rows=num_rows)


def changes(labels: np.ndarray, before: np.ndarray) -> dict[int, dict[str, object]]:
    seen = before[before >= 0]
    last = previous(
        before, {int(one): int((seen == one).sum()) for one in set(seen.tolist())}, int((before > -2).sum())
    )
    lineage = trace(labels, before, num_clusters=int(labels.max()) + 1, next_id=9)
    ids = np.append(lineage.ids, -1)[labels].astype(np.int32)
    return {row["cluster_id"]: row for row in lineage_table(lineage, pa.array(ids), last).to_pylist()}


def test_the_table_says_what_has_grown_shrunk_or_gone_and_where_to():
    labels = of((0, 150), (1, 40), (0, 30), (-1, 80), (2, 100))
    before = of((1, 100), (UNSEEN, 50), (2, 40), (3, 30), (2, 60), (4, 20), (5, 100))
    table = changes(labels, before)
    events = {one: row["event"] for one, row in table.items()}
    assert events == {1: "merged", 2: "shrunk", 5: "kept", 3: "gone", 4: "gone"}
    assert (table[3]["successor"], table[4]["successor"]) == (1, None)
    assert (table[2]["size"], table[2]["size_before"]) == (40, 100)
    grown = changes(of((0, 180), (1, 50)), of((1, 50), (UNSEEN, 130), (2, 50)))
    assert {one: row["event"] for one, row in grown.items()} == {1: "grown", 2: "shrunk"}


def test_every_event_is_counted_also_where_there_is_none():
    lineage = trace(of((0, 10)), of((UNSEEN, 10)), num_clusters=1, next_id=0)
    counted = counts_by_event(lineage_table(lineage, pa.array(of((0, 10))), previous(of((UNSEEN, 10)), {}, 0)))
    assert counted == {**dict.fromkeys(EVENTS, 0), "born": 1}
