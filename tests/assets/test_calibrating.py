"""A calibration as a whole: a served model that answers each zone in its own way, a formula, a file that stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from zone_vectors import vector_of

from attn_assets.calibration.answers import LabelledAnswers
from attn_assets.calibration.asking import Server, ask_all
from attn_assets.calibration.calibrating import Recipe, calibrate, calibrated_from_answers, judge
from attn_assets.calibration.command import main
from attn_assets.calibration.evaluation import evaluate, macro_f1
from attn_assets.calibration.fitting import evidence_of, fit_formula
from attn_assets.calibration.kept import FOLDER, Calibrations
from attn_assets.calibration.setting import calibration_prompts
from attn_core.errors import CalibrationError
from attn_core.zones import ZONES, ZoneFormula, shipped_formula

STEPS = 6
# Told by the prompt's first words: what the false model server goes by, as the real one goes by the whole prompt.
_MARKS = {prompt.text: ZONES.index(prompt.zone) for prompt in calibration_prompts(num_per_zone=10)}


def _tokens(zone: int, seed: int) -> dict[str, np.ndarray]:
    """Tokens of an answer that look as the zone says, more or less."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Any]] = {"vector": [], "context_len": [], "sink_mass": [], "periodicity": []}
    for _ in range(STEPS):
        n, sink = int(rng.integers(200, 800)), rng.uniform(0.1, 0.5)
        shares = np.array([3.0, 3.0, 3.0])
        if zone in (0, 1, 3):
            shares[{0: 0, 1: 1, 3: 2}[zone]] += 4
        even = {0: 0.5, 4: 0.9}.get(zone, 0.7) + rng.normal(0, 0.05)
        drawn["vector"].append(
            vector_of(rng.dirichlet(2 * shares), evenness=float(np.clip(even, 0, 0.99)), n=n, sink=sink, rng=rng)
        )
        drawn["context_len"].append(n)
        drawn["sink_mass"].append(sink)
        drawn["periodicity"].append(np.clip((0.5 if zone == 2 else 0.2) + rng.normal(0, 0.07), 0, 1))
    return {name: np.array(values) for name, values in drawn.items()}


def _answers(num_per_zone: int, *, seed: int) -> LabelledAnswers:
    zones = np.repeat(np.arange(len(ZONES)), num_per_zone)
    drawn = [_tokens(int(zone), seed * 1000 + k) for k, zone in enumerate(zones)]
    columns = {
        name: np.concatenate([one[name] for one in drawn]) for name in ("context_len", "sink_mass", "periodicity")
    }
    return LabelledAnswers(
        start=np.arange(len(zones) + 1) * STEPS,
        zone_index=zones,
        family=np.array([f"family {zone} {k % 3}" for k, zone in enumerate(zones)]),
        surroundings=np.where(np.arange(len(zones)) % 2 == 0, "towns", ""),
        vectors=np.concatenate([one["vector"] for one in drawn]).astype(np.float32),
        prompt=np.full(len(zones), "?"),
        text=np.full(len(zones), "."),
        prompt_mass=np.full(len(zones) * STEPS, 0.2, dtype=np.float32),
        **columns,
    )


@pytest.fixture(scope="module")
def fitted() -> ZoneFormula:
    return fit_formula(_answers(20, seed=1), base=shipped_formula(), provenance={})


def test_zones_that_differ_are_told_on_answers_that_set_nothing(fitted: ZoneFormula) -> None:
    requests, tokens = judge(fitted, _answers(12, seed=2))
    assert requests.macro_f1 > 0.9, requests.table()
    assert tokens.macro_f1 > 0.6, tokens.table()
    assert requests.confusion.sum() == 60


