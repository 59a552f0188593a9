"""Repetition and data without clusters: equal rows are one point, and first data gets a map whatever it holds."""

import time
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_fingerprints import draw, store_rows

from attn_assets.defs import checks, in_process
from attn_assets.defs.in_process import Request
from attn_assets.defs.resources import Progress
from attn_assets.discovery.distinct import distinct_rows
from attn_assets.discovery.embedding import NoKeeper, embed
from attn_assets.discovery.quality import trustworthiness
from attn_assets.summary import summary
from attn_core.bundle import open_bundle
from attn_core.fingerprint import DIM
from attn_core.store import HOUR_US, open_reader, read_fingerprints


@given(
    kinds=st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3), min_size=1, max_size=6),
    which=st.lists(st.integers(0, 5), max_size=40),
)
def test_distinct_rows_are_those_of_numpy(kinds, which):
    rows = np.array([kinds[k % len(kinds)] for k in which], dtype=np.float32).reshape(-1, 3)
    found = distinct_rows(rows)
    assert (np.diff(found.first) > 0).all()
    assert np.array_equal(rows[found.first][found.kind], rows)
    assert len(found.first) == len(np.unique(rows + np.float32(0), axis=0))
    assert found.weight.sum() == len(rows)


def test_equal_rows_share_a_place_and_count_once():
    rng = np.random.default_rng(3)
    distinct = rng.normal(size=(300, 6)).astype(np.float32)
    rows = np.concatenate([distinct, np.repeat(distinct[:10], 70, axis=0)])
    plain = embed(distinct, sample_size=200, batch_size=64, seed=1, keeper=NoKeeper(), report=lambda *_: None,
                  row_ids=np.arange(300))  # fmt: skip
    done = []
    repeated = embed(rows, sample_size=200, batch_size=64, seed=1, keeper=NoKeeper(),
                     report=lambda *at: done.append(at), row_ids=np.arange(1000))  # fmt: skip
    assert np.array_equal(repeated.positions[:300], plain.positions)
    assert np.array_equal(repeated.positions[300:], np.repeat(plain.positions[:10], 70, axis=0))
    assert repeated.in_sample.sum() == 200
    assert not repeated.in_sample[300:].any()
    assert done[-1] == (1000, 1000)
    assert trustworthiness(rows, repeated.positions, seed=0) == trustworthiness(distinct, plain.positions, seed=0)


def discovered(tmp_path, rows, *, sample=2000):
    """A run over these rows, as `attn-discover` makes it; returns its figures and its bundle."""
    db, output = tmp_path / "a.db", tmp_path / "runs"
    store_rows(db, rows)
    state, count = in_process.begin(
        db, output, Request(hours=4, min_cluster_size=20, umap_sample_size=sample, batch_size=500, seed=1)
    )
    assert count == rows.num_rows or output.exists()
    figures = in_process.run(state, db=db, output=output, progress=Progress(), checkpoint=None)
    return figures, open_bundle(output / "latest")


def test_a_health_probe_of_two_thirds_of_the_window_stops_no_map(tmp_path):
    """Trustworthiness was 0.72 with 70% of the rows equal in groups, below its bound of 0.75."""
    now = time.time_ns() // 1000
    rows = draw(900, seed=1, start_us=now - 3 * HOUR_US, end_us=now - 1_000_000)
    probe = rows.slice(0, 30)
    repeated = pa.concat_batches(
        [rows, *(with_request(probe, f"probe-{k}", rows, at_us=now - 2 * HOUR_US + k) for k in range(70))]
    )
    figures, bundle = discovered(tmp_path, repeated)
    assert figures["trustworthiness"] >= 0.75
    assert figures["num_distinct"] == 900
    points = bundle.table("embeddings")
    ids = np.array(points.column("request_id").to_pylist())
    steps = points.column("step").to_numpy()
    for column in ("x", "y", "cluster_id"):
        values = points.column(column).to_numpy()
        for step in range(30):
            mine = values[np.char.startswith(ids, "probe-") & (steps == step)]
            assert len(mine) == 70
            assert len(set(mine.tolist())) == 1, (column, step)
    sizes = sum(row["size"] for row in bundle.table("clusters").to_pylist())
    noise = (points.column("cluster_id").to_numpy() < 0).sum()
    assert sizes + noise == 3000


