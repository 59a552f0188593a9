"""Two rounds of `benchmarks.kill_discovery`: `kill -9` at random moments, `--resume`, the same bundle."""

from __future__ import annotations

import time

import pytest
from synthetic_fingerprints import draw, store_rows

from attn_core.store import HOUR_US
from benchmarks.kill_discovery import Reference, play_round, prepare

SIZES = ("--long-running", "--umap-sample-size", "300", "--batch-size", "20")


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
    """800 synthetic rows of the last two hours, published, and a run over them that nobody disturbs."""
    folder = tmp_path_factory.mktemp("killed")
    now_us = time.time_ns() // 1000
    store_rows(folder / "fingerprints.db", draw(800, seed=1, start_us=now_us - 2 * HOUR_US, end_us=now_us - 1_000_000))
    return prepare(folder / "fingerprints.db", folder, sizes=SIZES)


@pytest.mark.parametrize("seed", [3001, 3002])
def test_a_killed_run_is_resumed_to_the_same_bundle(seed, reference, tmp_path):
    outcome = play_round(seed, reference, folder=tmp_path / "out")
    print(outcome)
    assert outcome.killed_at_s
    assert outcome.differing == ()
    assert outcome.latest_was_whole
