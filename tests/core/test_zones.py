"""The zone formula: what it must give, what may never take a zone away, and that it is one and the same everywhere."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from attention_rows import draw, fingerprint_of
from hypothesis import given
from hypothesis import strategies as st
from zone_vectors import draw_musts, vector_of

from attn_core.classify import Classifier, no_clusters
from attn_core.errors import CalibrationError
from attn_core.zones import (
    CHARACTERISTICS,
    DECISIVE,
    EVENNESS,
    KNOTS_LN_N,
    LARGEST,
    LOCAL,
    LONG,
    MID,
    OWN,
    PERIODICITY,
    RANKS,
    USUAL,
    USUAL_CAPS,
    VALUES,
    Z_LIMIT,
    ZONES,
    UsualValues,
    Z,
    ZoneFormula,
    ZoneFormulas,
    on_scale,
    shipped_formula,
)


def classifier_of(formula: ZoneFormula) -> Classifier:
    return Classifier(no_clusters(), run_id=None, formulas=ZoneFormulas(of_model={}, default=formula))


def any_formula(seed: int) -> ZoneFormula:
    """Any numbers that are allowed: another model's usual values, slopes and biases up to the largest."""
    rng = np.random.default_rng(seed)
    knots = len(KNOTS_LN_N)
    mean = np.column_stack([rng.normal(0, 2, (knots, 3)), rng.uniform(0.05, 1, knots), rng.uniform(0, 0.9, knots)]).T
    usual = UsualValues(mean=mean, spread=rng.uniform(0.01, 2, (5, knots)), num_tokens=1)
    size = rng.choice([0.1, 1.0, LARGEST])
    return replace(
        shipped_formula(),
        usual=usual,
        slope=rng.uniform(0, size, 6),
        hinge_slope=rng.uniform(0, size, 6),
        hinge=rng.uniform(0, LARGEST, 6),
        bias=rng.uniform(-size, size, 5),
        head_slope=np.zeros(5),
    )


def scores_by_hand(formula: ZoneFormula, row: np.ndarray) -> np.ndarray:
    """The table of `attn_core.zones`, written out: [5] scores from one row of evidence."""
    value, usual, z, n = row[VALUES:USUAL], row[USUAL:Z], row[Z : Z + 5], row[Z + 5]
    scores = formula.bias.copy()
    for k, (zone, c, direction) in enumerate(OWN):
        own = direction * z[c]
        scores[zone] += formula.slope[k] * own + formula.hinge_slope[k] * max(0.0, own - formula.hinge[k])
    alike = value[PERIODICITY] <= usual[PERIODICITY] + 1e-6
    must = [
        value[LOCAL] >= 0.85 - 1e-6 and value[EVENNESS] <= 0.4 + 1e-6,
        value[MID] >= 0.8 - 1e-6 and value[EVENNESS] <= 0.6 + 1e-6 and alike,
        value[PERIODICITY] >= 0.7 - 1e-6,
        n >= 300 and value[LONG] >= 0.8 - 1e-6 and value[EVENNESS] <= 0.6 + 1e-6 and alike,
        n >= 50 and value[EVENNESS] >= 0.97 - 1e-6,
    ]
    scores += np.array(RANKS) * DECISIVE * np.array(must)
    near = value[LOCAL] >= usual[LOCAL] - 1e-6 or value[EVENNESS] <= usual[EVENNESS] + 1e-6
    elsewhere = value[MID] >= 0.8 - 1e-6 or value[LONG] >= 0.8 - 1e-6
    opened = [
        near and not elsewhere,
        True,
        value[PERIODICITY] >= max(usual[PERIODICITY], 0.1) - 1e-6,
        n > 104 and value[LONG] >= 0.05 - 1e-6,
        value[EVENNESS] >= usual[EVENNESS] - 1e-6,
    ]
    return np.where(opened, scores, -np.inf)


