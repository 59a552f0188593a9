"""Every kernel compiles for three generations of GPUs, without a GPU: no spill, and no arithmetic added to SGLang's.

Compiled in a process of its own, which prints the table (`pytest -s` shows it) that docs and decisions quote.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from typing import Any

import pytest
from conftest import Beside

pytest.importorskip("triton")

ARCHITECTURES = (80, 90, 100)


BESIDE = Beside(
    arguments=("-m", "benchmarks.gpu.compiled", "--json"),
    environment={"TRITON_INTERPRET": "0"},
)


@pytest.fixture(scope="module")
def kernels(computed_beside: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """What `benchmarks.gpu.compiled` says of each kernel: registers, spills, shared memory, instructions."""
    assert computed_beside.returncode == 0, computed_beside.stderr
    rows = [json.loads(line) for line in computed_beside.stdout.splitlines() if line.startswith("{")]
    print()
    for row in rows:
        print(row)
    return rows


def test_every_kernel_compiles_without_a_spill(kernels: list[dict[str, Any]]) -> None:
    assert {row["architecture"] for row in kernels} == set(ARCHITECTURES)
    assert len(kernels) >= 66
    assert len({row["kernel"] for row in kernels if "single heads" in row["kernel"]}) >= 6
    assert not [row for row in kernels if row["spilled_bytes"] != 0]


def test_the_capture_adds_stores_and_no_arithmetic_to_sglangs_kernels(kernels: list[dict[str, Any]]) -> None:
    """A tensor-core tile is scaled once more in the layout that it is stored in, which takes two barriers; no more."""
    stock = {(row["kernel"], row["architecture"]): row for row in kernels if row["variant"] == "stock"}
    pairs = [(stock[row["kernel"], row["architecture"]], row) for row in kernels if row["variant"] == "capturing"]
    assert len(pairs) == 3 * len(ARCHITECTURES)
    for plain, ours in pairs:
        added = Counter(ours["arithmetic"])
        added.subtract(plain["arithmetic"])
        scaled_again = added.pop("mul.f32")
        assert not any(added.values()), (ours, added)
        assert 0 <= scaled_again <= 4, ours
        assert ours["barriers"] - plain["barriers"] <= 2, ours
        assert ours["stores"] > plain["stores"], ours
