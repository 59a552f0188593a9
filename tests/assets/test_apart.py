"""What sets a cluster apart: the figures that differ, the tokens that it has more of."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from attn_assets.discovery.apart import figures_apart, tokens_apart
from attn_core.zones import CHARACTERISTICS


def located(texts: list[str | None], **columns: list[float | None]) -> pa.Table:
    count = len(texts)
    given = {"sink_mass": [0.2] * count, "prompt_mass": [0.3] * count, "step": [7] * count, **columns}
    return pa.table({"token_text": pa.array(texts, pa.string()), **given})


def labelled(*lifts: dict[str, float]) -> pa.Table:
    evidence = [
        json.dumps({name: {"mean": 0.5, "usual": 0.4, "lift": one.get(name, 0.0)} for name in CHARACTERISTICS})
        for one in lifts
    ]
    return pa.table({"cluster_id": list(range(len(lifts))), "evidence": evidence})


def test_the_figures_that_differ_most_come_first():
    labels = np.array([0] * 5 + [1] * 5 + [-1] * 10, dtype=np.int32)
    rows = located(["a"] * 20, sink_mass=[0.9] * 5 + [None] * 5 + [0.2] * 10)
    ids = np.arange(2, dtype=np.int32)
    first, second = figures_apart(rows, labels, ids, labelled({"long_share": -1.2}, {"evenness": 3.0}))
    assert [one["name"] for one in first][:2] == ["sink_mass", "long_share"]
    assert first[0]["lift"] > 1.3
    assert second[0]["name"] == "evenness"
    assert next((one["lift"] for one in second if one["name"] == "sink_mass"), 0.0) == 0.0, "not known there"


def test_tokens_are_those_a_cluster_has_more_of_and_not_the_rarest():
    texts = [" the"] * 40 + ["{"] * 10 + [" the"] * 5 + ["rare"]
    labels = np.array([-1] * 40 + [0] * 16, dtype=np.int32)
    assert tokens_apart(located(texts), labels, 1) == [["{"]]


def test_without_texts_there_are_no_tokens():
    assert tokens_apart(located([None] * 3), np.zeros(3, dtype=np.int32), 1) == [[]]
