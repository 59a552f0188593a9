"""`attn-discover` as a person runs it: a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
from jsonschema_rs import ValidationError, validator_for
from synthetic_fingerprints import draw, store_rows
from websockets.asyncio.client import connect

from attn_assets.checkpoint import FOLDER
from attn_assets.memory import fit_sizes
from attn_assets.progress import Event
from attn_core import run_failure
from attn_core.bundle import latest_run_id, open_bundle
from attn_core.errors import SettingsError
from attn_core.store import HOUR_US, open_reader, open_writer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUN_ID = re.compile(r"^run (\S+)$", re.MULTILINE)
PATIENCE_S = 120


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> Path:
    """1,500 rows of the last three hours, and 200 of two days ago."""
    path = tmp_path_factory.mktemp("cli") / "fingerprints.db"
    now = time.time_ns() // 1000
    store_rows(path, draw(1500, seed=1, start_us=now - 3 * HOUR_US, end_us=now - 1_000_000))
    store_rows(path, draw(200, seed=2, start_us=now - 50 * HOUR_US, end_us=now - 48 * HOUR_US))
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def discover(command, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env=environment(),
    )  # fmt: skip


def start(command, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip


def discover_until(moment: str, number: signal.Signals, *arguments: object, then: str = "wait"):
    """The command, sent a signal the moment it has moved a file to a path that ends like this."""
    return discover([sys.executable, HERE / "stopped_discover.py", moment, str(number.value), then], *arguments)


def test_help_teaches_and_loads_nothing_slow(command):
    done = discover([command[0], "-X", "importtime", *command[1:]], "--help")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "attn_core.errors" in imported
    assert not imported & {"dagster", "scipy", "pyarrow", "numba", "umap", "sklearn"}
    flags = "db output hours min-cluster-size umap-sample-size batch-size seed long-running resume websocket-port"
    for flag in (*flags.split(), "max-memory-gb"):
        assert f"\n  --{flag}" in done.stdout
    assert "exit codes" in done.stdout


def test_the_guides_command_publishes_and_sums_up(command, db, tmp_path):
    done = discover(command, "--db", db, "--output", tmp_path / "out", "--hours", 24, "--min-cluster-size", 20)
    assert done.returncode == 0, done.stderr
    (run_id,) = RUN_ID.findall(done.stdout)
    bundle = open_bundle(tmp_path / "out" / "latest")
    assert bundle.run_id == run_id
    assert bundle.manifest["num_fingerprints"] == 1500
    for said in ("syntax_floor", "Cluster 0", "1,500 fingerprints", f"published {tmp_path / 'out' / run_id}"):
        assert said in done.stdout
    for stage in ("fingerprints", "umap_embedding", "hdbscan_clusters", "zone_labels", "classifier_bundle"):
        assert re.search(rf"^{stage} +done in", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".publish.lock", run_id, "latest"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--hours", "0.0001"], 3, "No fingerprints in the last 0.0001 hours"),
        (["--hours", "-1"], 2, "not between"),
        (["--min-cluster-size", "1"], 2, "below 2"),
        (["--db", "missing.db"], 2, "no database at missing.db"),
        (["--resume", "2026-01-01T00-00-00"], 2, "only --long-running makes them"),
        (["--resume", "2026-01-01T00-00-00", "--hours", "3"], 2, "leave out --hours"),
        (["--max-memory-gb", "0.1"], 2, "--max-memory-gb 0.1 is too small"),
    ],
)
def test_what_cannot_be_done_is_said(command, db, tmp_path, arguments, code, said):
    done = discover(command, "--db", db, "--output", tmp_path / "out", *arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert latest_run_id(tmp_path / "out") is None


def test_an_empty_database_is_said_to_be_empty(command, tmp_path):
    open_writer(tmp_path / "empty.db").close()
    done = discover(command, "--db", tmp_path / "empty.db", "--output", tmp_path / "out")
    assert done.returncode == 3
    assert "No fingerprints in the last 24 hours" in done.stderr
    assert "the database is empty" in done.stderr


LONG = ("--long-running", "--umap-sample-size", 600, "--batch-size", 5)
"""180 pieces: a run stopped after the first is in the midst of them."""


@pytest.fixture(scope="module")
def uninterrupted(command, db, tmp_path_factory) -> dict[str, object]:
    """The files of a run that nobody stopped: the window is wide enough for all rows whenever it ends."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = discover(command, "--db", db, "--output", out, *LONG)
    assert done.returncode == 0, done.stderr
    return open_bundle(out / "latest").manifest["files"]


