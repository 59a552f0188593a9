"""Labelled answers as arrays: what the served model attended to while it answered prompts whose zone is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from attn_core.errors import CalibrationError
from attn_core.fingerprint import DIM
from attn_core.zones import ZONES

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
_TOKEN_COLUMNS = ("context_len", "sink_mass", "prompt_mass", "periodicity")


@dataclass(frozen=True, kw_only=True)
class LabelledAnswers:
    """r answers with m tokens in all, the tokens of an answer together and in the order of their steps."""

    start: I64
    """[r + 1], answer k holds the tokens start[k] up to start[k + 1]; none is empty."""
    zone_index: I64
    """[r], the zone that each was an example of: index into `ZONES`."""
    family: npt.NDArray[np.str_]
    """[r], the kind of prompt."""
    surroundings: npt.NDArray[np.str_]
    """[r], the kind of irrelevant text before the task; empty where there was none."""
    prompt: npt.NDArray[np.str_]
    """[r], what was asked."""
    text: npt.NDArray[np.str_]
    """[r], what was answered."""
    vectors: F32
    """[m, 20]."""
    context_len: I64
    sink_mass: F32
    prompt_mass: F32
    periodicity: F32

    def __len__(self) -> int:
        return len(self.zone_index)

    @property
    def behind_preamble(self) -> npt.NDArray[np.bool_]:
        """[r], whether irrelevant text stood before the task."""
        behind: npt.NDArray[np.bool_] = self.surroundings != ""
        return behind

    @property
    def answer_of_token(self) -> I64:
        """[m], the number of the answer that each token belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def first(self, steps: int) -> LabelledAnswers:
        """The same answers, each cut off after this many tokens."""
        lengths = np.minimum(np.diff(self.start), steps)
        keep = np.concatenate([np.arange(a, a + n) for a, n in zip(self.start[:-1], lengths, strict=True)])
        return self._taking(keep, lengths=lengths, answers=np.arange(len(self)))

    def chosen(self, answers: npt.NDArray[np.integer]) -> LabelledAnswers:
        """These answers only, in this order."""
        lengths = np.diff(self.start)[answers]
        parts = [np.arange(self.start[k], self.start[k + 1]) for k in answers]
        keep = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return self._taking(keep, lengths=lengths, answers=np.asarray(answers))

    def _taking(self, tokens: I64, *, lengths: I64, answers: I64) -> LabelledAnswers:
        return LabelledAnswers(
            start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            zone_index=self.zone_index[answers],
            family=self.family[answers],
            surroundings=self.surroundings[answers],
            prompt=self.prompt[answers],
            text=self.text[answers],
            vectors=self.vectors[tokens],
            **{name: getattr(self, name)[tokens] for name in _TOKEN_COLUMNS},
        )

    def save(self, path: Path) -> None:
        """Write as npz, without anything that could run code."""
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> LabelledAnswers:
        """Read what `save` wrote; raises `CalibrationError` where it is something else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                answers = cls(**{name: file[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise CalibrationError(f"{path} holds no labelled answers: {error}") from error
        fits = len(answers.start) == len(answers) + 1 and answers.vectors.shape == (int(answers.start[-1]), DIM)
        if not fits or not (answers.zone_index >= 0).all() or not (answers.zone_index < len(ZONES)).all():
            raise CalibrationError(f"{path}: its arrays do not fit together")
        return answers


def joined(parts: Sequence[LabelledAnswers]) -> LabelledAnswers:
    """All answers of these, in this order; at least one part."""
    offsets = np.cumsum([0, *(int(part.start[-1]) for part in parts)])
    starts = [part.start[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    columns = ("zone_index", "family", "surroundings", "prompt", "text", "vectors", *_TOKEN_COLUMNS)
    return LabelledAnswers(
        start=np.concatenate([*starts, [offsets[-1]]]).astype(np.int64),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns},
    )
