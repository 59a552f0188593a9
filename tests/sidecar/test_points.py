"""`/points`: fair at every size, nested, small on the wire, and the same for every view of it."""

import errno
import gc
import json
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidecar_tools import START_US, publish_bundle

from attn_core.zones import ZONES
from attn_sidecar.map.points import COLUMNS, DEFAULT_COLUMNS, PointMap, View, stream_of
from attn_sidecar.map.ranking import keys_of, order_of

FIRST, SECOND = "2026-01-10T04-02-11", "2026-01-10T05-00-00"


def table_of(answer):
    assert answer.status_code == 200, answer.text
    return pa.ipc.open_stream(answer.content).read_all()


@pytest.fixture
def two_runs(client, settings):
    publish_bundle(settings.discovery_dir, run_id=FIRST)
    publish_bundle(settings.discovery_dir, run_id=SECOND, num_points=60, seed=2, cluster_ids=(3, 8))
    client.post("/discovery/reload")
    return client


def embeddings(settings, run_id):
    return pq.read_table(settings.discovery_dir / run_id / "embeddings.parquet")


# --- the order -------------------------------------------------------------------------------------------------------

sizes_strategy = st.lists(st.integers(1, 200), min_size=1, max_size=6)


@given(sizes=sizes_strategy, seed=st.integers(0, 2**32 - 1))
def test_every_beginning_holds_each_stratum_by_the_root_of_its_size(sizes, seed):
    rng = np.random.default_rng(seed)
    strata = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = order_of(strata, rng.integers(0, 2**63, len(strata)).astype(np.uint64))
    assert sorted(order.tolist()) == list(range(len(strata)))
    # Every stratum's first point comes before any stratum's second.
    assert set(strata[order[: len(sizes)]]) == set(range(len(sizes)))
    for k in range(1, len(strata) + 1):
        taken = np.bincount(strata[order[:k]], minlength=len(sizes))
        # Rank times: stratum s gives its j-th at j / sqrt(n_s), so no one is a full turn ahead of another.
        reached = [(taken[s] - 1) / np.sqrt(n) for s, n in enumerate(sizes)]
        waiting = [taken[s] / np.sqrt(n) for s, n in enumerate(sizes) if taken[s] < n]
        assert not waiting or max(reached) <= min(waiting) + 1e-9


def test_the_order_depends_on_the_tokens_and_not_on_their_rows():
    ids = pa.array(["a", "b", "a", "b", "c", "c"]).dictionary_encode()
    steps = np.array([0, 0, 1, 1, 0, 1])
    keys = keys_of(ids, steps)
    shuffled = [4, 2, 0, 5, 1, 3]
    again = keys_of(
        pa.array([["a", "b", "a", "b", "c", "c"][i] for i in shuffled]).dictionary_encode(), steps[shuffled]
    )
    assert keys[shuffled].tolist() == again.tolist()
    assert len(set(keys.tolist())) == 6


# --- the answer ------------------------------------------------------------------------------------------------------


def test_the_default_is_what_a_map_is_drawn_from(two_runs, settings):
    table = table_of(two_runs.get("/points"))
    assert tuple(table.column_names) == DEFAULT_COLUMNS
    assert [str(table.schema.field(name).type) for name in DEFAULT_COLUMNS] == [
        "float",
        "float",
        "dictionary<values=string, indices=int8, ordered=0>",
        "dictionary<values=int32, indices=int16, ordered=0>",
        "uint32",
    ]
    held = embeddings(settings, SECOND)
    for row in table.to_pylist():
        at = row["point"]
        assert row == {
            **{name: held.column(name)[at].as_py() for name in ("x", "y", "zone", "cluster_id")},
            "point": at,
        }
    assert sorted(table.column("point").to_pylist()) == list(range(60))
    said = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert (said["run_id"], said["num_points"], said["num_returned"]) == (SECOND, "60", "60")
    assert json.loads(said["strata"]) == [
        {"cluster_id": 3, "zone": ZONES[1], "num_points": 30, "num_returned": 30},
        {"cluster_id": 8, "zone": ZONES[3], "num_points": 30, "num_returned": 30},
    ]


