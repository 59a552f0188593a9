"""A model's head projection: learned from sampled heads, the same each time, and a new one is a new map."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from conftest import QUIET, Graph
from synthetic_fingerprints import draw, hour_start_us, store_rows

from attn_assets.defs.head_projection import build_head_projection_sensor, head_projection
from attn_assets.discovery.previous import rested_on
from attn_assets.head_learning import Sample, learn, sample_of
from attn_core.bundle import open_bundle
from attn_core.errors import ProjectionError
from attn_core.head_projection import FOLDER, HEAD_FIGURES, NUM_SKETCH, current_projection
from attn_core.store import (
    HOUR_US,
    STORED_HEAD_FIGURES,
    insert_fingerprints,
    insert_head_figures,
    open_writer,
    read_head_figures,
)

LAYERS, HEADS = (3, 9), 4
WIDTH = len(LAYERS) * HEADS * len(HEAD_FIGURES)


def figures_of(count: int, *, seed: int = 0, hidden: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Figures that follow `hidden` traits of each token, and the context length besides; and the lengths."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    context_len = rng.integers(20, 900, count)
    directions = fixed.normal(size=(hidden, WIDTH))
    traits = rng.normal(size=(count, hidden)) * np.linspace(3, 1, hidden)
    with_length = np.outer(np.log(context_len) - 5, fixed.normal(size=WIDTH)) * 2
    noise = 0.3 * rng.normal(size=(count, WIDTH))
    return (0.5 + 0.02 * (traits @ directions + with_length + noise)).astype(np.float32), context_len


def sample(count: int = 2_000, *, seed: int = 0) -> Sample:
    figures, context_len = figures_of(count, seed=seed)
    return Sample(
        figures=figures,
        context_len=context_len,
        request_no=np.arange(count) // 20,
        layers=LAYERS,
        num_heads=HEADS,
    )


def test_the_columns_are_what_varies_beside_the_length():
    drawn = sample()
    learned = learn(drawn, model_id="org/model")
    assert learned.projection.model == "model"
    assert learned.projection.layers == LAYERS
    assert learned.stability > 0.3
    assert learned.variance_held > 0.8
    assert learned.projection.sha256 == learn(drawn, model_id="org/model").projection.sha256
    assert not learned.projection.has_evidence
    # Masses at middle and long distance have no part in the sketch.
    by_figure = learned.projection.matrix.reshape(-1, len(HEAD_FIGURES), 21)[:, :, :NUM_SKETCH]
    for k, name in enumerate(HEAD_FIGURES):
        assert by_figure[:, k].any() == (name in ("sink_mass", "local_mass", "entropy"))


def test_a_matrix_needs_enough_tokens_of_enough_requests():
    with pytest.raises(ProjectionError, match="--attention-head-sample"):
        sample_of(pa.Table.from_pylist([], schema=STORED_HEAD_FIGURES))


def store_figures(db: Path, count: int, *, seed: int = 0, model_id: str = "synthetic") -> None:
    """Tokens with raw head figures, 20 a request."""
    start = hour_start_us(1)
    rows = draw(count, seed=seed, start_us=start, end_us=start + HOUR_US)
    figures, _ = figures_of(count, seed=seed)
    place = rows.schema.get_field_index("head_figures")
    column = pa.array(list(figures), pa.list_(pa.float32()))
    rows = pa.RecordBatch.from_arrays(
        [column if k == place else one for k, one in enumerate(rows.columns)], schema=rows.schema
    )
    with closing(open_writer(db)) as connection:
        insert_fingerprints(connection, rows, model_id=model_id, stored_at_us=start)
        insert_head_figures(connection, rows, model_id=model_id, layers=LAYERS, num_heads=HEADS)
        connection.commit()


def materialise(graph: Graph, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [head_projection], instance=graph.instance, resources=graph.resources, raise_on_error=raise_on_error,
        run_config=QUIET,
    )  # fmt: skip


def test_the_asset_learns_what_the_server_sampled_and_says_what_it_replaces(graph: Graph) -> None:
    store_figures(graph.settings.db, 2_000)
    with closing(open_writer(graph.settings.db)) as connection:
        assert read_head_figures(connection, model_id="synthetic", limit=9).num_rows == 9
    result = materialise(graph)
    assert {one.check_name: one.passed for one in result.get_asset_check_evaluations()} == {
        "head_projection_is_stable": True,
        "sketch_holds_the_variance": True,
    }
    kept = current_projection(graph.settings.discovery_dir / FOLDER, "synthetic")
    assert kept is not None
    [made] = result.asset_materializations_for_node("head_projection")
    assert made.metadata["sha256"].value == kept.sha256
    assert made.metadata["replaces"].value == "None"
    store_figures(graph.settings.db, 1_500, seed=5)
    [again] = materialise(graph).asset_materializations_for_node("head_projection")
    assert again.metadata["replaces"].value == kept.sha256
    assert again.metadata["sha256"].value != kept.sha256


def test_too_few_tokens_make_no_matrix_and_leave_the_one_there_is(graph: Graph) -> None:
    store_figures(graph.settings.db, 300)
    assert not materialise(graph, raise_on_error=False).success
    assert current_projection(graph.settings.discovery_dir / FOLDER, "synthetic") is None


def test_a_models_first_matrix_is_requested_once_there_is_enough(graph: Graph) -> None:
    sensor = build_head_projection_sensor()

    def look():
        context = dg.build_sensor_context(instance=graph.instance, resources=graph.resources)
        return sensor.evaluate_tick(context)

    store_figures(graph.settings.db, 300)
    assert "of 1000 tokens" in str(look().skip_message)
    store_figures(graph.settings.db, 2_000, seed=1)
    [request] = look().run_requests
    assert request.run_config == {"ops": {"head_projection": {"config": {"model_id": "synthetic"}}}}
    materialise(graph)
    assert look().skip_message == "synthetic has a matrix"


def test_no_map_holds_sketches_of_two_matrices_and_the_next_run_says_so(graph: Graph) -> None:
    """The server's matrix changes under traffic: the window of both rests on the one with the most rows."""
    rows = graph.fill(600, hours_ago=2)
    graph.make(hours_ago=2)
    first = open_bundle(graph.settings.discovery_dir / "latest")
    start = hour_start_us(1)
    later = draw(1_400, seed=3, start_us=start, end_us=start + HOUR_US)
    store_rows(graph.settings.db, later, head_projection="ef" * 32)
    graph.make(hours_ago=1)
    second = open_bundle(graph.settings.discovery_dir / "latest")
    assert rested_on(first) == "cd" * 32
    assert rested_on(second) == "ef" * 32
    assert first.manifest["frame"]["event"] == "first"
    assert second.manifest["frame"]["event"] == "new_space"
    assert second.manifest["num_fingerprints"] == rows.num_rows + later.num_rows, "no row is lost"
    assert second.manifest["metrics"]["num_with_sketch"] == later.num_rows // 2
    points = second.table("embeddings")
    assert np.isfinite(points["x"].to_numpy()).all(), "rows without the matrix's sketch are placed by their averages"
    assert second.manifest["next_cluster_id"] >= first.manifest["next_cluster_id"]