@pytest.mark.parametrize(
    ("number", "moment", "code"),
    [
        (signal.SIGINT, "pieces/umap_embedding/placed-*.npy", 130),
        (signal.SIGTERM, "assets/fingerprints/*", 143),
    ],
)
def test_a_stopped_run_is_resumed_to_the_same_result(command, db, tmp_path, uninterrupted, number, moment, code):
    out = tmp_path / "out"
    stopped = discover_until(f"{FOLDER}/*/{moment}", number, "--db", db, "--output", out, *LONG)
    assert stopped.returncode == code, stopped.stderr
    (run_id,) = RUN_ID.findall(stopped.stdout)
    assert latest_run_id(out) is None
    assert f"--db {db} --output {out} --resume {run_id}" in stopped.stderr
    assert json.loads((out / FOLDER / run_id / "state.json").read_text())["status"] == "interrupted"
    done = discover(command, "--db", db, "--output", out, "--resume", run_id)
    assert done.returncode == 0, done.stderr
    bundle = open_bundle(out / "latest")
    assert bundle.run_id == run_id
    assert bundle.manifest["files"] == uninterrupted
    left = [path.name for path in (out / FOLDER / run_id).iterdir()]
    assert left == ["state.json"]
    again = discover(command, "--db", db, "--output", out, "--resume", run_id)
    assert again.returncode == 0
    assert "published already" in again.stdout


def test_a_resumed_run_does_not_make_finished_assets_again(command, db, tmp_path):
    out = tmp_path / "out"
    moment = f"{FOLDER}/*/assets/umap_embedding/2*"
    stopped = discover_until(moment, signal.SIGINT, "--db", db, "--output", out, *LONG)
    assert stopped.returncode == 130, stopped.stderr
    (run_id,) = RUN_ID.findall(stopped.stdout)
    done = discover(command, "--db", db, "--output", out, "--resume", run_id)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"^(fingerprints|umap_embedding)", done.stderr, re.MULTILINE)
    assert "classifier_bundle" in done.stderr


def test_ctrl_c_without_a_checkpoint_leaves_nothing_behind(db, tmp_path):
    out = tmp_path / "out"
    stopped = discover_until(".working-*/fingerprints/*", signal.SIGINT, "--db", db, "--output", out)
    assert stopped.returncode == 130
    assert "nothing was published" in stopped.stderr
    assert [path.name for path in out.iterdir()] == [".publish.lock"]


def test_ctrl_c_in_the_middle_of_publishing_lets_it_be_whole_and_says_so(command, db, tmp_path):
    out = tmp_path / "out"
    stopped = discover_until("out/2*", signal.SIGINT, "--db", db, "--output", out, *LONG, then="go-on")
    assert stopped.returncode == 130, stopped.stderr
    (run_id,) = RUN_ID.findall(stopped.stdout)
    assert f"{out / run_id} is published already" in stopped.stderr
    assert open_bundle(out / "latest").run_id == run_id
    with closing(open_reader(db)) as connection:
        (status,) = connection.execute("SELECT status FROM discovery_runs WHERE run_id = ?", (run_id,)).fetchone()
    assert status == "published"
    again = discover(command, "--db", db, "--output", out, "--resume", run_id)
    assert (again.returncode, "published already" in again.stdout) == (0, True)


