"""Runs that overlap, and a database that is locked while a run is published."""

from __future__ import annotations

import fcntl
import json
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager

import dagster as dg
import pytest
from conftest import QUIET, Graph

from attn_assets import publishing, recording
from attn_assets.definitions import build_definitions
from attn_assets.defs.in_process import Request, begin, run
from attn_assets.defs.outcomes import why_failed
from attn_assets.defs.resources import Progress
from attn_assets.defs.upkeep import build_retention
from attn_assets.recording import record_remembered
from attn_core import store
from attn_core.bundle import PUBLISH_LOCK, latest_run_id, open_bundle, sole_publisher

STAGES = ("umap_embedding", "hdbscan_clusters", "zone_labels")


def runs_in(graph: Graph) -> dict[str, str]:
    with closing(sqlite3.connect(graph.settings.db)) as connection:
        return dict(connection.execute("SELECT run_id, status FROM discovery_runs"))


def rows_of_run(graph: Graph, run_id: str) -> dict[str, list[tuple]]:
    with closing(sqlite3.connect(graph.settings.db)) as connection:
        tables = ("discovery_runs", "clusters", "zone_labels")
        return {
            name: connection.execute(f"SELECT * FROM {name} WHERE run_id = ?", (run_id,)).fetchall()  # noqa: S608
            for name in tables
        }


def new_ids(graph: Graph, run_id: str) -> set[int]:
    clusters = open_bundle(graph.settings.discovery_dir / run_id).table("clusters")
    return {one["cluster_id"] for one in clusters.to_pylist() if one["lineage"]["event"] == "born"}


def test_a_run_that_another_one_overtook_is_refused_and_made_again_follows_on_it(graph):
    """A is planned from no run; B is published; then A would give the ids that B has given."""
    graph.fill(300, hours_ago=2, seed=1)
    graph.fill(300, hours_ago=1, seed=2)
    graph.make("fingerprints", hours_ago=2)
    graph.make("fingerprints", *STAGES, hours_ago=1)
    graph.make(*STAGES, "classifier_bundle", hours_ago=2)
    published = latest_run_id(graph.settings.discovery_dir)
    result = graph.make("classifier_bundle", hours_ago=1, raise_on_error=False)
    assert not result.success
    stage, reason = why_failed(result.all_events)
    assert stage == "classifier_bundle"
    assert f"its clusters follow on no run, and {published} was published since" in reason
    assert latest_run_id(graph.settings.discovery_dir) == published
    assert graph.make("hdbscan_clusters", "zone_labels", "classifier_bundle", hours_ago=1).success
    newer = latest_run_id(graph.settings.discovery_dir)
    assert open_bundle(graph.settings.discovery_dir / newer).manifest["previous_run_id"] == published
    assert not new_ids(graph, newer) & new_ids(graph, published)


def test_a_run_that_was_overtaken_while_it_waited_for_the_lock_is_refused_too(graph, monkeypatch):
    graph.fill(300, hours_ago=2, seed=1)
    graph.fill(300, hours_ago=1, seed=2)
    graph.make("fingerprints", hours_ago=2)
    fit, published = publishing.fit_classifier, []

    def overtaken(*arguments: object, **named: object):
        monkeypatch.setattr(publishing, "fit_classifier", fit)
        published.append(graph.make(*STAGES, "classifier_bundle", hours_ago=2))
        return fit(*arguments, **named)

    monkeypatch.setattr(publishing, "fit_classifier", overtaken)
    result = graph.make(hours_ago=1, raise_on_error=False)
    assert published[0].success
    assert not result.success
    assert "was published since" in why_failed(result.all_events)[1]


def test_the_sensor_requests_an_overtaken_hour_again(graph):
    """The failed run is one like any other for the rules of `watch`: its state in Dagster is FAILED."""
    graph.fill(300, hours_ago=2, seed=1)
    graph.fill(300, hours_ago=1, seed=2)
    graph.make("fingerprints", hours_ago=2)
    graph.make("fingerprints", *STAGES, hours_ago=1)
    graph.make(*STAGES, "classifier_bundle", hours_ago=2)
    job = build_definitions(graph.settings).resolve_job_def("discover_hour")
    done = job.execute_in_process(
        partition_key=graph.key(1), instance=graph.instance, run_config=QUIET, raise_on_error=False,
        asset_selection=[dg.AssetKey("classifier_bundle")],
    )  # fmt: skip
    assert graph.instance.get_run_by_id(done.run_id).status is dg.DagsterRunStatus.FAILURE


def test_two_discover_commands_at_once_get_ids_of_their_own(graph):
    graph.fill(600, hours_ago=1, seed=1)
    db, output = graph.settings.db, graph.settings.discovery_dir
    request = Request(hours=24.0, min_cluster_size=20, umap_sample_size=400, batch_size=150, seed=0)
    first, second = begin(db, output, request)[0], begin(db, output, request)[0]
    assert first.run_id != second.run_id
    for state in (first, second):
        run(state, db=db, output=output, progress=Progress(), checkpoint=None)
    assert open_bundle(output / second.run_id).manifest["previous_run_id"] == first.run_id
    assert not new_ids(graph, first.run_id) & new_ids(graph, second.run_id)
    assert runs_in(graph) == {first.run_id: "published", second.run_id: "published"}
    assert sorted(path.name for path in output.iterdir()) == sorted(
        [PUBLISH_LOCK, "latest", first.run_id, second.run_id]
    ), "no reservation is left"


