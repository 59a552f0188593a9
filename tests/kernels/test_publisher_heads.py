"""Head projections over the publisher's connection: a batch names one, and what is offered is taken or refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Sink
from test_publisher import FAST, INFO, address, sinks, step  # noqa: F401 - fixtures

from attn_core.head_projection import HeadProjection, projection_file
from attn_kernels.outbox import Limits
from attn_kernels.publisher import Publisher
from attn_kernels.rows import StepRows
from attn_kernels.sglang_plugin.heads import Heads


def projection(seed: int, **changes: Any) -> HeadProjection:
    draw = np.random.default_rng(seed)
    shape = {"model": INFO.model_id, "layers": INFO.captured_layers, "num_heads": INFO.num_heads, **changes}
    rows = len(shape["layers"]) * shape["num_heads"] * 5
    matrix, offset = draw.normal(size=(rows, 21)).astype(np.float32), np.zeros(21, np.float32)
    return HeadProjection(matrix=matrix, offset=offset, **shape)


def sketched(number: int, by: str | None) -> StepRows:
    sketches = None if by is None else np.full((2, 21), number, np.float32)
    return replace(step(number), head_projection=by, sketches=sketches)


@pytest.fixture
def heads(tmp_path: Path) -> Heads:
    info = {"model_id": INFO.model_id, "layers": INFO.captured_layers, "num_heads": INFO.num_heads}
    return Heads(folder=tmp_path / "heads", sample=8, **info)


@pytest.fixture
def publishing(address: str, heads: Heads) -> Iterator[Publisher]:  # noqa: F811
    made = Publisher(address=address, info=INFO, text_of=str, limits=FAST, take_matrix=heads.take)
    yield made
    made.close(1)


def test_a_batch_is_cut_where_the_matrix_changes(address: str, sinks: list[Sink]) -> None:  # noqa: F811
    """All nine steps are there before anything is sent: one batch a matrix, in order, and each names its own."""
    slow = Limits(batch_interval_s=30.0)
    publishing = Publisher(address=address, info=INFO, text_of=str, limits=slow)
    by = [None, None, "a" * 64, "a" * 64, "b" * 64, "a" * 64, "a" * 64, None, None]
    for number, name in enumerate(by):
        publishing.put(sketched(number, name))
    sinks.append(Sink(address))
    assert publishing.close(10)
    told = [(batch.info.head_projection, batch.rows.num_rows) for batch in sinks[0].batches]
    assert told == [(None, 4), ("a" * 64, 4), ("b" * 64, 2), ("a" * 64, 4), (None, 4)]
    rows = sinks[0].rows("fingerprints")
    assert [row["step"] for row in rows] == [number for number in range(9) for _ in range(2)]
    for row in rows:
        name = by[row["step"]]
        assert row["head_sketch"] == (None if name is None else [row["step"]] * 16)
        assert row["zone_evidence"] == (None if name is None else [row["step"]] * 5)


def until(sink: Sink, publishing: Publisher, heads: Heads, condition: Any, *, first: int) -> int:
    """Steps, one after the other as they arrive, until it is so; how many there were."""
    number = first
    while not condition():
        assert number < first + 1000
        in_use = heads.step(2).projection
        publishing.put(sketched(number, None if in_use is None else in_use.sha256))
        sink.wait(lambda number=number: number in sink.steps("r0"))
        number += 1
    return number


def named(sink: Sink) -> str | None:
    """The matrix of the newest batch."""
    return sink.batches[-1].info.head_projection if sink.batches else None


def test_an_offered_matrix_is_used_from_the_next_step_on_and_no_row_is_lost(
    address: str,  # noqa: F811
    sinks: list[Sink],  # noqa: F811
    publishing: Publisher,
    heads: Heads,
) -> None:
    sinks.append(Sink(address))
    number = 0
    for seed in (1, 2):
        sinks[0].offer(projection(seed).to_bytes())
        number = until(
            sinks[0], publishing, heads, lambda s=seed: named(sinks[0]) == projection(s).sha256, first=number
        )
    for request_id in ("r0", "r1"):
        assert sinks[0].steps(request_id) == list(range(number))
    assert [path.name for path in heads.folder.iterdir()] == [projection_file(INFO.model_id)]
    figures = publishing.figures()
    assert (figures.head_projections_taken, figures.head_projections_refused, figures.errors) == (2, 0, 0)
    # The same once more: it is known already.
    sinks[0].offer(projection(2).to_bytes())
    sinks[0].offer(b"the mark that the one before it has been read")
    until(sinks[0], publishing, heads, lambda: publishing.figures().head_projections_refused == 1, first=number)
    assert publishing.figures().head_projections_taken == 2


BAD = {
    "no file": b"PK no such thing",
    "nothing": b"",
    "half": projection(1).to_bytes()[:-200],
    "another model": projection(1, model="other").to_bytes(),
    "other layers": projection(1, layers=(0, 1)).to_bytes(),
    "other heads": projection(1, num_heads=3).to_bytes(),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_frame_is_counted_and_nothing_else_happens(
    address: str,  # noqa: F811
    sinks: list[Sink],  # noqa: F811
    publishing: Publisher,
    heads: Heads,
    caplog: pytest.LogCaptureFixture,
    case: str,
) -> None:
    heads.take(projection(7).to_bytes())
    sinks.append(Sink(address))
    sinks[0].offer(BAD[case])
    with caplog.at_level(logging.ERROR):
        number = until(sinks[0], publishing, heads, lambda: publishing.figures().head_projections_refused == 1, first=0)
    publishing.put(sketched(number, heads.step(2).projection.sha256))  # type: ignore[union-attr]
    sinks[0].wait(lambda: number in sinks[0].steps("r0"))
    assert sinks[0].steps("r0") == list(range(number + 1))
    assert {batch.info.head_projection for batch in sinks[0].batches} == {projection(7).sha256}
    figures = publishing.figures()
    assert (figures.head_projections_taken, figures.errors, figures.batches_dropped) == (0, 0, 0)
    assert "a head projection from" in caplog.text
    assert "refused (1 so far)" in caplog.text


def test_a_matrix_that_cannot_be_kept_is_counted(
    address: str,  # noqa: F811
    sinks: list[Sink],  # noqa: F811
    publishing: Publisher,
    heads: Heads,
    caplog: pytest.LogCaptureFixture,
) -> None:
    heads.folder.write_text("a file in the place of the folder")
    sinks.append(Sink(address))
    sinks[0].offer(projection(1).to_bytes())
    until(sinks[0], publishing, heads, lambda: publishing.figures().head_projections_refused == 1, first=0)
    assert str(heads.folder) in caplog.text
    assert heads.step(2).projection is None
