"""The Triton kernels against the float64 definition, and SGLang's own kernels bitwise the same with the capture.

Triton decides when it is imported whether it interprets, so the shapes run in a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Beside

pytest.importorskip("triton")

BESIDE = Beside(arguments=(str(Path(__file__).with_name("ops_shapes.py")),), environment={"TRITON_INTERPRET": "1"})


@pytest.fixture(scope="module")
def verdicts(computed_beside: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What `ops_shapes` says of each case."""
    assert computed_beside.returncode == 0, computed_beside.stdout + computed_beside.stderr
    return dict(line.split("|") for line in computed_beside.stdout.splitlines() if "|" in line)


def test_every_kind_of_attention_agrees_with_the_definition(verdicts: dict[str, str]) -> None:
    wrong = {name: verdict for name, verdict in verdicts.items() if verdict != "ok"}
    assert not wrong
    assert len(verdicts) >= 33


def test_of_equal_probabilities_the_lower_position_comes_first(verdicts: dict[str, str]) -> None:
    assert verdicts["ties"] == "ok"


def test_a_request_without_room_is_left_out(verdicts: dict[str, str]) -> None:
    assert verdicts["no room"] == "ok"


def test_without_single_heads_all_is_as_it_was(verdicts: dict[str, str]) -> None:
    assert verdicts["heads off"] == "ok"


def test_a_projection_may_come_and_change_and_go_mid_way(verdicts: dict[str, str]) -> None:
    assert verdicts["projections"] == "ok"
    assert verdicts["wrong shapes"] == "ok"


def test_the_sampled_row_s_figures_come_and_no_other_s(verdicts: dict[str, str]) -> None:
    assert verdicts["sampled rows"] == "ok"


def test_heads_of_three_ranks_add_up(verdicts: dict[str, str]) -> None:
    assert verdicts["ranks"] == "ok"


def test_the_script_for_gpus_runs_dry(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    output = tmp_path / "capture_gpu.json"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--dry-run", "--output", str(output)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    written = json.loads(output.read_text(encoding="utf-8"))
    assert written["dry_run"]
    assert written["exactness"]["num_shapes"] == 1
