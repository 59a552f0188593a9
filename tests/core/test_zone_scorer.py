"""The calibrated zone scorer: probabilities, what may not change them, and a file that says all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from attention_rows import Drawn, draw
from hypothesis import given
from hypothesis import strategies as st

from attn_core.errors import CalibrationError
from attn_core.features import features_from_vectors
from attn_core.sinkfree import sink_free
from attn_core.zone_scorer import NUM_INPUTS, SequenceSoFar, ZoneScorer, model_name, same_model
from attn_core.zones import ZONES


def _scorer(seed: int = 0, size: float = 1.0) -> ZoneScorer:
    rng = np.random.default_rng(seed)
    return ZoneScorer(
        token=rng.normal(size=(5, NUM_INPUTS)) * size,
        sequence=rng.normal(size=(5, 2 * NUM_INPUTS)) * size,
        shortest=30.0,
        longest=700.0,
        centre=rng.random(NUM_INPUTS),
        spread=rng.random(NUM_INPUTS) + 0.1,
        provenance={"version": "test-0001", "model": "tiny"},
    )


@cache
def _rows() -> Drawn:
    return draw(60, seed=0)


def _inputs(scorer: ZoneScorer, count: int, seed: int = 0) -> np.ndarray:
    rows, chosen = _rows(), np.random.default_rng(seed).integers(0, 60, count)
    features = features_from_vectors(rows.vectors, context_len=rows.context_len, sink_mass=rows.sink_mass)[chosen]
    return scorer.inputs(features, context_len=rows.context_len[chosen], periodicity=rows.periodicity[chosen])


@given(seed=st.integers(0, 1000), size=st.floats(0.0, 300.0), count=st.integers(0, 40))
def test_probabilities_sum_to_one_however_sure_the_scorer_is(seed: int, size: float, count: int) -> None:
    scorer = _scorer(seed, size)
    inputs = _inputs(scorer, count, seed)
    for probabilities in (scorer.token_probabilities(inputs), scorer.sequence_probabilities(inputs, inputs)):
        assert probabilities.shape == (count, len(ZONES))
        assert probabilities.dtype == np.float32
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)


@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_a_request_is_scored_alike_alone_and_among_others(seed: int, lengths: list[int]) -> None:
    scorer = _scorer(seed)
    inputs = _inputs(scorer, sum(lengths), seed)
    start = np.concatenate([[0], np.cumsum(lengths)])
    together = scorer.request_probabilities(inputs, start)
    for k in range(len(lengths)):
        alone = scorer.request_probabilities(inputs[start[k] : start[k + 1]], np.array([0, lengths[k]]))
        np.testing.assert_allclose(together[k], alone[0], atol=1e-5)


@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_the_score_so_far_is_that_of_the_tokens_up_to_there(seed: int, lengths: list[int]) -> None:
    scorer = _scorer(seed)
    inputs = _inputs(scorer, sum(lengths), seed)
    start = np.concatenate([[0], np.cumsum(lengths)])
    so_far = scorer.so_far_probabilities(inputs, start)
    for k, length in enumerate(lengths):
        state = SequenceSoFar()
        for step in range(length):
            state.add(inputs[start[k] + step])
            np.testing.assert_allclose(so_far[start[k] + step], state.probabilities(scorer), atol=1e-4)
    ends = start[1:] - 1
    np.testing.assert_allclose(so_far[ends], scorer.request_probabilities(inputs, start), atol=1e-4)


def test_the_order_of_later_tokens_changes_nothing_that_of_the_first_does() -> None:
    scorer = _scorer()
    inputs = _inputs(scorer, 9)
    start = np.array([0, 9])
    plain = scorer.request_probabilities(inputs, start)
    np.testing.assert_allclose(scorer.request_probabilities(inputs[[0, *range(8, 0, -1)]], start), plain, atol=1e-5)
    assert np.abs(scorer.request_probabilities(inputs[::-1], start) - plain).max() > 1e-3


def test_the_token_head_says_the_same_from_sink_free_fingerprints() -> None:
    scorer = _scorer()
    rows = _rows()
    free = sink_free(rows.vectors, context_len=rows.context_len, sink_mass=rows.sink_mass)
    one = scorer.probabilities_from_sink_free(free, periodicity=rows.periodicity)
    features = features_from_vectors(rows.vectors, context_len=rows.context_len, sink_mass=rows.sink_mass)
    inputs = scorer.inputs(features, context_len=rows.context_len, periodicity=rows.periodicity)
    np.testing.assert_allclose(one, scorer.token_probabilities(inputs), atol=1e-6)


def test_beyond_the_calibrated_lengths_the_length_has_no_further_say() -> None:
    scorer = _scorer()
    features = np.full((3, 21), 0.3)
    period = np.full(3, 0.2)
    at = scorer.inputs(features, context_len=np.array([700, 5_000, 128_000]), periodicity=period)
    np.testing.assert_array_equal(at[0], at[1])
    np.testing.assert_array_equal(at[0], at[2])


def test_evidence_names_the_inputs_that_speak_for_the_zone_and_never_the_length() -> None:
    token = np.zeros((5, NUM_INPUTS))
    token[2, 21] = 4.0  # periodicity, for structure_ripple
    token[2, 0] = -1.0
    token[2, -2] = 100.0  # ln_length
    scorer = replace(_scorer(), token=token)
    usual = np.zeros(NUM_INPUTS)
    here = np.zeros(NUM_INPUTS)
    here[21], here[0], here[-2] = 0.5, 0.5, 1.0
    (first, added), *rest = scorer.deciding(here, usual, 2, count=2)
    assert first == "periodicity"
    assert added == pytest.approx(0.8 * 4.0 * 0.5)
    assert not {"one", "ln_length", "ln_length_squared"} & {first, *(name for name, _ in rest)}


def test_a_file_gives_back_the_same_scorer(tmp_path: Path) -> None:
    scorer = _scorer()
    scorer.save(tmp_path / "one.json")
    read = ZoneScorer.load(tmp_path / "one.json")
    assert read.version == "test-0001"
    assert read.fingerprint() == scorer.fingerprint()
    inputs = _inputs(scorer, 20)
    np.testing.assert_allclose(read.token_probabilities(inputs), scorer.token_probabilities(inputs), atol=1e-4)
    read.save(tmp_path / "two.json")
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_the_fingerprint_is_of_the_numbers_and_not_of_what_is_told_of_them() -> None:
    scorer = _scorer()
    assert replace(scorer, provenance={"version": "other"}).fingerprint() == scorer.fingerprint()
    assert _scorer(1).fingerprint() != scorer.fingerprint()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda read: read.pop("token"), "not a zone calibration"),
        (lambda read: read.update(schema_version=2), "calibrate again"),
        (lambda read: read.update(zones=["a", "b"]), "calibrate again"),
        (lambda read: read.update(token=[[1.0]]), "token has shape"),
        (lambda read: read.update(lengths=[0.0, 10.0]), "above 0"),
        (lambda read: read["sequence"][0].__setitem__(0, float("nan")), "finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: object, said: str) -> None:
    read = _scorer().as_json()
    change(read)  # type: ignore[operator]
    (tmp_path / "bad.json").write_text(json.dumps(read), encoding="utf-8")
    with pytest.raises(CalibrationError, match=said):
        ZoneScorer.load(tmp_path / "bad.json")


def test_what_is_no_json_and_what_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    for name in ("bad.json", "missing.json"):
        with pytest.raises(CalibrationError, match="not a zone calibration"):
            ZoneScorer.load(tmp_path / name)


def test_models_are_told_by_the_last_part_of_their_id() -> None:
    assert model_name("HuggingFaceTB/SmolLM2-135M-Instruct") == "SmolLM2-135M-Instruct"
    assert same_model("/srv/models/tiny/", "org/tiny")
    assert not same_model("tiny", "tiny-2")
    assert not same_model(None, None)


def test_a_request_without_a_token_has_no_zone() -> None:
    with pytest.raises(CalibrationError, match="without a token"):
        SequenceSoFar().probabilities(_scorer())
