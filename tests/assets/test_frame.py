"""The map's frame of reference: hour after hour in one place, renewed by a rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from synthetic_fingerprints import vectors_of

from attn_assets.discovery import renewal
from attn_assets.discovery.embedding import NoKeeper, embed
from attn_assets.discovery.frame import AVERAGES, MAX_STEP, Anchors, follow, laid_over, movement, started, width, within
from attn_assets.discovery.mapping import fit_map
from attn_assets.discovery.neighbours import Frame
from attn_assets.discovery.quality import trustworthiness
from attn_assets.discovery.renewal import LastMap, draw
from attn_assets.discovery.sample import lasting_rows
from attn_core.errors import BundleError
from attn_core.features import features_from_vectors

COORDINATE = st.floats(-20, 20, width=32)
MAPS = st.integers(3, 40).flatmap(lambda rows: arrays(np.float32, (rows, 2), elements=COORDINATE))


def features_of(count: int, *, seed: int = 0, kinds: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = vectors_of(rng.integers(0, kinds, size=count), rng=rng)
    return features_from_vectors(drawn["vector"], context_len=drawn["context_len"], sink_mass=drawn["sink_mass"])


def make_anew(name: str, make):
    return make()


def nothing_known(rows: int) -> np.ndarray:
    return np.full((rows, 2), np.nan, dtype=np.float32)


@given(
    drawn=MAPS,
    angle=st.floats(0, 2 * np.pi),
    shift=st.tuples(COORDINATE, COORDINATE),
    mirrored=st.booleans(),
    new=st.integers(0, 5),
)
def test_a_map_that_was_turned_mirrored_and_shifted_is_laid_over_where_it_was(drawn, angle, shift, mirrored, new):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        turn[0] *= -1
    moved = (drawn @ turn + shift).astype(np.float32)
    known = drawn.copy()
    known[: min(new, len(known) - 2)] = np.nan
    found = laid_over(moved, known)
    shared = np.isfinite(known[:, 0])
    np.testing.assert_allclose(found[shared], known[shared], atol=1e-3)


@given(here=MAPS, seed=st.integers(0, 99))
def test_laying_over_keeps_every_distance_and_brings_the_rows_no_farther_away(here, seed):
    rng = np.random.default_rng(seed)
    known = (here + rng.normal(size=here.shape)).astype(np.float32)
    found = laid_over(here, known)
    apart = np.linalg.norm(here[:1] - here, axis=1)
    np.testing.assert_allclose(np.linalg.norm(found[:1] - found, axis=1), apart, atol=1e-3)
    before, after = (np.square(one.astype(np.float64) - known).sum() for one in (here, found))
    assert after <= before * (1 + 1e-6) + 1e-3


@given(there=MAPS, seed=st.integers(0, 99), limit=st.floats(0, 10))
def test_no_known_row_goes_beyond_the_limit_and_near_ones_stay_as_they_are(there, seed, limit):
    rng = np.random.default_rng(seed)
    positions = (there + 5 * rng.normal(size=there.shape)).astype(np.float32)
    known = there.copy()
    known[::3] = np.nan
    held = within(positions, known, limit=limit)
    shared = np.isfinite(known[:, 0])
    np.testing.assert_array_equal(held[~shared], positions[~shared])
    assert (np.linalg.norm(held[shared] - known[shared], axis=1) <= limit + 1e-3).all()
    near = shared.copy()
    near[shared] = np.linalg.norm(positions[shared] - known[shared], axis=1) < limit
    np.testing.assert_allclose(held[near], positions[near], atol=1e-4)


def test_rows_of_the_last_map_begin_where_they_lay_and_new_ones_among_their_neighbours():
    features = features_of(400)
    whole = fit_map(Frame(features), seed=0)
    known = whole.copy()
    known[300:] = np.nan
    start = started(Frame(features), known)
    np.testing.assert_array_equal(start[:300], whole[:300])
    assert np.isfinite(start).all()
    near = Frame(features[:300]).nearest(features[300:], k=1).index[:, 0]
    assert np.median(np.linalg.norm(start[300:] - whole[near], axis=1)) < 0.05 * width(whole)


def test_an_hour_follows_the_last_one_and_keeps_neighbourhoods():
    features = features_of(900)
    first = fit_map(Frame(features[:800]), seed=0)
    window, known = features[100:], np.concatenate([first[100:], nothing_known(100)])
    positions = follow(Frame(window), known, seed=0)
    moved = movement(positions, known)
    assert moved.num_shared == 700
    assert moved.largest <= MAX_STEP + 1e-6
    fresh = fit_map(Frame(window), seed=0)
    assert movement(fresh, known).median > 2 * moved.median
    quality, best = (trustworthiness(window, one, seed=0) for one in (positions, fresh))
    assert quality > best - 0.02
    np.testing.assert_array_equal(positions, follow(Frame(window), known, seed=0))


def test_movement_is_told_in_widths_of_the_last_map():
    known = np.array([[0, 0], [10, 0], [0, 4], [np.nan, np.nan]], dtype=np.float32)
    moved = movement(known + np.array([[1, 0], [0, 0], [0, 0], [5, 5]], dtype=np.float32), known)
    assert (moved.num_shared, moved.largest, moved.median) == (3, pytest.approx(0.1), 0.0)
    assert movement(known, nothing_known(4)).num_shared == 0


@given(rows=st.integers(1, 300), size=st.integers(1, 100), seed=st.integers(0, 2**32 - 1), gone=st.integers(0, 50))
def test_windows_that_share_rows_share_their_part_of_the_sample(rows, size, seed, gone):
    ids = np.arange(1000, 1000 + rows, dtype=np.int64)
    chosen = ids[lasting_rows(ids, size=size, seed=seed)]
    assert len(chosen) == min(rows, size)
    later = ids[gone:]
    if len(later):
        again = later[lasting_rows(later, size=size, seed=seed)]
        assert set(chosen) & set(later.tolist()) <= set(again), "a row leaves the sample with its window only"


def drawn_of(features: np.ndarray, known: np.ndarray, **changes: object):
    chosen = {"anchors": None, "now_us": 7, "seed": 0, "remember": make_anew}
    return draw(Frame(features), known=known, **{**chosen, **changes})


def anchors_of(features: np.ndarray, positions: np.ndarray, trust: float) -> Anchors:
    return Anchors(features=features, rests_on=AVERAGES, positions=positions, since_us=3, trustworthiness=trust)


def test_a_first_map_begins_a_frame():
    features = features_of(200)
    first = drawn_of(features, nothing_known(200))
    assert (first.event, first.since_us, first.bounded) == ("first", 7, False)
    np.testing.assert_array_equal(first.positions, fit_map(Frame(features), seed=0))


def test_a_map_as_good_as_at_its_birth_is_followed():
    features = features_of(300)
    first = drawn_of(features, nothing_known(300))
    anchors = anchors_of(features, first.positions, first.trustworthiness)
    after = drawn_of(features, first.positions, anchors=anchors)
    assert (after.event, after.since_us) == ("followed", 3)
    assert after.trustworthiness_at_birth == first.trustworthiness


def test_a_map_that_lost_its_quality_is_renewed_and_the_new_frame_named():
    features = features_of(300)
    first = drawn_of(features, nothing_known(300))
    muddled = np.random.default_rng(0).permutation(first.positions)
    after = drawn_of(features, muddled, anchors=anchors_of(features, first.positions, first.trustworthiness))
    assert (after.event, after.since_us) == ("renewed", 7)
    assert after.trustworthiness > first.trustworthiness - renewal.MAX_LOSS
    assert movement(after.positions, muddled).largest > MAX_STEP


def test_a_map_that_no_other_betters_is_kept_and_held_against_itself_from_then_on():
    features = features_of(300)
    first = drawn_of(features, nothing_known(300))
    after = drawn_of(features, first.positions, anchors=anchors_of(features, first.positions, 1.0))
    assert (after.event, after.since_us, after.bounded) == ("kept", 3, True)
    assert after.trustworthiness_at_birth == after.trustworthiness < 1.0 - renewal.MAX_LOSS
    assert movement(after.positions, first.positions).largest <= MAX_STEP + 1e-6


def test_after_a_gap_the_map_is_laid_over_its_anchors():
    features, later = features_of(400), features_of(400, seed=1)
    first = drawn_of(features, nothing_known(400))
    anchors = anchors_of(features, first.positions, first.trustworthiness)
    after = drawn_of(later, nothing_known(400), anchors=anchors)
    assert (after.event, after.since_us) == ("resumed", 3)
    near = Frame(features).nearest(later, k=1).index[:, 0]
    astray = np.linalg.norm(after.positions - first.positions[near], axis=1)
    assert np.median(astray) < 0.15 * width(first.positions)


def test_what_was_kept_of_an_interrupted_run_gives_the_same_frame():
    features = features_of(300)
    first = drawn_of(features, nothing_known(300))
    muddled = np.random.default_rng(0).permutation(first.positions)
    kept: dict[str, np.ndarray] = {}

    def remember(name: str, make):
        return kept.setdefault(name, make())

    anchors = anchors_of(features, first.positions, first.trustworthiness)
    whole = drawn_of(features, muddled, anchors=anchors, remember=remember)
    assert len(kept) == 2
    for name in list(kept):
        left = dict(kept)
        del left[name]
        again = drawn_of(
            features, muddled, anchors=anchors, remember=lambda n, make, left=left: left[n] if n in left else make()
        )
        assert again.event == whole.event
        np.testing.assert_array_equal(again.positions, whole.positions)


def test_rows_outside_the_sample_are_held_too():
    features = features_of(700)
    ids = np.arange(700, dtype=np.int64)

    def embedded(rows: slice, last: LastMap | None):
        return embed(
            features[rows], sample_size=200, batch_size=150, seed=0, keeper=NoKeeper(),
            report=lambda done, total: None, row_ids=ids[rows], last=last, now_us=1,
        )  # fmt: skip

    before = embedded(slice(0, 600), None)
    known = np.concatenate([before.positions[50:], nothing_known(100)])
    after = embedded(slice(50, 700), LastMap(positions=known, anchors=None))
    assert after.drawn is not None
    assert after.drawn.event == "followed"
    assert after.in_sample.sum() == 200
    assert movement(after.positions, known).largest <= MAX_STEP + 1e-6


def test_anchors_are_read_back_and_what_is_not_theirs_is_refused(tmp_path):
    anchors = anchors_of(features_of(30), np.zeros((30, 2), np.float32), 0.9)
    anchors.save(tmp_path / "frame.npz")
    again = Anchors.load(tmp_path / "frame.npz")
    np.testing.assert_array_equal(again.features, anchors.features)
    assert (again.since_us, again.trustworthiness) == (3, 0.9)
    np.savez(tmp_path / "short.npz", **{**vars(anchors), "features_version": 2, "positions": np.zeros((29, 2))})
    np.savez(tmp_path / "other.npz", **{**vars(anchors), "features_version": 99})
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("short.npz", "other.npz", "text.npz", "missing.npz"):
        with pytest.raises(BundleError):
            Anchors.load(tmp_path / name)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 45), known=st.integers(0, 45))
def test_any_small_window_gets_a_finite_map(rows, known):
    last = nothing_known(rows)
    last[:known] = np.random.default_rng(0).normal(size=(min(known, rows), 2))
    assert np.isfinite(drawn_of(features_of(rows), last).positions).all()