def documented_schema() -> dict[str, object]:
    """The JSON schema in docs/discovery.md."""
    text = (ROOT / "docs" / "discovery.md").read_text(encoding="utf-8")
    (block,) = [one for one in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"$schema"' in one]
    return json.loads(block)


async def _listen(port: int) -> list[dict[str, object]]:
    events = []
    async with connect(f"ws://127.0.0.1:{port}") as listener:
        async for text in listener:
            events.append(json.loads(text))
    return events


def test_progress_is_told_over_the_websocket(command, db, tmp_path):
    process = start(command, "--db", db, "--output", tmp_path / "out", "--websocket-port", 0, *LONG)
    port = None
    while port is None:
        line = process.stderr.readline()
        assert line, "the command ended before it told its port"
        port = re.search(r"ws://127\.0\.0\.1:(\d+)", line)
    events = asyncio.run(asyncio.wait_for(_listen(int(port.group(1))), PATIENCE_S))
    said_out, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    (run_id,) = RUN_ID.findall(said_out)
    assert {event["run_id"] for event in events} == {run_id}
    schema = documented_schema()
    assert set(schema["properties"]) == {field.name for field in fields(Event)} == set(schema["required"])
    judge = validator_for(schema)
    for event in events:
        judge.validate(event)
    with pytest.raises(ValidationError):
        judge.validate({**events[0], "done": -1})
    stages = list(dict.fromkeys(event["stage"] for event in events))
    assert stages[-4:] == ["hdbscan_clusters", "zone_labels", "classifier_bundle", "published"]
    placed = [event["done"] for event in events if event["stage"] == "umap_embedding" and event["total"]]
    assert placed == sorted(placed)
    assert placed[-1] == 1500
    assert len(set(placed)) >= 5
    assert any(event["rows_per_s"] and event["eta_s"] is not None for event in events)
    assert events[-1]["percent"] == 100.0
    result, manifest = events[-1]["result"], open_bundle(tmp_path / "out" / "latest").manifest
    assert Path(result.pop("path")).resolve() == (tmp_path / "out" / run_id).resolve()
    assert result == {name: manifest[name] for name in result}
    assert all(event["result"] is None for event in events[:-1])
    peaks = [event["peak_rss_bytes"] for event in events[1:]]
    assert peaks == sorted(peaks)
    assert all(event["rss_bytes"] > 10_000_000 for event in events[1:])


def test_a_taken_port_is_named(command, db, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = discover(command, "--db", db, "--output", tmp_path / "out", "--websocket-port", port)
    assert done.returncode == 2
    assert f"--websocket-port {port} cannot be had" in done.stderr


PLANNED = {"umap_sample_size": 50_000, "batch_size": 20_000, "loaded_bytes": 300_000_000}


def test_batches_and_sample_are_planned_from_the_bound():
    sizes = fit_sizes(num_rows=1_000_000, max_memory_gb=2.1, **PLANNED)
    assert sizes.reduced
    assert 1_000 <= sizes.umap_sample_size < 50_000
    assert sizes.expected_bytes <= 2.1e9
    roomy = fit_sizes(num_rows=1_000_000, max_memory_gb=16, **PLANNED)
    assert (roomy.umap_sample_size, roomy.batch_size, roomy.reduced) == (50_000, 20_000, False)
    with pytest.raises(SettingsError, match="with the smallest sample need about"):
        fit_sizes(num_rows=5_000_000, max_memory_gb=2, **PLANNED)


def test_a_sample_that_was_named_is_kept_or_refused():
    fixed = {**PLANNED, "num_rows": 1_000_000, "sample_is_fixed": True}
    with pytest.raises(SettingsError, match=r"with a sample of 50,000 need about .* lower --umap-sample-size"):
        fit_sizes(max_memory_gb=2.1, **fixed)
    kept = fit_sizes(max_memory_gb=2.26, **fixed)
    assert kept.umap_sample_size == 50_000
    assert 1_000 <= kept.batch_size < 20_000
    assert kept.expected_bytes <= 2.26e9


def test_a_bound_is_kept_and_the_measured_peak_is_said(command, db, tmp_path):
    done = discover(command, "--db", db, "--output", tmp_path / "out", "--max-memory-gb", 16)
    assert done.returncode == 0
    assert "GB expected of 16 GB" in done.stderr
    assert re.search(r"^peak memory 0\.\d\d GB of 16 GB$", done.stderr, re.MULTILINE)


def test_a_run_above_its_bound_is_stopped_and_can_be_resumed_with_a_higher_one(command, db, tmp_path, uninterrupted):
    """The bound is one that the process has passed when the run is resumed, so that only the watch can hold it."""
    out = tmp_path / "out"
    moment = f"{FOLDER}/*/assets/fingerprints/*"
    stopped = discover_until(moment, signal.SIGINT, "--db", db, "--output", out, *LONG)
    (run_id,) = RUN_ID.findall(stopped.stdout)
    refused = discover(command, "--db", db, "--output", out, "--resume", run_id, "--max-memory-gb", 0.1)
    assert refused.returncode == 1, refused.stderr
    assert "more than --max-memory-gb 0.1" in refused.stderr
    for mend in ("--umap-sample-size", "--long-running", "--max-memory-gb", "--batch-size"):
        assert mend in refused.stderr.partition("What helps")[2]
    assert "Traceback" not in refused.stderr
    assert latest_run_id(out) is None
    failure = run_failure.told(out)
    assert (failure.run_id, "--max-memory-gb 0.1" in failure.reason) == (run_id, True)
    done = discover(command, "--db", db, "--output", out, "--resume", run_id, "--max-memory-gb", 16)
    assert done.returncode == 0, done.stderr
    assert open_bundle(out / "latest").manifest["files"] == uninterrupted
    assert run_failure.told(out) is None
