"""Decode steps recorded once and replayed with other contents, by a stand-in for CUDA graphs: see `recorded_steps`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conftest import Beside

BESIDE = Beside(arguments=(str(Path(__file__).with_name("recorded_steps.py")),), environment={"TRITON_INTERPRET": "1"})


def test_what_is_recorded_reads_everything_from_the_device(computed_beside: subprocess.CompletedProcess[str]) -> None:
    assert computed_beside.returncode == 0, computed_beside.stdout + computed_beside.stderr
    said = (line.partition("|") for line in computed_beside.stdout.splitlines() if "|" in line)
    errors = {name: float(error) for name, _, error in said}
    assert len(errors) == 5
    assert max(errors.values()) <= 1e-5, errors