def test_labels_set_the_biases_and_the_temperature_alone(fitted: ZoneFormula) -> None:
    base = shipped_formula()
    answers = _answers(20, seed=1)
    mixed = replace(answers, zone_index=np.random.default_rng(0).permutation(answers.zone_index))
    other = fit_formula(mixed, base=base, provenance={})
    for name in ("slope", "hinge_slope", "head_slope", "margin", "chance"):
        np.testing.assert_array_equal(getattr(fitted, name), getattr(base, name))
    np.testing.assert_array_equal(other.usual.mean, fitted.usual.mean)
    np.testing.assert_array_equal(other.hinge, fitted.hinge)
    assert not np.array_equal(other.bias, fitted.bias)
    np.testing.assert_allclose(evidence_of(other, answers), evidence_of(fitted, answers))


def test_zones_that_are_not_what_they_say_are_not_kept() -> None:
    # Every answer is of one kind: four zones hold next to nothing.
    answers = _answers(20, seed=3)
    one_kind = replace(answers, vectors=np.repeat(answers.vectors[:1], len(answers.vectors), axis=0))
    one_kind = replace(one_kind, context_len=np.full_like(answers.context_len, answers.context_len[0]))
    one_kind = replace(one_kind, sink_mass=np.full_like(answers.sink_mass, answers.sink_mass[0]))
    one_kind = replace(one_kind, periodicity=np.full_like(answers.periodicity, 0.2))
    with pytest.raises(CalibrationError, match="of the tokens"):
        calibrated_from_answers(one_kind, answers, model_id="m", recipe=Recipe(), made_at_us=0)


def test_a_zone_with_too_few_answers_is_named() -> None:
    few = _answers(20, seed=1).chosen(np.arange(85))
    with pytest.raises(CalibrationError, match="diffuse has 5 labelled answers"):
        fit_formula(few, base=shipped_formula(), provenance={})


def test_answers_are_cut_chosen_and_read_back(tmp_path: Path) -> None:
    answers = _answers(3, seed=4)
    answers.save(tmp_path / "a.npz")
    read = LabelledAnswers.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.first(2).vectors, answers.vectors[np.arange(len(answers.vectors)) % STEPS < 2])
    third = read.chosen(np.array([2]))
    np.testing.assert_array_equal(third.vectors, answers.vectors[2 * STEPS : 3 * STEPS])
    (tmp_path / "b.npz").write_bytes(b"no zip")
    with pytest.raises(CalibrationError, match="holds no labelled answers"):
        LabelledAnswers.load(tmp_path / "b.npz")


def test_macro_f1_and_the_confusion_table_by_hand() -> None:
    true, given = np.array([0, 0, 1, 2, 3, 4]), np.array([0, 1, 1, 2, 3, 3])
    assert macro_f1(true, given) == pytest.approx((2 / 3 + 2 / 3 + 1 + 2 / 3 + 0) / 5)
    found = evaluate(true, np.eye(5, dtype=np.float32)[given])
    assert found.confusion[0, 1] == 1
    assert found.ece == pytest.approx(1 - 4 / 6)
    assert "syntax_floor" in found.table()