@given(st.integers(0, 2**31))
def test_the_compiled_formula_is_the_one_written_out(seed):
    drawn, formula = draw(20, seed=seed), any_formula(seed)
    answer = classifier_of(formula).classify(
        drawn.vectors,
        context_len=drawn.context_len,
        sink_mass=drawn.sink_mass,
        periodicity=drawn.periodicity,
        with_evidence=True,
    )
    # In float64: the evidence handed out is rounded to float32, which may move a value over a border.
    for i, row in enumerate(answer.evidence.astype(np.float64)):
        scores = np.sort(scores_by_hand(formula, row))
        if scores[-1] - scores[-2] > 1e-3 * max(abs(scores[-1]), 1):
            assert answer.zone_index[i] == int(scores_by_hand(formula, row).argmax())


@given(st.integers(0, 2**31))
def test_evidence_is_the_value_the_usual_value_and_how_far_they_lie_apart(seed):
    drawn, formula = draw(20, seed=seed), any_formula(seed)
    row = (
        classifier_of(formula)
        .classify(
            drawn.vectors,
            context_len=drawn.context_len,
            sink_mass=drawn.sink_mass,
            periodicity=drawn.periodicity,
            with_evidence=True,
        )
        .evidence
    )
    np.testing.assert_allclose(row[:, USUAL:Z], formula.usual.at(drawn.context_len), atol=1e-5)
    ln_n = np.log(drawn.context_len)
    scaled = on_scale(row[:, VALUES:USUAL])
    for c in (EVENNESS, PERIODICITY):
        mean, spread = (np.interp(ln_n, KNOTS_LN_N, table[c]) for table in (formula.usual.mean, formula.usual.spread))
        expected = np.clip((scaled[:, c] - mean) / spread, -Z_LIMIT, Z_LIMIT)
        seen = row[:, VALUES:USUAL].sum(axis=1) > 0
        np.testing.assert_allclose(row[seen, Z + c], expected[seen], atol=2e-3)


@pytest.mark.parametrize("zone", ZONES)
@given(seed=st.integers(0, 2**31))
def test_what_the_table_decides_is_given_by_any_numbers(zone, seed):
    formula = any_formula(seed)
    lowest = float(np.minimum(formula.usual.mean[PERIODICITY].min(), USUAL_CAPS[PERIODICITY]))
    drawn = draw_musts(zone, 10, seed=seed, usual_period=lowest)
    answer = classifier_of(formula).classify(drawn.vectors, **drawn.known())
    assert answer.zone_index.tolist() == drawn.zone_index.tolist()


@pytest.mark.parametrize(
    ("zone", "least"), [("syntax_floor", 0.98), ("semantic_bridge", 0.85), ("long_range", 0.95), ("diffuse", 0.45)]
)
def test_a_vector_alone_mostly_gets_the_zone_that_it_has_with_its_companions(zone, least):
    """What may be hidden in the sink or in the length leaves some open; periodicity is not in the vector at all."""
    drawn = draw_musts(zone, 200, seed=5)
    classifier = classifier_of(shipped_formula())
    alone, known = classifier.classify(drawn.vectors), classifier.classify(drawn.vectors, **drawn.known())
    assert (alone.zone_index == drawn.zone_index).mean() >= least
    assert alone.confidence.mean() <= known.confidence.mean()


@given(seed=st.integers(0, 2**31))
def test_a_vector_alone_is_given_what_all_plausible_companions_decide(seed):
    """Nearly all mass near and sharp: whatever of the farthest class is the sink, the table decides."""
    rng = np.random.default_rng(seed)
    vectors = [
        vector_of(
            (rng.uniform(0.97, 1), *rng.dirichlet([1, 1]) * 0.03),
            evenness=rng.uniform(0.02, 0.15), n=int(rng.integers(150, 900)), sink=rng.uniform(0, 0.02), rng=rng,
        )
        for _ in range(10)
    ]  # fmt: skip
    assert set(classifier_of(any_formula(seed)).classify(np.array(vectors)).zones()) == {"syntax_floor"}


