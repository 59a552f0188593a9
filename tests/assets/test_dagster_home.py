"""`dagster dev` as the README gives it, from a copy of the project's folder: what it knows survives `kill -9`."""

from __future__ import annotations

import shutil
import socket
from contextlib import closing, contextmanager
from pathlib import Path

import dagster as dg
import httpx
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.instance import InstanceRef
from synthetic_fingerprints import draw, hour_start_us, store_rows

from attn_core.store import HOUR_US
from demo.processes import Program, Stack, python_of, wait_until
from demo.stack import dagster_yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The folder that a clone is, with rows of the hour that has ended; the present folder of this test."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("attn_assets", "attn_core"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / name, folder)
    start = hour_start_us(1)
    store_rows(folder / "fingerprints.db", draw(3000, seed=1, start_us=start, end_us=start + HOUR_US))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return folder


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def dagster_dev(folder: Path):
    """The command itself, until its page answers; killed as by a power cut at the end."""
    stack, port = Stack(logs=folder / "logs"), free_port()
    environment = {"ATTN_DB": "fingerprints.db", "ATTN_DISCOVERY_DIR": "./discovery_outputs"}
    command = [python_of(ROOT / ".venv").with_name("dagster"), "dev", "--port", str(port)]
    program = stack.start(f"dagster-{port}", command, env=environment, cwd=folder)

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, what="dagster dev", timeout_s=60, programs=[program])
        yield program
    finally:
        program.kill()


def runs_by_status(folder: Path) -> dict[str, list[dg.DagsterRun]]:
    """The runs in the storage that the project's own file names."""
    ref = InstanceRef.from_dir(str(folder))
    with dg.DagsterInstance.from_ref(ref) as instance:
        found: dict[str, list[dg.DagsterRun]] = {}
        for run in instance.get_runs():
            found.setdefault(run.status.value, []).append(run)
        return found


def wait_for(folder: Path, program: Program, *, status: str) -> dg.DagsterRun:
    wait_until(lambda: status in runs_by_status(folder), what=status, timeout_s=60, programs=[program])
    return runs_by_status(folder)[status][0]


def test_a_run_that_a_kill_ended_is_known_and_failed_after_the_restart(project):
    with dagster_dev(project) as program:
        begun = wait_for(project, program, status="STARTED")
    assert begun.tags["dagster/sensor_name"] == "new_fingerprints"
    assert [run.run_id for run in runs_by_status(project)["STARTED"]] == [begun.run_id], "the kill left it so"
    with dagster_dev(project) as program:
        failed = wait_for(project, program, status="FAILURE")
    assert failed.run_id == begun.run_id
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(project))) as instance:
        (state,) = [one for one in instance.all_instigator_state() if one.instigator_name == "new_fingerprints"]
    assert str(hour_start_us(1)) in state.instigator_data.cursor, "what it had requested"


def test_the_file_says_where_its_state_lies_and_how_much_runs_at_once(project):
    said = yaml.safe_load((project / "dagster.yaml").read_text())
    assert not any(str(value).startswith("/") for value in leaves(said)), "no path of one machine"
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(project))) as instance:
        assert Path(instance.root_directory).resolve() == project / "data" / "dagster"
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 1
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds == 12 * 3600
        assert instance.telemetry_enabled is False
        assert instance.nux_enabled is False
        kept = instance.get_tick_retention_settings(InstigatorType.SENSOR)
    assert {status.value: days for status, days in kept.items()} == {
        "SKIPPED": 1, "STARTED": 14, "SUCCESS": 14, "FAILURE": 14,
    }  # fmt: skip
    assert [path.name for path in (project / "data").iterdir()] == ["dagster"]


def test_the_demos_dagster_differs_only_in_where_its_state_lies(project, tmp_path):
    ours = yaml.safe_load((project / "dagster.yaml").read_text())
    demos = yaml.safe_load(dagster_yaml(tmp_path / "home"))
    assert {name for name in ours if ours[name] != demos[name]} == {"storage", "local_artifact_storage", "compute_logs"}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text(dagster_yaml(tmp_path / "home"))
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path / "home"))) as instance:
        assert instance.root_directory == str(tmp_path / "home")
        assert instance.run_monitoring_enabled


def leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in leaves(one)]
    return [value]
