"""The labelled prompts: balanced lengths, other words where they judge, the same ones each time."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import numpy as np
import pytest

from attn_assets.calibration.held_out import HELD_OUT_FAMILIES, held_out_prompts
from attn_assets.calibration.prompts import Family, LabelledPrompt, Length, Preamble, build, cut, estimated_tokens
from attn_assets.calibration.setting import FAMILIES, calibration_prompts
from attn_core.zones import ZONES
from demo.prompts import prompt_mix


def _runs_of_words(prompts: list[str], *, length: int) -> set[tuple[str, ...]]:
    """All runs of this many words; numbers and names of the pools count as words too."""
    runs: set[tuple[str, ...]] = set()
    for prompt in prompts:
        words = re.findall(r"[a-z']+", prompt.lower())
        runs |= {tuple(words[k : k + length]) for k in range(len(words) - length + 1)}
    return runs


def test_every_zone_has_as_many_prompts_of_several_kinds() -> None:
    prompts = calibration_prompts(num_per_zone=35)
    assert Counter(prompt.zone for prompt in prompts) == dict.fromkeys(ZONES, 35)
    for zone in ZONES:
        assert len({prompt.family for prompt in prompts if prompt.zone == zone}) >= 3, zone


@pytest.mark.parametrize(
    "prompts", [calibration_prompts(num_per_zone=310), held_out_prompts()], ids=["calibration", "held-out"]
)
def test_the_length_behind_a_preamble_says_nothing_of_the_zone(prompts: list[LabelledPrompt]) -> None:
    means = []
    for zone in ZONES:
        lengths = [estimated_tokens(p.text) for p in prompts if p.zone == zone and p.behind_preamble]
        assert len(lengths) >= 15
        means.append(np.mean(lengths))
    assert max(means) / min(means) < 1.1, dict(zip(ZONES, means, strict=True))


def test_half_of_the_held_out_prompts_stand_behind_irrelevant_text() -> None:
    prompts = held_out_prompts(num_per_zone=20)
    for zone in ZONES:
        assert sum(prompt.behind_preamble for prompt in prompts if prompt.zone == zone) == 10, zone


def test_temperature_goes_with_no_zone_and_no_preamble() -> None:
    for prompts in (calibration_prompts(num_per_zone=310), held_out_prompts()):
        counts = Counter((prompt.zone, prompt.temperature) for prompt in prompts)
        assert max(counts.values()) - min(counts.values()) <= 0.06 * len(prompts) / len(ZONES)
        assert 0.35 < np.mean([prompt.temperature > 0 for prompt in prompts if prompt.behind_preamble]) < 0.65


def test_what_judges_shares_no_wording_with_what_calibrates() -> None:
    calibrating = _runs_of_words([prompt.text for prompt in calibration_prompts(num_per_zone=310)], length=6)
    judging = _runs_of_words([prompt.text for seed in (0, 1) for prompt in held_out_prompts(seed=seed)], length=6)
    assert not calibrating & judging


def test_nothing_is_set_by_the_prompts_of_the_demo() -> None:
    demo = _runs_of_words([prompt.text for prompt in prompt_mix()], length=8)
    calibrating = _runs_of_words([prompt.text for prompt in calibration_prompts(num_per_zone=310)], length=8)
    # The days of the week and the alphabet in order are nobody's wording.
    assert len(calibrating & demo) <= 2, calibrating & demo


def test_the_same_seed_gives_the_same_prompts_and_another_seed_others() -> None:
    assert calibration_prompts(num_per_zone=10) == calibration_prompts(num_per_zone=10)
    assert calibration_prompts(num_per_zone=10, seed=1) != calibration_prompts(num_per_zone=10)


def test_hardly_a_prompt_occurs_twice_behind_the_same_preamble_at_the_same_temperature() -> None:
    for prompts in (calibration_prompts(num_per_zone=310), held_out_prompts()):
        repeated = [key for key, count in Counter((p.text, p.temperature) for p in prompts).items() if count > 1]
        assert len(repeated) <= len(prompts) // 30, repeated


def test_every_family_writes_something_for_every_length() -> None:
    for family in (*FAMILIES, *HELD_OUT_FAMILIES):
        for number in range(6):
            for tokens in (60, 200, 500):
                text = family.make(Random(number), number, tokens)  # noqa: S311
                assert text.strip()
                left_open = re.search(r"\{[dtqx]\}", text)
                assert left_open is None or family.name == "bracket_matching", text


def test_a_document_takes_half_of_the_room_and_irrelevant_text_the_rest() -> None:
    family = Family(name="f", zone="long_range", make=lambda rng, number, tokens: "word " * tokens, fills=True)
    (prompt,) = build(
        [family],
        lengths=[Length(tokens=200, preamble=True)],
        preambles=[Preamble(kind="words", sentences=["Seven words that say nothing at all."] * 40)],
        bridges=["And now:"],
        num_per_zone=1,
        temperatures=(0.0,),
        seed=0,
    )
    assert prompt.behind_preamble
    assert prompt.text.split("And now:")[1].count("word") == 100
    assert 170 <= estimated_tokens(prompt.text) <= 230


def test_cut_keeps_at_least_one_sentence_and_no_more_than_fit() -> None:
    assert cut(["One two three four.", "Five six."], tokens=1) == "One two three four."
    assert cut(["One.", "Two.", "Three."], tokens=4) == "One. Two."


def test_a_zone_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'sinkhole' of family 'f'"):
        LabelledPrompt(family="f", zone="sinkhole", text="", surroundings="", temperature=0.0)