def test_a_point_costs_at_most_16_bytes(tmp_path):
    points = PointMap.load(publish_bundle(tmp_path, num_points=20_000), run_id=FIRST)
    size = sum(map(len, stream_of(points.batches(points.select(View(), max_points=None), names=DEFAULT_COLUMNS))))
    assert size / 20_000 <= 16


@pytest.mark.parametrize("box", [{}, {"x0": -0.5}, {"x0": -1, "x1": 1, "y0": -1, "y1": 1}, {"x0": 90}])
def test_more_points_contain_fewer_and_the_counts_are_of_all(two_runs, settings, box):
    held = embeddings(settings, SECOND).to_pylist()
    inside = {
        at
        for at, row in enumerate(held)
        if box.get("x0", -99) <= row["x"] < box.get("x1", 99) and box.get("y0", -99) <= row["y"] < box.get("y1", 99)
    }
    before = []
    for most in (1, 2, 5, 20, 60, 1000):
        table = table_of(two_runs.get("/points", params={**box, "max_points": most}))
        points = table.column("point").to_pylist()
        assert points[: len(before)] == before
        assert len(points) == min(most, len(inside))
        assert set(points) <= inside
        assert int(table.schema.metadata[b"num_points"]) == len(inside)
        strata = json.loads(table.schema.metadata[b"strata"])
        assert sum(one["num_points"] for one in strata) == len(inside)
        assert sum(one["num_returned"] for one in strata) == len(points)
        before = points


def test_points_lie_in_a_mapped_file_and_not_on_the_heap(tmp_path):
    """What Arrow holds on the heap for a map does not grow with its points, and nothing is left in the folder."""
    folder = publish_bundle(tmp_path / "runs", num_points=20_000)
    before = pa.total_allocated_bytes()
    points = PointMap.load(folder, run_id=FIRST)
    gc.collect()
    held = pa.total_allocated_bytes() - before
    assert points.columns.nbytes > 20_000 * 30
    assert held < points.columns.nbytes / 10
    assert points.columns.equals(PointMap.load(folder, run_id=FIRST).columns)


def test_a_full_temporary_folder_does_not_refuse_a_run(tmp_path, monkeypatch, caplog):
    folder = publish_bundle(tmp_path / "runs", num_points=50)
    mapped = PointMap.load(folder, run_id=FIRST)

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    plain = PointMap.load(folder, run_id=FIRST)
    assert plain.columns.equals(mapped.columns)
    assert "discovery.not_mapped" in caplog.text


def test_a_rare_zone_is_seen_on_a_small_map(tmp_path, monkeypatch):
    """Ten points of a zone among 20,000 are on a map of 500; a sample by size alone would show none or one."""
    path = publish_bundle(tmp_path, num_points=20_000)
    table = pq.read_table(path / "embeddings.parquet")
    zones = [ZONES[2] if at % 2000 == 7 else zone for at, zone in enumerate(table.column("zone").to_pylist())]
    changed = table.set_column(table.column_names.index("zone"), "zone", pa.array(zones))
    pq.write_table(changed, path / "embeddings.parquet")
    points = PointMap.load(path, run_id=FIRST)
    selection = points.select(View(), max_points=500)
    returned = {
        zone: sum(s["num_returned"] for s in selection.strata if s["zone"] == zone) for zone in (ZONES[1], ZONES[2])
    }
    assert returned[ZONES[2]] >= 5
    assert returned[ZONES[1]] > 200


def test_an_hour_holds_what_was_captured_in_it(two_runs):
    hour = "2023-11-14T22:00Z"
    whole = table_of(two_runs.get("/points", params={"hour": hour, "columns": "captured_at_us"}))
    assert min(whole.column("captured_at_us").to_pylist()) == START_US
    assert whole.num_rows == 60
    assert table_of(two_runs.get("/points", params={"hour": "2023-11-14T21"})).num_rows == 0