class _FalseModel(BaseHTTPRequestHandler):
    """An OpenAI API with attention, as far as a calibration asks for it."""

    attention = True

    def do_GET(self) -> None:
        self._say({"data": [{"id": "org/tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["return_attention_tokens"] is True
        text = body["messages"][0]["content"]
        drawn = _tokens(_MARKS.get(text, len(text) % len(ZONES)), seed=len(text))
        tokens = [
            {
                "fingerprint": drawn["vector"][k].tolist(),
                "prompt_mass": 0.2,
                **{name: drawn[name][k].item() for name in ("context_len", "sink_mass", "periodicity")},
            }
            for k in range(STEPS)
        ]
        message: dict[str, Any] = {"content": "."}
        if self.attention:
            message["attention_tokens"] = [*tokens, {"captured": False}]
        self._say({"choices": [{"message": message}]})

    def _say(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is the test's."""


@pytest.fixture
def model() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _FalseModel) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(timeout=10)
    _FalseModel.attention = True


SMALL = Recipe(num_per_zone=10, held_out_per_zone=4, max_tokens=STEPS)


def test_a_recalibration_is_a_file_of_its_own_that_names_the_one_before(model: str, tmp_path: Path) -> None:
    calibrations = Calibrations(tmp_path / FOLDER)
    told: list[tuple[str, int, int]] = []
    first = calibrate(Server(url=model), calibrations, SMALL, report=lambda *one: told.append(one)).formula
    assert ("calibration", 50, 50) in told
    assert ("held-out", 20, 20) in told
    before = (tmp_path / FOLDER / "tiny" / "0001.json").read_bytes()
    second = calibrations.keep(first)
    assert (first.version, second.version) == ("tiny-0001", "tiny-0002")
    assert (first.provenance["replaces"], second.provenance["replaces"]) == ("shipped", "tiny-0001")
    assert (tmp_path / FOLDER / "tiny" / "0001.json").read_bytes() == before
    assert calibrations.newest("other-hub/tiny").version == "tiny-0002"
    assert calibrations.newest("never-calibrated") is shipped_formula()
    history = calibrations.history("tiny")
    assert [one["version"] for one in history] == ["tiny-0001", "tiny-0002"]
    assert history[0]["figures"]["held_out_requests"]["reliability"]
    assert history[0]["num_answers"] == 50
    assert not list((tmp_path / FOLDER).rglob("*.part"))


def test_a_calibration_that_cannot_be_read_is_left_out(fitted: ZoneFormula, tmp_path: Path) -> None:
    """Of the form before zones were their characteristics, or damaged: the one before it is used."""
    calibrations = Calibrations(tmp_path / FOLDER)
    calibrations.keep(replace(fitted, provenance={"model": "tiny"}))
    (tmp_path / FOLDER / "tiny" / "0002.json").write_text('{"schema_version": 1, "token": []}')
    (tmp_path / FOLDER / "tiny" / "0003.json").write_bytes(b"\x00torn")
    assert calibrations.newest("tiny").version == "tiny-0001"
    assert [one["version"] for one in calibrations.history("tiny")] == ["tiny-0001"]
    assert calibrations.keep(replace(fitted, provenance={"model": "tiny"})).version == "tiny-0004"


def test_the_command_keeps_and_lists(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model-url", model, "--output", str(tmp_path)]
    assert main([*asked, "--list"]) == 0
    assert "none for org/tiny" in capsys.readouterr().out
    assert main([*asked, "--per-zone", "10", "--held-out-per-zone", "4", "--max-tokens", "8"]) == 0
    said = capsys.readouterr().out
    assert "kept as tiny-0001, in place of shipped" in said
    assert "macro-F1" in said
    assert main([*asked, "--list"]) == 0
    assert "tiny-0001" in capsys.readouterr().out


def test_the_command_says_what_is_wrong_with_the_server(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model-url", "ftp://somewhere", "--output", str(tmp_path)]) == 2
    assert "expected http://HOST:PORT" in capsys.readouterr().err
    assert main(["--model-url", "http://127.0.0.1:1", "--output", str(tmp_path)]) == 2
    assert "is the model server up" in capsys.readouterr().err
    _FalseModel.attention = False
    assert main(["--model-url", model, "--output", str(tmp_path), "--per-zone", "10"]) == 1
    assert "--return-attention-tokens" in capsys.readouterr().err
    assert not (tmp_path / FOLDER).exists()


def test_asking_keeps_the_order_of_the_prompts(model: str) -> None:
    prompts = calibration_prompts(num_per_zone=10)[:12]
    answers = ask_all(Server(url=model), prompts, max_tokens=STEPS)
    assert [ZONES[zone] for zone in answers.zone_index] == [prompt.zone for prompt in prompts]
    assert answers.family.tolist() == [prompt.family for prompt in prompts]
    assert np.diff(answers.start).tolist() == [STEPS] * 12