def with_request(rows, request_id, like, *, at_us):
    """The same vectors as another request's, at another time."""
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns["request_id"] = pa.array([request_id] * rows.num_rows)
    columns["captured_at_us"] = pa.array(at_us + np.arange(rows.num_rows))
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=like.schema)


def unclustered(count, *, seed, start_us, end_us):
    """Rows without any kinds: every number drawn by itself."""
    rng = np.random.default_rng(seed)
    rows = draw(count, seed=seed, start_us=start_us, end_us=end_us)
    n = rows.column("context_len").to_numpy()
    vectors = np.concatenate(
        [
            rng.dirichlet([2, 1, 1], count), (rng.uniform(0.1, 0.9, count) * np.log(n))[:, None],
            rng.dirichlet([1] * 8, count), np.repeat(rng.uniform(0.1, 0.9, (count, 1)), 8, axis=1) * np.log(n)[:, None],
        ],
        axis=1,
    ).astype(np.float32)  # fmt: skip
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    for name in ("head_sketch", "zone_evidence"):
        columns[name] = pa.nulls(count, rows.schema.field(name).type)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=rows.schema)


def refusing(monkeypatch, least):
    """Demand an agreement that no classifier of such data reaches."""
    settings = in_process.Settings

    def strict():
        return settings(min_agreement=least)

    monkeypatch.setattr(in_process, "Settings", strict)


def test_first_data_without_clear_clusters_gets_a_map_that_says_so(tmp_path, monkeypatch):
    """It ended with exit status 1, and nothing was shown."""
    refusing(monkeypatch, 1.0)
    now = time.time_ns() // 1000
    rows = unclustered(3000, seed=5, start_us=now - 3 * HOUR_US, end_us=now - 1_000_000)
    figures, bundle = discovered(tmp_path, rows)
    assert figures["refused_cluster_agreement"] < 1.0
    assert bundle.manifest["num_clusters"] == 0
    assert bundle.manifest["note"].startswith("no clear clusters: ")
    assert f"{figures['refused_cluster_agreement']:.0%} of held-out" in bundle.manifest["note"]
    assert "No clear clusters" in summary(bundle)
    points = bundle.table("embeddings")
    assert points.num_rows == 3000
    assert set(points.column("cluster_id").to_pylist()) == {-1}
    assert len(set(points.column("zone").to_pylist())) > 1
    assert bundle.table("clusters").num_rows == 0
    with closing(open_reader(tmp_path / "a.db")) as connection:
        assert connection.execute("SELECT status, num_clusters FROM discovery_runs").fetchall() == [("published", 0)]
        assert read_fingerprints(connection, start_us=0, end_us=2**60).num_rows == 3000


def test_clusters_that_are_relied_on_are_not_lost_to_a_run_without_clear_ones(tmp_path, monkeypatch):
    """Where `latest` has clusters a run that disagrees is refused, as ever."""
    now = time.time_ns() // 1000
    _, before = discovered(tmp_path, draw(1200, seed=1, start_us=now - 3 * HOUR_US, end_us=now - 1_000_000))
    assert before.manifest["num_clusters"] > 0
    refusing(monkeypatch, 1.0)
    with pytest.raises(in_process.DiscoveryFailed, match="classifier"):
        discovered(tmp_path, draw(300, seed=2, start_us=now - 2 * HOUR_US, end_us=now - 1_000_000, apart=0.8))
    assert open_bundle(tmp_path / "runs" / "latest").run_id == before.run_id


def test_the_noise_of_a_repeated_row_counts_once():
    labels = pa.array([-1] * 9500 + [0] * 500, pa.int32())
    for num_distinct_noise, passed in ((50, True), (9500, False)):
        is_first = np.arange(10_000) < num_distinct_noise
        is_first[9500:] = True
        tables = {"points": pa.table({"cluster_id": labels, "is_first": is_first})}
        assert checks.noise_share_is_bounded(tables, max_noise_share=0.9).passed is passed