def test_every_column_can_be_asked_for(two_runs, settings):
    table = table_of(two_runs.get("/points", params={"columns": ",".join(COLUMNS), "max_points": 5}))
    held = embeddings(settings, SECOND)
    for row in table.to_pylist():
        expected = {name: held.column(name)[row["point"]].as_py() for name in held.column_names}
        assert {name: row[name] for name in expected} == expected
        assert two_runs.get(f"/points/{row['point']}").json() == {"run_id": SECOND, **row}


def test_any_published_run_can_be_asked_for(two_runs):
    table = table_of(two_runs.get("/points", params={"run": FIRST}))
    assert (table.num_rows, table.schema.metadata[b"run_id"]) == (40, FIRST.encode())


def test_the_density_counts_every_point_once(two_runs, settings):
    table = table_of(two_runs.get("/points/density", params={"cells": 4}))
    said = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    held = embeddings(settings, SECOND).to_pylist()
    x0, x1, y0, y1 = (float(said[name]) for name in ("x0", "x1", "y0", "y1"))
    expected = {}
    for row in held:
        cell = tuple(
            min(3, int((row[axis] - low) / (high - low) * 4)) for axis, low, high in (("x", x0, x1), ("y", y0, y1))
        )
        expected[*cell, row["zone"]] = expected.get((*cell, row["zone"]), 0) + 1
    assert {(r["cell_x"], r["cell_y"], r["zone"]): r["num_points"] for r in table.to_pylist()} == expected
    part = table_of(two_runs.get("/points/density", params={"cells": 1, "x0": 0}))
    assert sum(part.column("num_points").to_pylist()) == sum(row["x"] >= 0 for row in held)


def test_what_is_pinned_to_a_run_may_be_kept_and_the_rest_is_asked_again(two_runs, settings):
    pinned, served = two_runs.get("/points", params={"run": SECOND}), two_runs.get("/points")
    assert "immutable" in pinned.headers["cache-control"]
    assert "no-cache" in served.headers["cache-control"]
    tag = served.headers["etag"]
    assert not tag.startswith("W/")
    again = two_runs.get("/points", headers={"if-none-match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert two_runs.get("/points", params={"max_points": 3}, headers={"if-none-match": tag}).status_code == 200
    publish_bundle(settings.discovery_dir, run_id="2026-01-10T06-00-00")
    two_runs.post("/discovery/reload")
    assert two_runs.get("/points", headers={"if-none-match": tag}).status_code == 200


@pytest.mark.parametrize("path", ["/points", "/points/3", "/clusters", "/points/density"])
def test_head_says_the_same_without_a_body(two_runs, path):
    head, get = two_runs.head(path), two_runs.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == get.headers["etag"]


@pytest.mark.parametrize(
    ("query", "status", "kind"),
    [
        ("columns=x,nope", 422, "query-invalid"),
        ("columns=x,x", 422, "query-invalid"),
        ("columns=", 422, "query-invalid"),
        ("max_points=0", 422, "query-invalid"),
        ("max_points=1&max_points=2", 422, "query-invalid"),
        ("x0=nan", 422, "query-invalid"),
        ("x0=1e999", 422, "query-invalid"),
        ("x0=2&x1=1", 422, "query-invalid"),
        ("hour=2026-13-01T00", 422, "query-invalid"),
        ("hour=yesterday", 422, "query-invalid"),
        ("run=../../etc", 422, "query-invalid"),
        ("run=2026-01-10T09-09-09", 404, "run-unknown"),
    ],
)
def test_a_bad_question_is_told_how_to_mend_it(two_runs, query, status, kind):
    answer = two_runs.get(f"/points?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["type"].endswith(f":{kind}")
    assert answer.json()["mend"]


def test_a_damaged_run_is_refused_and_the_served_one_stays(two_runs, settings):
    settings.discovery_dir.joinpath(FIRST, "classifier.npz").write_bytes(b"PK torn")
    answer = two_runs.get("/points", params={"run": FIRST})
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[1]) == (409, "bundle-refused")
    assert two_runs.get("/points").status_code == 200
