"""The study's measures on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from attn_core.zones import ZONES
from study.measure import Interval, of_length, shape_of, skill
from study.report import write_report

REQUEST_NO = np.repeat(np.arange(100), 20)
KIND = REQUEST_NO % len(ZONES)


def test_clusters_that_are_the_kinds_have_all_the_skill_there_is_and_chance_has_none():
    rng = np.random.default_rng(0)
    assert skill(KIND, KIND, REQUEST_NO, seed=0) == pytest.approx(np.log(len(ZONES)), abs=0.05)
    assert abs(skill(rng.integers(-1, 9, len(KIND)), KIND, REQUEST_NO, seed=0)) < 0.03
    # A cluster of its own for every request knows nothing of requests that took no part.
    assert abs(skill(REQUEST_NO, KIND, REQUEST_NO, seed=0)) < 0.03


def test_a_map_of_the_length_is_found_out():
    rng = np.random.default_rng(0)
    n = rng.integers(20, 900, 3_000)
    other = rng.normal(size=3_000)
    located = pa.table({"context_len": n, "x": np.log(n) + 0.1 * other, "y": other})
    of_the_length = of_length(located, np.digitize(n, [100, 300, 500, 700]))
    assert of_the_length["correlation_x"] > 0.9
    assert of_the_length["correlation_y"] < 0.1
    assert of_the_length["nmi_length"] > 0.5
    assert of_length(located, rng.integers(-1, 8, 3_000))["nmi_length"] < 0.02


def test_the_shape_of_clusters():
    assert shape_of(np.array([-1, 0, 0, 1])) == {"clusters": 2.0, "largest": 0.5, "noise": 0.25}


def test_a_figure_that_falls_short_is_marked_and_one_that_does_not_is_not(tmp_path):
    good = {
        "nmi_length": 0.05, "correlation_x": 0.1, "correlation_y": 0.1, "skill": 0.2, "clusters": 50, "largest": 0.1,
        "noise": 0.2, "bootstrap_ari": 0.8, "requests_ami": 0.4, "macro_f1_unseen": 0.6, "families_right": 0.9,
        "num_tokens": 9, "num_requests": 3,
    }  # fmt: skip

    def marked(**changed: float) -> list[str]:
        figures = {name: Interval.of([value]) for name, value in {**good, **changed}.items()}
        write_report(tmp_path / "page.md", figures, ["Cluster 0"])
        rows = (tmp_path / "page.md").read_text(encoding="utf-8").splitlines()
        return [row.split("|")[1].strip() for row in rows if row.endswith("| short |")]

    assert marked() == []
    assert marked(skill=0.11) == ["skill"]
    assert marked(families_right=0.2)[0].startswith("zones: share of families")
    assert marked(noise=0.31) == ["share in no cluster"]
