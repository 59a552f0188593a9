import re

import numpy as np
import pytest
from attention_rows import draw
from hypothesis import given
from hypothesis import strategies as st

from attn_core import fingerprint
from attn_core.errors import InvalidFingerprint


def test_the_vector_has_the_guides_layout():
    assert len(fingerprint.NAMES) == fingerprint.DIM == 20
    assert fingerprint.NAMES[:4] == ("local_mass", "mid_mass", "long_mass", "entropy")
    assert fingerprint.NAMES[fingerprint.HISTOGRAM] == tuple(f"histogram_{k}" for k in range(8))
    assert fingerprint.NAMES[fingerprint.LAYER_ENTROPY] == tuple(f"layer_entropy_{k}" for k in range(8))


def test_thirty_layers_give_the_eight_of_the_contract():
    assert fingerprint.captured_layers(range(30)) == (0, 4, 8, 12, 17, 21, 25, 29)


def test_few_layers_repeat_and_hybrid_models_keep_their_numbers():
    assert fingerprint.captured_layers([0, 1, 2]) == (0, 0, 1, 1, 1, 1, 2, 2)
    assert fingerprint.captured_layers([5]) == (5,) * 8
    assert set(fingerprint.captured_layers(range(3, 40, 4))) <= set(range(3, 40, 4))
    with pytest.raises(InvalidFingerprint, match="no full-attention layer"):
        fingerprint.captured_layers([])


@given(st.integers(1, 200))
def test_captured_layers_ascend_from_first_to_last(num_layers):
    layers = fingerprint.captured_layers(range(num_layers))
    assert len(layers) == 8
    assert layers[0] == 0
    assert layers[-1] == num_layers - 1
    assert list(layers) == sorted(layers)


@given(st.integers(0, 2**31))
def test_every_true_fingerprint_is_valid(seed):
    drawn = draw(20, seed=seed)
    assert fingerprint.valid_rows(drawn.vectors, drawn.context_len).all()
    assert fingerprint.why_invalid(drawn.vectors, drawn.context_len) == [None] * 20


@pytest.mark.parametrize(
    ("index", "value", "says"),
    [
        (5, np.nan, "histogram_1 .index 5. is nan: every number must be finite"),
        (3, np.inf, "entropy .index 3. is inf"),
        (0, -0.2, "local_mass .index 0. is -0.2: a mass lies between 0 and 1"),
        (11, 1.5, "histogram_7 .index 11. is 1.5"),
        (1, 0.9, "the masses .indices 0-2. sum to"),
        (4, 0.9, "the histogram .indices 4-11. sum to"),
        (3, -1.0, "entropy .index 3. is -1 nats"),
        (15, 40.0, "layer_entropy_3 .index 15. is 40 nats: an entropy here is between 0 and ln"),
    ],
)
def test_a_broken_invariant_is_named(index, value, says):
    drawn = draw(3, seed=1)
    vectors = drawn.vectors.copy()
    vectors[1] = [0.2, 0.3, 0.5, 1.0, *[0.125] * 8, *[1.0] * 8]
    vectors[1, index] = value
    reasons = fingerprint.why_invalid(vectors, np.array([drawn.context_len[0], 500, drawn.context_len[2]]))
    assert reasons[0] is None
    assert reasons[2] is None
    assert reasons[1] is not None
    assert re.search(says, reasons[1])


def test_without_a_context_length_entropies_are_bounded_by_that_of_any_context():
    vector = np.array([[0.2, 0.3, 0.5, 9.0, *[0.125] * 8, *[1.0] * 8]], dtype=np.float32)
    for held in (vector, np.repeat(vector, 2, axis=0)):
        assert fingerprint.valid_rows(held).all()
        assert fingerprint.valid_rows(held, np.zeros(len(held), dtype=int)).all()
        assert not fingerprint.valid_rows(held, np.full(len(held), 100)).any()
        assert fingerprint.why_invalid(held) == [None] * len(held)
    most = np.log(fingerprint.MAX_CONTEXT_LEN)
    for index in (3, 12, 19):
        for value, holds in ((most, True), (most + 0.01, False), (800.0, False)):
            broken = vector.copy()
            broken[0, index] = value
            [reason] = fingerprint.why_invalid(broken)
            assert fingerprint.valid_rows(broken)[0] == (reason is None) == holds
            assert reason is None or f"between 0 and ln {fingerprint.MAX_CONTEXT_LEN}" in reason


@given(st.integers(0, 2**31), st.integers(0, 19), st.floats(-0.002, 0.002) | st.sampled_from([np.nan, np.inf, -1e30]))
def test_one_row_is_judged_as_it_is_in_a_batch(seed, index, moved):
    """The quick look at a single row decides as the definition does, on both sides of every border."""
    drawn = draw(1, seed=seed)
    vector = drawn.vectors.astype(np.float64)
    vector[0, index] += moved
    for n in (None, drawn.context_len):
        pair = fingerprint.why_invalid(np.repeat(vector, 2, axis=0), None if n is None else np.repeat(n, 2))
        assert fingerprint.why_invalid(vector, n) == pair[:1]


def test_blobs_are_eighty_little_endian_bytes_and_come_back():
    drawn = draw(5, seed=3)
    blobs = [fingerprint.blob_from_vector(vector) for vector in drawn.vectors]
    assert {len(blob) for blob in blobs} == {80}
    assert blobs[0][:4] == drawn.vectors[0, :1].astype("<f4").tobytes()
    np.testing.assert_array_equal(fingerprint.vectors_from_blobs(blobs), drawn.vectors)
    with pytest.raises(InvalidFingerprint, match="expected 20 numbers"):
        fingerprint.blob_from_vector([1.0] * 19)
    with pytest.raises(InvalidFingerprint, match="not 80 bytes"):
        fingerprint.vectors_from_blobs([b"short"])
