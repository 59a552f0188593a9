"""The capture of half of the heads, which the zones' confidence is fitted to, against the definition."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from attn_kernels import reference

ROOT = Path(__file__).resolve().parents[2]


def _script():
    spec = importlib.util.spec_from_file_location("capture_head_halves", ROOT / "scripts" / "capture_head_halves.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("n", [1, 5, 9, 30, 133, 400])
def test_periodicities_are_those_of_the_definition(n):
    rng = np.random.default_rng(n)
    rows = rng.dirichlet(np.full(n, 0.3), size=6) + 1e-9
    rows[0] += 0.02 * (np.arange(n) % 7 == 0)
    rows /= rows.sum(axis=1, keepdims=True)
    expected = [reference.periodicity(row) for row in rows]
    np.testing.assert_allclose(_script().periodicities(rows), expected, atol=1e-9)


def test_a_half_has_the_figures_of_its_own_heads():
    module = _script()
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.full(200, 0.2), size=(8, 3)) + 1e-12
    rows /= rows.sum(axis=-1, keepdims=True)
    capture = object.__new__(module.Capture)
    capture.weights = np.zeros((2 * module.SPLITS, 24))
    capture.weights[:, :12] = 1 / 12
    found = capture.figures(rows, prompt_len=100)
    half = reference.fingerprint(rows.reshape(24, 200)[None, :12], prompt_len=100, k=1)
    expected = [half.sink_mass, *half.vector[:4], half.periodicity]
    np.testing.assert_allclose(found["halves"][0, 0], expected, rtol=1e-5)
    whole = reference.fingerprint(rows, prompt_len=100, k=1)
    np.testing.assert_allclose(found["vector"], whole.vector, rtol=1e-6)
