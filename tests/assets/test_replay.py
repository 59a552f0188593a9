"""Hours one after another through the graph: one frame, lasting ids, what is new is born, drift is seen."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from conftest import Graph

from attn_assets.discovery.frame import MAX_STEP, width
from attn_assets.discovery.previous import row_of_each
from attn_core.bundle import Bundle, open_bundle

HOURS = 6
PLANTED_HOUR = 4
ROWS = 300
KINDS = 3


def kinds_at(hour: int) -> int:
    return KINDS + (hour >= PLANTED_HOUR)


def kind_of_rows(bundle: Bundle) -> np.ndarray:
    """The kind that each row was drawn from: `synthetic_fingerprints.draw` draws it first."""
    drawn = [np.random.default_rng(hour).integers(0, kinds_at(hour), size=ROWS) for hour in range(HOURS)]
    points = bundle.table("embeddings")
    part = pc.split_pattern(points["request_id"], "-").to_pylist()
    return np.array(
        [drawn[int(p[1])][50 * int(p[2]) + step] for p, step in zip(part, points["step"].to_pylist(), strict=True)]
    )


def cluster_of_kind(bundle: Bundle, kind: int) -> tuple[int, float]:
    """The cluster that holds most rows of a kind, and the share of the kind in it."""
    ids = bundle.table("embeddings")["cluster_id"].to_numpy()[kind_of_rows(bundle) == kind]
    found, counts = np.unique(ids[ids >= 0], return_counts=True)
    return int(found[counts.argmax()]), float(counts.max() / len(ids))


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """The bundles of `HOURS` hours, the last of them the newest hour."""
    graph = Graph(Path(tmp_path_factory.mktemp("replay")), umap_sample_size=1000, batch_size=300, min_cluster_size=25)
    bundles = []
    for hour in range(HOURS):
        ago = HOURS - hour
        graph.fill(ROWS, hours_ago=ago, seed=hour, kinds=kinds_at(hour))
        graph.make(hours_ago=ago)
        bundles.append(open_bundle(graph.settings.discovery_dir / "latest"))
    graph.instance.dispose()
    return bundles


def frame_of(bundle: Bundle) -> dict[str, object]:
    return dict(bundle.manifest["frame"])


def test_the_same_points_hardly_move_from_one_hour_to_the_next_unless_the_frame_is_said_to_be_renewed(replayed):
    assert frame_of(replayed[0])["event"] == "first"
    followed = 0
    for before, after in pairwise(replayed):
        old, new = before.table("embeddings"), after.table("embeddings")
        found, where = row_of_each(new, old, keys=("request_id", "step"))
        assert found.sum() == old.num_rows
        old_at, new_at = (np.column_stack([t["x"].to_numpy(), t["y"].to_numpy()]) for t in (old, new))
        moved = np.linalg.norm(new_at[found] - old_at[where], axis=1) / width(old_at)
        assert moved.max() == pytest.approx(after.manifest["metrics"]["moved_max"], abs=1e-5)
        if frame_of(after)["event"] in ("followed", "kept"):
            followed += 1
            assert moved.max() <= MAX_STEP + 1e-5
            assert frame_of(after)["since_us"] == frame_of(before)["since_us"]
        else:
            assert frame_of(after)["event"] == "renewed"
            assert frame_of(after)["since_us"] == max(new["captured_at_us"].to_pylist())
    assert followed >= 3


def test_clusters_keep_their_ids_and_none_is_used_twice(replayed):
    for kind in range(KINDS):
        ids = [cluster_of_kind(bundle, kind) for bundle in replayed]
        assert len({one for one, _ in ids}) == 1, (kind, ids)
        assert min(share for _, share in ids) > 0.8
    next_ids = [bundle.manifest["next_cluster_id"] for bundle in replayed]
    assert next_ids == sorted(next_ids)
    for bundle, next_id in zip(replayed, next_ids, strict=True):
        assert max(bundle.table("clusters")["cluster_id"].to_pylist()) < next_id


def test_a_new_kind_of_text_is_born_and_then_kept(replayed):
    new, share = cluster_of_kind(replayed[-1], KINDS)
    assert share > 0.8
    assert new not in {one for one, _ in (cluster_of_kind(replayed[-1], kind) for kind in range(KINDS))}
    events = [{row["cluster_id"]: row for row in bundle.table("lineage").to_pylist()}.get(new) for bundle in replayed]
    assert events[:PLANTED_HOUR] == [None] * PLANTED_HOUR
    assert events[PLANTED_HOUR]["event"] == "born"
    assert events[PLANTED_HOUR]["parents"] == []
    assert events[PLANTED_HOUR + 1]["event"] in ("kept", "grown")
    assert events[PLANTED_HOUR + 1]["size"] > events[PLANTED_HOUR]["size"] == events[PLANTED_HOUR + 1]["size_before"]
    assert replayed[PLANTED_HOUR].manifest["metrics"]["num_born"] >= 1


def test_the_shift_raises_the_drift_beyond_chance(replayed):
    figures = [bundle.manifest["metrics"] for bundle in replayed]
    assert "drift_distance" not in figures[0], "there is nothing before the first hour"
    for name in ("distance", "clusters"):
        assert figures[PLANTED_HOUR][f"drift_{name}"] > figures[PLANTED_HOUR][f"drift_{name}_high"]
        quiet = [one[f"drift_{name}"] for one in figures[1:PLANTED_HOUR]]
        assert figures[PLANTED_HOUR][f"drift_{name}"] > 1.5 * max(quiet)


def test_each_request_has_a_place_on_the_map_of_requests(replayed):
    for bundle in replayed:
        table = bundle.table("requests")
        assert np.isfinite(np.column_stack([table["map_x"].to_numpy(), table["map_y"].to_numpy()])).all()
        assert bundle.manifest["metrics"]["requests_count"] == table.num_rows
    assert replayed[-1].manifest["request_frame"]["event"] == "followed"
    assert replayed[-1].manifest["metrics"]["requests_moved_max"] <= MAX_STEP + 1e-5
