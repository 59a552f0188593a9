"""Decode steps recorded once and replayed with other contents, by a stand-in for CUDA graphs: see `recorded_steps`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_what_is_recorded_reads_everything_from_the_device() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("recorded_steps.py"))]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    errors = {
        name: float(error)
        for name, _, error in (line.partition("|") for line in run.stdout.splitlines() if "|" in line)
    }
    assert len(errors) == 5
    assert max(errors.values()) <= 1e-5, errors