def raised(row: np.ndarray, zone: str, *, by: float) -> dict[str, np.ndarray | float]:
    """One vector with the zone's first own characteristic raised, all else in proportion."""
    vector, companions = row["vector"].astype(np.float64).copy(), dict(row["companions"])
    place = {"syntax_floor": 0, "semantic_bridge": 1, "long_range": 2}.get(zone)
    if place is not None:
        grown = vector[place] + by * (1 - vector[place])
        others = np.delete(np.arange(3), place)
        vector[others] *= (1 - grown) / max(vector[others].sum(), 1e-12)
        vector[place] = grown
    elif zone == "diffuse":
        vector[3] = vector[3] + by * (np.log(companions["context_len"]) - vector[3])
    else:
        companions["periodicity"] += by * (1 - companions["periodicity"])
    return {"vector": vector.astype(np.float32), "companions": companions}


@given(seed=st.integers(0, 2**31), by=st.floats(0.001, 0.999))
def test_raising_a_zones_own_characteristic_never_takes_the_zone_away(seed, by):
    drawn, formula = draw(15, seed=seed), any_formula(seed)
    classifier = classifier_of(formula)
    for i in range(len(drawn.vectors)):
        row = {
            "vector": drawn.vectors[i],
            "companions": {
                "context_len": int(drawn.context_len[i]),
                "sink_mass": float(drawn.sink_mass[i]),
                "periodicity": float(drawn.periodicity[i]),
            },
        }
        zone = _zone(classifier, row)
        moved = raised(row, zone, by=by)
        # A class that the context cannot hold has no mass to raise.
        place = {"semantic_bridge": 1, "long_range": 2}.get(zone, 0)
        if row["vector"][place] <= 0:
            continue
        assert _zone(classifier, moved) == zone


def _zone(classifier: Classifier, row: dict) -> str:
    given = {name: np.array([value]) for name, value in row["companions"].items()}
    return classifier.classify(row["vector"][None], **given).zones()[0]


@given(seed=st.integers(0, 2**31), place=st.sampled_from([None, 1, 2]))
def test_sharper_attention_never_takes_syntax_floor_away(seed, place):
    """Of any rows, and of rows that look at one distance class: there another zone is decided below an evenness."""
    rng, formula = np.random.default_rng(seed), any_formula(seed)
    classifier = classifier_of(formula)
    if place is None:
        drawn = draw(30, seed=seed)
        vectors, n, sink, period = drawn.vectors, drawn.context_len, drawn.sink_mass, drawn.periodicity
    else:
        n, sink, period = rng.integers(300, 900, 30), rng.uniform(0, 0.3, 30), np.zeros(30)
        shares = rng.dirichlet([1, 1, 1], 30) * 0.2
        shares[:, place] += 0.8
        vectors = np.array(
            [
                vector_of(share, evenness=rng.uniform(0.61, 0.7), n=int(length), sink=mass, rng=rng)
                for share, length, mass in zip(shares, n, sink, strict=True)
            ]
        )
    given = {"context_len": n, "sink_mass": sink, "periodicity": period}
    before = classifier.classify(vectors, **given).zone_index
    sharper = vectors.copy()
    sharper[:, 3] *= 0.8
    after = classifier.classify(sharper, **given).zone_index
    assert (after[before == 0] == 0).all()


@given(seed=st.integers(0, 2**31))
def test_limits_hold_whatever_the_numbers(seed):
    drawn, formula = draw(60, seed=seed), any_formula(seed)
    given = {"context_len": drawn.context_len, "sink_mass": drawn.sink_mass, "periodicity": drawn.periodicity}
    for known in (given, {}):
        answer = classifier_of(formula).classify(drawn.vectors, **known, with_evidence=True)
        values, usual = answer.evidence[:, VALUES:USUAL], answer.evidence[:, USUAL:Z]
        zones = np.array(answer.zones())
        assert (values[zones == "long_range", LONG] >= 0.05 - 1e-5).all()
        even = zones == "diffuse"
        assert (values[even, EVENNESS] >= usual[even, EVENNESS] - 1e-5).all()
        ripple = zones == "structure_ripple"
        assert (values[ripple, PERIODICITY] >= np.maximum(usual[ripple, PERIODICITY], 0.1) - 1e-5).all()