def test_one_publisher_at_a_time_and_a_killed_one_frees_the_lock(tmp_path):
    with sole_publisher(tmp_path), (tmp_path / PUBLISH_LOCK).open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    code = (
        "import pathlib, sys; from attn_core.bundle import sole_publisher\n"
        "with sole_publisher(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with (tmp_path / PUBLISH_LOCK).open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with sole_publisher(tmp_path):
        pass


@contextmanager
def locked(graph: Graph):
    with closing(sqlite3.connect(graph.settings.db, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


def test_a_run_published_while_the_database_is_locked_succeeds_and_its_rows_are_written_later(graph, monkeypatch):
    monkeypatch.setattr(store, "BUSY_TIMEOUT_MS", 50)
    monkeypatch.setattr(publishing, "PATIENCE_S", 0.2)
    graph.fill(300, hours_ago=1, seed=1)
    graph.make("fingerprints", *STAGES)
    with locked(graph):
        result = graph.make("classifier_bundle")
    assert result.success
    run_id = latest_run_id(graph.settings.discovery_dir)
    shown = result.asset_materializations_for_node("classifier_bundle")[0].metadata
    assert (shown["published"].value, shown["recorded"].value) == (True, False)
    assert shown["note"].value.startswith(f"published as {run_id}; the database does not know of it yet")
    assert runs_in(graph) == {}
    assert record_remembered(graph.settings.discovery_dir, graph.settings.db, patience_s=0) == ""
    written = rows_of_run(graph, run_id)
    assert runs_in(graph) == {run_id: "published"}
    bundle = open_bundle(graph.settings.discovery_dir / run_id)
    assert len(written["clusters"]) == bundle.manifest["num_clusters"] >= 2
    assert len(written["zone_labels"]) == 5 * len(written["clusters"])
    assert list(graph.settings.discovery_dir.glob(".unrecorded-*")) == []


def test_the_next_run_writes_the_rows_of_the_one_before(graph, monkeypatch):
    monkeypatch.setattr(store, "BUSY_TIMEOUT_MS", 50)
    graph.fill(300, hours_ago=1, seed=1)
    graph.make("fingerprints", *STAGES)
    with monkeypatch.context() as patch, locked(graph):
        patch.setattr(publishing, "PATIENCE_S", 0.0)
        graph.make("classifier_bundle")
    first = latest_run_id(graph.settings.discovery_dir)
    graph.make(*STAGES, "classifier_bundle")
    second = latest_run_id(graph.settings.discovery_dir)
    assert runs_in(graph) == {first: "published", second: "published"}


def test_retention_writes_the_rows_that_no_later_run_has(graph, monkeypatch):
    monkeypatch.setattr(store, "BUSY_TIMEOUT_MS", 50)
    graph.fill(300, hours_ago=1, seed=1)
    graph.make("fingerprints", *STAGES)
    with monkeypatch.context() as patch, locked(graph):
        patch.setattr(publishing, "PATIENCE_S", 0.0)
        graph.make("classifier_bundle")
        waiting = retention_says(graph)
    assert "database is locked" in waiting
    assert retention_says(graph) == ""
    assert list(runs_in(graph).values()) == ["published"]


def retention_says(graph: Graph) -> str:
    done = dg.materialize([build_retention()], instance=graph.instance, resources=graph.resources, run_config=QUIET)
    return done.asset_materializations_for_node("retention")[0].metadata["runs_waiting"].value


def test_a_lock_that_ends_in_time_is_waited_for(graph, monkeypatch):
    """The other connection lets go only after the first attempt was refused."""
    monkeypatch.setattr(store, "BUSY_TIMEOUT_MS", 50)
    graph.fill(300, hours_ago=1, seed=1)
    graph.make("fingerprints", *STAGES)
    refused, is_locked = threading.Event(), recording._is_locked

    with locked(graph) as other:

        def seen(error: BaseException) -> bool:
            if not refused.is_set():
                refused.set()
                other.execute("ROLLBACK")
            return is_locked(error)

        monkeypatch.setattr(recording, "_is_locked", seen)
        result = graph.make("classifier_bundle")
    assert refused.is_set()
    assert result.asset_materializations_for_node("classifier_bundle")[0].metadata["recorded"].value is True
    assert list(runs_in(graph).values()) == ["published"]


def test_what_was_remembered_of_a_run_that_never_served_is_dropped(graph, monkeypatch):
    """Killed between its bundle and `latest`."""
    graph.fill(300, hours_ago=1, seed=1)
    graph.make("fingerprints", *STAGES)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "point_latest", killed)
        with pytest.raises(KeyboardInterrupt):
            graph.make("classifier_bundle")
    (left,) = graph.settings.discovery_dir.glob(".unrecorded-*")
    never = json.loads(left.read_text())["run"]["run_id"]
    graph.make("classifier_bundle")
    assert never not in runs_in(graph)
    assert list(graph.settings.discovery_dir.glob(".unrecorded-*")) == []
