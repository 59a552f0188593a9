"""A window's space: relative to the length, of one matrix, the same when it is read back."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from synthetic_fingerprints import PROJECTION, draw

from attn_assets.discovery.learned_space import coordinates, learn_space
from attn_assets.discovery.models import Models
from attn_assets.discovery.window import Window, window_from_table
from attn_core.errors import BundleError
from attn_core.features import NUM_FEATURES
from attn_core.space import Space
from attn_core.store import HOUR_US


def window_of(count: int, *, projection: str | None = PROJECTION, seed: int = 0) -> tuple[Window, Models]:
    """Every other row has a sketch, of this matrix or of one that is not named."""
    rows = pa.Table.from_batches([draw(count, seed=seed, start_us=0, end_us=HOUR_US)])
    window = window_from_table(rows.append_column("head_projection", pa.array([projection] * count, pa.string())))
    return window, Models(names=("model",), of_row=np.zeros(count, dtype=np.int64))


def test_a_map_rests_on_the_matrix_of_most_rows_or_on_the_averages():
    window, models = window_of(400)
    space = learn_space(window, models, seed=0)
    assert space.projection == PROJECTION
    assert space.projected_model == "model"
    at = coordinates(window, models, space)
    assert at.sketch is not None
    assert at.in_main.tolist() == [i % 2 == 0 for i in range(400)]
    unnamed, models = window_of(400, projection=None)
    plain = learn_space(unnamed, models, seed=0)
    assert plain.projection is None
    assert coordinates(unnamed, models, plain).sketch is None


def test_what_goes_with_the_length_goes_out():
    """A number that follows ln n, and another one besides: relative to the length the first says nothing of it."""
    rng = np.random.default_rng(0)
    window, models = window_of(4_000)
    n = np.exp(rng.uniform(3, 8, len(window.vectors))).astype(np.int64)
    features = window.features.copy()
    features[:, 0] = 0.1 * np.log(n) + 0.05 * rng.normal(size=len(n))
    object.__setattr__(window, "features", features)
    object.__setattr__(window, "context_len", n)
    space = learn_space(window, models, seed=0)
    found = coordinates(window, models, space).averages[:, 0]
    assert abs(np.corrcoef(features[:, 0], np.log(n))[0, 1]) > 0.8
    assert abs(np.corrcoef(found, np.log(n))[0, 1]) < 0.05
    assert found.std() == pytest.approx(1.0, abs=0.1)


def test_sketch_columns_weigh_what_they_vary():
    window, models = window_of(2_000)
    sketch = window.sketch.copy()
    sketch[:, 0] *= 10
    object.__setattr__(window, "sketch", sketch)
    space = learn_space(window, models, seed=0)
    assert space.sketch_scale[0] == 1.0
    assert (space.sketch_scale[1:] < 0.3).all()
    at = coordinates(window, models, space).main[::2]
    assert at[:, 0].std() > 3 * at[:, 1:].std(axis=0).max()


def test_a_space_comes_back_to_the_bit(tmp_path):
    window, models = window_of(400)
    space = learn_space(window, models, seed=0)
    space.save(tmp_path / "space.json")
    again = Space.load(tmp_path / "space.json")
    assert again.as_json() == space.as_json()
    one, other = (coordinates(window, models, each) for each in (space, again))
    np.testing.assert_array_equal(one.averages, other.averages)
    np.testing.assert_array_equal(one.sketch, other.sketch)


@pytest.mark.parametrize(
    "wrong", [{"features_version": 1}, {"sketch_scale": [1.0]}, {"default": None}, {"of_model": 3}]
)
def test_what_is_no_space_is_refused(tmp_path, wrong):
    (tmp_path / "space.json").write_text(json.dumps({**Space.plain().as_json(), **wrong}))
    with pytest.raises(BundleError, match=r"space\.json"):
        Space.load(tmp_path / "space.json")


def test_an_empty_window_has_the_plain_space():
    window, models = window_of(2)
    empty = Window(**{name: one[:0] if isinstance(one, np.ndarray) else one for name, one in vars(window).items()})
    space = learn_space(empty, models, seed=0)
    assert space.as_json() == Space.plain().as_json()
    assert space.averages(np.zeros((0, NUM_FEATURES)), context_len=np.zeros(0), model_id=None).shape == (
        0,
        NUM_FEATURES,
    )