@pytest.mark.parametrize("n", range(1, 21))
def test_the_shortest_contexts_have_a_zone(n):
    vector = fingerprint_of(np.full((8, 1, n), 1 / n))[None]
    for sink in (0.0, min(1.0, 4 / n), 1.0):
        answer = Classifier.without_run().classify(
            vector, context_len=np.array([n]), sink_mass=np.array([sink]), periodicity=np.array([0.0])
        )
        assert np.isfinite(answer.confidence).all()
        assert answer.zones()[0] != "long_range"
    assert np.isfinite(Classifier.without_run().classify(vector).confidence).all()


@given(seed=st.integers(0, 2**31))
def test_alone_and_in_a_batch_a_row_gets_the_same_bytes(seed):
    drawn = draw(40, seed=seed)
    classifier = Classifier.without_run()
    given = {"context_len": drawn.context_len, "sink_mass": drawn.sink_mass, "periodicity": drawn.periodicity}
    for known in (given, {"context_len": drawn.context_len}, {}):
        whole = classifier.classify(drawn.vectors, **known)
        for i in range(0, 40, 9):
            one = classifier.classify(drawn.vectors[i : i + 1], **{k: v[i : i + 1] for k, v in known.items()})
            assert (one.zone_index[0], one.confidence[0].tobytes()) == (
                whole.zone_index[i],
                whole.confidence[i].tobytes(),
            )


def test_unknown_companions_are_told_row_by_row():
    drawn = draw(60, seed=3)
    classifier = Classifier.without_run()
    lengths = np.where(np.arange(60) % 2, drawn.context_len, 0)
    sinks = np.where(np.arange(60) % 3, drawn.sink_mass, np.nan)
    mixed = classifier.classify(drawn.vectors, context_len=lengths, sink_mass=sinks, periodicity=drawn.periodicity)
    for i in range(60):
        given = {"periodicity": drawn.periodicity[i : i + 1]}
        if i % 2:
            given["context_len"] = drawn.context_len[i : i + 1]
        if i % 3:
            given["sink_mass"] = drawn.sink_mass[i : i + 1]
        one = classifier.classify(drawn.vectors[i : i + 1], **given)
        assert one.zone_index[0] == mixed.zone_index[i]
        assert one.confidence[0] == mixed.confidence[i]


def test_a_request_is_its_tokens_mean_and_one_token_is_itself():
    drawn = draw(50, seed=9)
    formula = shipped_formula()
    found = classifier_of(formula).classify(
        drawn.vectors,
        context_len=drawn.context_len,
        sink_mass=drawn.sink_mass,
        periodicity=drawn.periodicity,
        with_evidence=True,
    )
    single = formula.zones_of(found.evidence)
    assert (single.zone_index == found.zone_index).mean() > 0.97
    mean = found.evidence.astype(np.float64).mean(axis=0)
    whole = formula.zones_of(mean)
    assert whole.zone_index[0] == int(scores_by_hand(formula, mean).argmax())


