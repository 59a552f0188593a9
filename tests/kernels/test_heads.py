"""Which head projection a server uses, from its own directory or shipped, and which tokens give their raw figures."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_core.errors import ProjectionError
from attn_core.head_projection import HeadProjection, projection_file, put_projection
from attn_kernels.sglang_plugin import heads as module
from attn_kernels.sglang_plugin.heads import AGREE_STEPS, SAMPLE_WITH_MATRIX, Heads

LAYERS = (0, 0, 0, 1, 1, 2, 2, 2)


def projection(seed: int, **changes: Any) -> HeadProjection:
    shape = {"model": "demo", "layers": (0, 1, 2), "num_heads": 4, **changes}
    matrix = np.random.default_rng(seed).normal(size=(len(shape["layers"]) * shape["num_heads"] * 5, 21))
    return HeadProjection(matrix=matrix.astype(np.float32), offset=np.zeros(21, np.float32), **shape)


def make(folder: Path, **changes: Any) -> Heads:
    options = {"model_id": "/models/demo", "layers": LAYERS, "num_heads": 4, "sample": 8, **changes}
    return Heads(folder=folder, **options)


def used(heads: Heads) -> str | None:
    found = heads.step(1).projection
    return None if found is None else found.sha256


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, HeadProjection]]:
    """What comes with the package; a test puts it there."""
    with_package: dict[str, HeadProjection] = {}
    monkeypatch.setattr(module, "shipped_projection", lambda model_id: with_package.get(Path(model_id).name))
    return with_package


def test_its_own_comes_before_the_shipped_one(tmp_path: Path, shipped: dict[str, HeadProjection]) -> None:
    assert used(make(tmp_path)) is None
    shipped["demo"] = projection(1)
    assert used(make(tmp_path)) == projection(1).sha256
    put_projection(tmp_path, projection(2))
    heads = make(tmp_path)
    assert heads.in_use is not None, "known before the first step"
    assert heads.in_use.sha256 == used(heads) == projection(2).sha256
    (tmp_path / projection_file("demo")).unlink()
    assert used(heads) == projection(1).sha256, "back to the shipped one"


@pytest.mark.parametrize("change", [{"layers": (0, 1)}, {"num_heads": 5}])
def test_what_does_not_fit_is_not_used(
    tmp_path: Path, shipped: dict[str, HeadProjection], change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    shipped["demo"] = projection(1, **change)
    put_projection(tmp_path, projection(2, **change))
    assert used(make(tmp_path)) is None
    assert projection_file("demo") in caplog.text
    shipped["demo"] = projection(1)
    assert used(make(tmp_path)) == projection(1).sha256


def test_a_file_that_is_replaced_is_used_from_the_next_step_on(tmp_path: Path) -> None:
    heads = make(tmp_path)
    assert used(heads) is None
    for seed in (1, 2, 1):
        put_projection(tmp_path, projection(seed))
        assert used(heads) == projection(seed).sha256


def test_a_torn_file_changes_nothing_and_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put_projection(tmp_path, projection(1))
    heads = make(tmp_path)
    path.write_bytes(projection(2).to_bytes()[:-100])
    with caplog.at_level(logging.ERROR):
        assert [used(heads) for _ in range(3)] == [projection(1).sha256] * 3
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(path) in line
    # A server that starts with it serves, and takes the next offer in its place.
    heads = make(tmp_path)
    assert used(heads) is None
    assert heads.take(projection(2).to_bytes())
    assert used(heads) == projection(2).sha256


def test_what_is_taken_is_checked_and_kept(tmp_path: Path, shipped: dict[str, HeadProjection]) -> None:
    shipped["demo"] = projection(9)
    heads = make(tmp_path / "anew")
    assert not heads.take(projection(9).to_bytes()), "the shipped one is in use already"
    assert not heads.folder.exists()
    assert heads.take(projection(1).to_bytes())
    assert not heads.take(projection(1).to_bytes())
    for bad in (projection(2, model="other"), projection(2, layers=(0, 1)), projection(2, num_heads=3)):
        with pytest.raises(ProjectionError, match="does not fit"):
            heads.take(bad.to_bytes())
    with pytest.raises(ProjectionError):
        heads.take(b"PK")
    assert used(heads) == used(make(tmp_path / "anew")) == projection(1).sha256


def share(heads: Heads, *, rows: int, steps: int = 20_000) -> float:
    """Of all tokens, those that gave their figures."""
    found = [heads.step(rows).sampled for _ in range(steps)]
    given = [one for one in found if one is not None]
    assert set(given) <= set(range(rows))
    if len(given) > 1000:  # each row about as often as the others
        assert min(np.bincount(given, minlength=rows)) > 0.7 * len(given) / rows
    return len(given) / (rows * steps)


@pytest.mark.parametrize(("sample", "rows", "expected"), [(8, 1, 1 / 8), (8, 4, 1 / 8), (1, 1, 1.0), (2, 8, 1 / 8)])
def test_one_token_in_n_gives_its_figures_and_one_a_step_at_most(
    tmp_path: Path, sample: int, rows: int, expected: float
) -> None:
    assert share(make(tmp_path, sample=sample), rows=rows) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("sample", "expected"), [(8, 1 / SAMPLE_WITH_MATRIX), (1024, 1 / 1024)])
def test_with_a_matrix_they_are_few(tmp_path: Path, sample: int, expected: float) -> None:
    put_projection(tmp_path, projection(1))
    assert share(make(tmp_path, sample=sample), rows=8) == pytest.approx(expected, rel=0.2)


def test_never_is_never(tmp_path: Path) -> None:
    heads = make(tmp_path, sample=0)
    assert share(heads, rows=4, steps=3000) == 0
    put_projection(tmp_path, projection(1))
    assert share(heads, rows=4, steps=3000) == 0


class Group:
    """Two ranks, each on a thread of its own: each says its number, and hears whether the other's is the same."""

    def __init__(self) -> None:
        self._numbers = [0, 0]
        self._all_have_said = threading.Barrier(2, timeout=30)

    def say(self, rank: int, number: int) -> bool:
        self._numbers[rank] = number
        self._all_have_said.wait()
        agreed = self._numbers[0] == self._numbers[1]
        self._all_have_said.wait()
        return agreed


def test_ranks_use_a_matrix_from_the_step_on_in_which_all_have_found_it(tmp_path: Path) -> None:
    group = Group()
    folders = tmp_path / "0", tmp_path / "1"
    ranks = [make(folders[r], agree=lambda number, r=r: group.say(r, number)) for r in (0, 1)]

    def next_steps() -> set[tuple[str | None, ...]]:
        """All that the two used side by side, from one question to the next."""
        with ThreadPoolExecutor(2) as pool:
            each = list(pool.map(lambda rank: [used(rank) for _ in range(AGREE_STEPS)], ranks))
        return set(zip(*each, strict=True))

    assert next_steps() == {(None, None)}
    put_projection(folders[0], projection(1))
    assert next_steps() == {(None, None)}, "found by one alone: no sketch"
    put_projection(folders[1], projection(1))
    assert next_steps() == {(projection(1).sha256,) * 2}
    put_projection(folders[1], projection(2))
    assert next_steps() == {(projection(1).sha256,) * 2}, "the one that both hold stays"


def test_ranks_sample_the_same_tokens(tmp_path: Path) -> None:
    ranks = [make(tmp_path, agree=lambda n: True) for _ in range(2)]
    drawn = [[rank.step(3).sampled for _ in range(500)] for rank in ranks]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {None, 0, 1, 2}
