"""The map: neighbours, graph, layout, placement."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_fingerprints import vectors_of

from attn_assets.discovery import compiled, quality
from attn_assets.discovery.embedding import NoKeeper, embed
from attn_assets.discovery.fuzzy_graph import bandwidths, fuzzy_graph
from attn_assets.discovery.layout import curve_of
from attn_assets.discovery.mapping import fit_map, place, principal_axes
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.sample import sample_rows, split_rows
from attn_core.features import features_from_vectors


def features_of(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = vectors_of(rng.integers(0, 4, size=count), rng=rng)
    return features_from_vectors(drawn["vector"], context_len=drawn["context_len"], sink_mass=drawn["sink_mass"])


def ignore_report(done: int, total: int) -> None:
    """Nobody listens."""


def embedded(features: np.ndarray, **changes: object):
    chosen = {"sample_size": 300, "batch_size": 100, "seed": 3, "keeper": NoKeeper(), "report": ignore_report}
    return embed(features, **{**chosen, **changes})


@given(rows=st.integers(0, 500), size=st.integers(1, 600), seed=st.integers(0, 2**32 - 1))
def test_a_sample_is_distinct_sorted_rows_and_reproducible(rows, size, seed):
    chosen = sample_rows(rows, size=size, seed=seed)
    assert len(chosen) == min(rows, size)
    assert (np.diff(chosen) > 0).all()
    assert not len(chosen) or (chosen[0] >= 0 and chosen[-1] < rows)
    np.testing.assert_array_equal(chosen, sample_rows(rows, size=size, seed=seed))


@given(rows=st.integers(0, 300), seed=st.integers(0, 2**32 - 1))
def test_a_split_loses_and_repeats_nothing(rows, seed):
    parts = split_rows(rows, shares=(0.6, 0.2, 0.2), seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(rows))
    assert abs(len(parts[0]) - 0.6 * rows) <= 1


def test_neighbours_are_those_of_all_pairs():
    features, queries = features_of(300), features_of(50, seed=1)
    near = Frame(features).nearest(queries, k=7)
    distance = np.linalg.norm(queries[:, None].astype(float) - features[None].astype(float), axis=2)
    np.testing.assert_allclose(near.distance, np.sort(distance, axis=1)[:, :7], atol=1e-6)
    np.testing.assert_array_equal(near.index, np.argsort(distance, axis=1)[:, :7])


def test_a_frame_smaller_than_k_gives_all_its_rows():
    near = Frame(features_of(3)).nearest(features_of(5, seed=1), k=10)
    assert near.index.shape == (5, 3)
    assert Frame(features_of(1)).nearest(features_of(5), k=1).index.shape == (5, 1)


def test_the_graph_is_umap_learns():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import fuzzy_simplicial_set

    features = features_of(400)
    features[50:60] = features[40]  # rows that are identical
    near = Frame(features).nearest(features, k=15)
    ours = fuzzy_graph(near).tocsr()
    theirs = fuzzy_simplicial_set(
        features, 15, np.random.RandomState(0), "euclidean", knn_indices=near.index, knn_dists=near.distance
    )[0].tocsr()
    assert abs(ours - theirs).max() < 1e-5
    assert ours.nnz == theirs.nnz


@given(seed=st.integers(0, 1000), rows=st.integers(1, 40), k=st.integers(3, 20))
def test_bandwidths_give_every_row_log2_k_neighbours(seed, rows, k):
    distance = np.cumsum(np.random.default_rng(seed).uniform(0.1, 1, (rows, k)), axis=1)
    distance[:, 0] = 0
    rho, sigma = bandwidths(distance)
    np.testing.assert_allclose(rho, distance[:, 1])
    total = np.exp(-(distance[:, 1:] - rho[:, None]) / sigma[:, None]).sum(axis=1)
    np.testing.assert_allclose(total, np.log2(k), atol=1e-3)


def test_any_number_of_threads_gives_the_same_bytes(monkeypatch):
    features = features_of(1_500)
    made = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(compiled, "num_threads", lambda count=threads: count)
        made.append(fit_map(Frame(features), seed=0).tobytes())
    assert len(set(made)) == 1


def test_the_curve_is_umap_learns():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import find_ab_params
    np.testing.assert_allclose(curve_of(0.1), find_ab_params(1.0, 0.1), rtol=1e-3)


def test_neighbours_of_repeated_and_distant_rows_are_exact():
    features = np.repeat(features_of(40), 8, axis=0)
    features[:5] += 1000.0
    near = Frame(features).nearest(features, k=12)
    distance = np.linalg.norm(features[:, None].astype(float) - features[None].astype(float), axis=2)
    np.testing.assert_allclose(near.distance, np.sort(distance, axis=1)[:, :12], atol=1e-3)
    assert all(len(set(row)) == 12 for row in near.index.tolist())


def test_the_map_keeps_neighbourhoods_and_is_reproducible():
    features = features_of(600)
    positions = fit_map(Frame(features), seed=5)
    assert positions.shape == (600, 2)
    assert quality.trustworthiness(features, positions, seed=0) > 0.9
    np.testing.assert_array_equal(positions, fit_map(Frame(features), seed=5))
    assert not np.array_equal(positions, fit_map(Frame(features), seed=6))


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 19, 20, 50])
def test_few_rows_make_a_map_too(rows):
    found = embedded(features_of(rows))
    assert found.positions.shape == (rows, 2)
    assert np.isfinite(found.positions).all()
    assert found.in_sample.all()


@pytest.mark.parametrize("features", [np.ones((60, 21)), np.outer(np.linspace(0, 1, 60), np.ones(21))])
def test_rows_on_a_point_or_a_line_make_a_finite_map(features):
    assert np.isfinite(fit_map(Frame(features.astype(np.float32)), seed=0)).all()


def test_placed_rows_lie_where_their_neighbours_do():
    features = features_of(900)
    frame, rest = Frame(features[:600]), features[600:]
    frame_map = fit_map(frame, seed=0)
    placed = place(frame, frame_map, rest)
    everything = np.concatenate([frame_map, placed])
    assert quality.trustworthiness(features, everything, seed=0) > 0.88
    # A row of the sample itself is placed on its own position.
    np.testing.assert_allclose(place(frame, frame_map, features[:50]), frame_map[:50], atol=0.5)


def test_nearer_neighbours_weigh_more_in_a_placement():
    features = np.zeros((6, 21), dtype=np.float32)
    features[:, 0] = [0, 1, 2, 3, 4, 50]
    query = np.zeros((1, 21), dtype=np.float32)
    weights = [place(Frame(features), np.eye(6, dtype=np.float32)[:, [row, 5]], query)[0, 0] for row in range(6)]
    assert (np.diff(weights[:5]) < 0).all()
    assert sum(weights) == pytest.approx(1.0)
    assert weights[5] == 0.0, "the sixth nearest has no say"


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 400))
def test_the_batch_size_changes_nothing(batch):
    features = features_of(60)
    found = embedded(features, sample_size=15, batch_size=batch)
    np.testing.assert_array_equal(found.positions, embedded(features, sample_size=15, batch_size=7).positions)


def test_only_the_sample_is_fitted_and_the_report_ends_at_all_rows():
    told: list[tuple[int, int]] = []
    found = embedded(features_of(450), report=lambda done, total: told.append((done, total)))
    assert found.in_sample.sum() == 300
    assert told == [(0, 450), (300, 450), (400, 450), (450, 450)]


class _Memory:
    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray] = {}
        self.made = 0

    def recall(self, name: str) -> np.ndarray | None:
        return self.kept.get(name)

    def keep(self, name: str, array: np.ndarray) -> None:
        self.made += 1
        self.kept[name] = array


def test_finished_pieces_are_not_made_again_and_change_nothing():
    memory, features = _Memory(), features_of(450)
    first = embedded(features, keeper=memory)
    assert memory.made == 3
    del memory.kept["placed-000000000100"]
    again = embedded(features, keeper=memory)
    assert memory.made == 4
    np.testing.assert_array_equal(first.positions, again.positions)


@given(seed=st.integers(0, 100))
def test_principal_axes_agree_on_left_and_right(seed):
    features = features_of(80, seed=seed)
    shuffled = features[np.random.default_rng(seed).permutation(80)]
    assert np.abs(principal_axes(features)).max() == pytest.approx(10.0, rel=1e-4)
    np.testing.assert_allclose(
        np.sort(principal_axes(features), axis=0), np.sort(principal_axes(shuffled), axis=0), atol=1e-2
    )