@given(st.integers(0, 2**31))
def test_usual_values_are_learned_from_traffic(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(20, 900, 3000)
    values = np.column_stack([rng.dirichlet([3, 2, 1], 3000), rng.uniform(0.3, 0.5, 3000), rng.uniform(0.4, 0.6, 3000)])
    values[n <= 104, 2] = 0
    learned = shipped_formula().usual.learned_from(values, n)
    assert learned.num_tokens == 3000
    at = learned.at(np.array([200, 400]))
    assert at[:, EVENNESS] == pytest.approx(0.4, abs=0.03)
    assert at[:, PERIODICITY] == pytest.approx(0.5, abs=0.03)
    # Nothing was seen at 20,000 positions: shifted by as much as elsewhere, and not left where it was.
    assert learned.at(20_000.0)[0, PERIODICITY] > shipped_formula().usual.at(20_000.0)[0, PERIODICITY] + 0.1
    assert shipped_formula().usual.learned_from(np.zeros((0, 5)), np.zeros(0, int)) is shipped_formula().usual


def test_formulas_survive_the_disk(tmp_path):
    formulas = ZoneFormulas(of_model={"org--m": any_formula(1)}, default=shipped_formula())
    formulas.save(tmp_path / "f.json")
    read = ZoneFormulas.load(tmp_path / "f.json")
    assert read.as_json() == formulas.as_json()
    assert read.of("somewhere/org--m").sha256() == formulas.of_model["org--m"].sha256()
    assert read.of("another") is read.default
    assert read.of(None) is read.default


@pytest.mark.parametrize(
    "wrong",
    [
        {"slope": [-1, 0, 0, 0, 0, 0]},
        {"hinge_slope": [0, 0, 0, 0, 0, -0.1]},
        {"bias": [11, 0, 0, 0, 0]},
        {"bias": [0, 0, 0, 0]},
        {"bias": [float("nan"), 0, 0, 0, 0]},
        {"temperature": 0},
        {"confidence": {"margin": [0, 1], "chance": [0.5, 0.4]}},
        {"confidence": {"margin": [1, 0], "chance": [0.5, 0.6]}},
        {"confidence": {"margin": [0, 1], "chance": [0.5, 1.6]}},
        {"confidence": {"margin": [0, float("inf")], "chance": [0.5, 0.6]}},
        {"confidence": {"margin": [0, 1], "chance": [0.5, float("nan")]}},
        {"confidence": {"margin": [], "chance": []}},
        {"usual": {"mean": [[0]], "spread": [[1]], "num_tokens": 0}},
        {"usual": None},
    ],
)
def test_numbers_that_break_the_contract_are_refused(wrong):
    read = json.loads(json.dumps(shipped_formula().as_json()))
    with pytest.raises(CalibrationError):
        ZoneFormula.from_json({**read, **wrong})


def test_what_are_no_formulas_is_refused(tmp_path):
    for content in ("", "[]", "{}", '{"schema_version": 2}', "[" * 100_000):
        (tmp_path / "f.json").write_text(content)
        with pytest.raises(CalibrationError):
            ZoneFormulas.load(tmp_path / "f.json")


def test_the_reason_is_an_own_characteristic_of_the_zone():
    drawn = draw(80, seed=4)
    formula = shipped_formula()
    found = classifier_of(formula).classify(
        drawn.vectors,
        context_len=drawn.context_len,
        sink_mass=drawn.sink_mass,
        periodicity=drawn.periodicity,
        with_evidence=True,
    )
    for zone, row in zip(found.zone_index.tolist(), found.evidence, strict=True):
        reason = formula.reason(zone, row)
        assert reason.characteristic in [CHARACTERISTICS[c] for z, c, _ in OWN if z == zone]
        assert reason.value == pytest.approx(row[CHARACTERISTICS.index(reason.characteristic)], abs=1e-6)


def test_the_shipped_formula_says_what_its_confidence_was_fitted_to_and_how_far_it_is_off():
    told = shipped_formula().provenance["confidence"]
    assert told["model"] == "SmolLM2-135M-Instruct"
    assert told["num_judged"] >= 2_000
    assert told["ece"] <= 0.05
    rows = told["reliability"]
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-3)
    off = sum(abs(row["confidence"] - row["correct"]) * row["share"] for row in rows)
    assert off == pytest.approx(told["ece"], abs=1e-3)
