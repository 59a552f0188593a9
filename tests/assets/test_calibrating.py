"""A calibration as a whole: a served model that answers each zone in its own way, a scorer, a file that stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from synthetic_fingerprints import KINDS, vectors_of

from attn_assets.calibration import fitting
from attn_assets.calibration.answers import LabelledAnswers
from attn_assets.calibration.asking import Server, ask_all
from attn_assets.calibration.calibrating import Recipe, calibrate, calibrated_from_answers, judge
from attn_assets.calibration.command import main
from attn_assets.calibration.evaluation import evaluate, macro_f1
from attn_assets.calibration.fitting import LEFT_OUT, Fit, fit_scorer, token_inputs
from attn_assets.calibration.kept import FOLDER, Calibrations
from attn_assets.calibration.wording import calibration_prompts
from attn_core.errors import CalibrationError
from attn_core.zones import ZONES

STEPS = 6
# Told by the prompt's first words: what the false model server goes by, as the real one goes by the whole prompt.
_MARKS = {prompt.text: ZONES.index(prompt.zone) for prompt in calibration_prompts(num_per_zone=10)}


def _tokens(zone: int, seed: int) -> dict[str, np.ndarray]:
    """Tokens of an answer: its kind of attention goes with the zone, the fifth zone mixes two kinds."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, STEPS) * 3 if zone == len(KINDS) else np.full(STEPS, zone)
    return vectors_of(kind, rng=rng)


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
        behind_preamble=np.arange(len(zones)) % 2 == 0,
        vectors=np.concatenate([one["vector"] for one in drawn]),
        prompt_mass=np.full(len(zones) * STEPS, 0.2, dtype=np.float32),
        **columns,
    )


@pytest.fixture(autouse=True, scope="module")
def _one_strength() -> Iterator[None]:
    """Which regularisation is best is no matter here, and trying each takes most of a fit's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "STRENGTHS", (0.3,))
        yield


@pytest.fixture(scope="module")
def fit(_one_strength: None) -> Fit:
    return fit_scorer(_answers(20, seed=1), provenance={})


def test_zones_that_differ_are_told_on_answers_that_set_nothing(fit: Fit) -> None:
    assert set(fit.macro_f1) == set(LEFT_OUT)
    requests, tokens = judge(fit.scorer, _answers(12, seed=2))
    assert requests.macro_f1 > 0.9, requests.table()
    assert tokens.macro_f1 > 0.7, tokens.table()
    assert requests.confusion.sum() == 60


def test_labels_that_mean_nothing_are_not_learned() -> None:
    answers = _answers(20, seed=3)
    mixed = replace(answers, zone_index=np.random.default_rng(0).permutation(answers.zone_index))
    found = fit_scorer(mixed, provenance={})
    assert max(found.macro_f1.values()) < 0.4
    with pytest.raises(CalibrationError, match="not kept"):
        calibrated_from_answers(mixed, answers, model_id="m", recipe=Recipe(), made_at_us=0)


def test_a_zone_with_too_few_answers_is_named() -> None:
    few = _answers(20, seed=1).chosen(np.arange(85))
    with pytest.raises(CalibrationError, match="5 answers for diffuse"):
        fit_scorer(few, provenance={})


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


def test_evidence_names_what_sets_a_zone_apart(fit: Fit) -> None:
    answers = _answers(12, seed=5)
    inputs = token_inputs(fit.scorer, answers)
    rippling = answers.zone_index[answers.answer_of_token] == 3  # the kind with a periodicity of 0.6
    deciding = fit.scorer.deciding(inputs[rippling].mean(axis=0), inputs.mean(axis=0), 3, count=6)
    assert all(added >= later for (_, added), (_, later) in pairwise(deciding))
    assert deciding[0][1] > 0


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
    first = calibrate(Server(url=model), calibrations, SMALL, report=lambda *one: told.append(one)).scorer
    assert ("calibration", 50, 50) in told
    assert ("held-out", 20, 20) in told
    before = (tmp_path / FOLDER / "tiny" / "0001.json").read_bytes()
    second = calibrations.keep(first)
    assert (first.version, second.version) == ("tiny-0001", "tiny-0002")
    assert (first.provenance["replaces"], second.provenance["replaces"]) == (None, "tiny-0001")
    assert (tmp_path / FOLDER / "tiny" / "0001.json").read_bytes() == before
    newest = calibrations.newest("other-hub/tiny")
    assert newest is not None
    assert newest.version == "tiny-0002"
    history = calibrations.history("tiny")
    assert [one["version"] for one in history] == ["tiny-0001", "tiny-0002"]
    assert history[0]["figures"]["held_out_requests"]["reliability"]
    assert history[0]["num_answers"] == 50
    assert not list((tmp_path / FOLDER).rglob("*.part"))


def test_rows_of_several_models_or_of_none_have_no_calibration(fit: Fit, tmp_path: Path) -> None:
    calibrations = Calibrations(tmp_path / FOLDER)
    calibrations.keep(replace(fit.scorer, provenance={"model": "tiny"}))
    in_force = calibrations.in_force(["tiny", None, "org/tiny"])
    assert in_force is not None
    assert in_force.version == "tiny-0001"
    assert calibrations.in_force(["tiny", "another"]) is None
    assert calibrations.in_force([None]) is None
    assert calibrations.in_force(["never-calibrated"]) is None


def test_the_command_keeps_and_lists(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model-url", model, "--output", str(tmp_path)]
    assert main([*asked, "--list"]) == 0
    assert "none for org/tiny" in capsys.readouterr().out
    assert main([*asked, "--per-zone", "10", "--held-out-per-zone", "4", "--max-tokens", "8"]) == 0
    said = capsys.readouterr().out
    assert "kept as tiny-0001, in place of the rules" in said
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
