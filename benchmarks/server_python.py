"""Benchmarks of the model server's side run in its environment: a module there, its last line of output here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-server" / "bin" / "python"


def start(module: str, *arguments: str, interpret: bool) -> subprocess.Popen[str]:
    """Start ``python -m module`` in `.venv-server`; `interpret`: Triton's interpreter instead of a GPU."""
    if not PYTHON.exists():
        raise SystemExit(f"no {PYTHON.relative_to(ROOT)}: run make setup first")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.Popen(
        [str(PYTHON), "-W", "ignore", "-m", module, *arguments],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> Any:
    """The JSON in its last line, once it has ended well."""
    output, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, process.args))} failed")  # type: ignore[arg-type]
    return json.loads(output.strip().splitlines()[-1])
