"""Which prompts set the zones: how many of which kinds of work, how long, behind which irrelevant text."""

from __future__ import annotations

from attn_assets.calibration.background import BRIDGES, NUM_OTHER, background, other_background
from attn_assets.calibration.further_wording import FURTHER_FAMILIES
from attn_assets.calibration.last_wording import LAST_FAMILIES
from attn_assets.calibration.more_wording import MORE_FAMILIES
from attn_assets.calibration.prompts import LabelledPrompt, Length, build
from attn_assets.calibration.wording import FIRST_FAMILIES

FORMER_FAMILIES = (*FIRST_FAMILIES, *MORE_FAMILIES)
FAMILIES = (*FORMER_FAMILIES, *FURTHER_FAMILIES, *LAST_FAMILIES)
LENGTHS = (
    Length(tokens=130, preamble=False),
    Length(tokens=320, preamble=True),
    Length(tokens=200, preamble=True),
    Length(tokens=480, preamble=True),
    Length(tokens=220, preamble=False),
    Length(tokens=260, preamble=True),
    Length(tokens=620, preamble=True),
)
NUM_PREAMBLES = 6


def calibration_prompts(*, num_per_zone: int, seed: int = 0) -> list[LabelledPrompt]:
    """The labelled prompts that set the zones; the same arguments give the same prompts.

    Two in seven stand behind nothing; of the others one in twelve behind prose about towns and the rest behind fourteen
    other kinds of text, so that the zones learn nothing from the kind of text that happens to stand in front.
    """
    in_prose, in_others, further = (round(num_per_zone * share / 310) for share in (20, 140, 90))
    others = [other_background(number) for number in range(2 * NUM_OTHER)]
    parts = (
        (FORMER_FAMILIES, in_prose, 2 * seed, [background(number) for number in range(NUM_PREAMBLES)]),
        (FORMER_FAMILIES, in_others, 2 * seed + 1, others[:NUM_OTHER]),
        (FURTHER_FAMILIES, further, 2 * seed, others[NUM_OTHER:]),
        (LAST_FAMILIES, num_per_zone - in_prose - in_others - further, 2 * seed, others[NUM_OTHER:]),
    )
    return [
        prompt
        for families, count, part_seed, preambles in parts
        for prompt in build(
            families,
            lengths=LENGTHS,
            preambles=preambles,
            bridges=BRIDGES,
            num_per_zone=count,
            temperatures=(0.0, 0.7),
            seed=part_seed,
        )
    ]
