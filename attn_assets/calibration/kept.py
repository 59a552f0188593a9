"""The calibrations there are: one file each, numbered by model, never changed; and the one that comes with the project.

A recalibration is an event: it adds a file that names the one before it. What is served says which file it rests on.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from attn_core.errors import CalibrationError
from attn_core.zone_scorer import ZoneScorer, model_name, same_model

FOLDER = "zone_calibrations"
"""Beside the bundles, in the discovery directory."""
SHIPPED = "smollm2_135m_instruct.json"


@dataclass(frozen=True)
class Calibrations:
    """The calibrations in one folder; it need not exist."""

    folder: Path

    def numbered(self, model_id: str) -> list[Path]:
        """The files of this model's calibrations, oldest first."""
        return sorted((self.folder / model_name(model_id)).glob("[0-9]*.json"))

    def newest(self, model_id: str) -> ZoneScorer | None:
        """The calibration in force for a model: the last one made, else the one shipped for it, else None."""
        files = self.numbered(model_id)
        return ZoneScorer.load(files[-1]) if files else shipped(model_id)

    def in_force(self, model_ids: Collection[str | None]) -> ZoneScorer | None:
        """The calibration for rows of these models: None where they are of several, or of none that is known.

        Rows that name no model (sent by hand) do not decide.
        """
        names = {model_name(model_id) for model_id in model_ids if model_id}
        return self.newest(names.pop()) if len(names) == 1 else None

    def history(self, model_id: str) -> list[dict[str, Any]]:
        """What each of a model's calibrations says of itself, oldest first."""
        return [dict(ZoneScorer.load(path).provenance) for path in self.numbered(model_id)]

    def keep(self, scorer: ZoneScorer) -> ZoneScorer:
        """File it as its model's newest: the same scorer with `version` and `replaces` in its provenance."""
        model_id = str(scorer.provenance["model"])
        files = self.numbered(model_id)
        before = self.newest(model_id)
        number = int(files[-1].stem) + 1 if files else 1
        provenance = {
            **scorer.provenance,
            "version": f"{model_name(model_id)}-{number:04}",
            "replaces": None if before is None else before.version,
        }
        named = replace(scorer, provenance=provenance)
        folder = self.folder / model_name(model_id)
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as part:
            staged = Path(part.name)
        try:
            named.save(staged)
            # A link is made only where the name is free: two at once do not overwrite each other.
            os.link(staged, folder / f"{number:04}.json")
        except FileExistsError as error:
            raise CalibrationError(
                f"{folder / f'{number:04}.json'} appeared meanwhile: another calibration of this model has ended first"
            ) from error
        finally:
            staged.unlink()
        return named


def shipped(model_id: str) -> ZoneScorer | None:
    """The calibration that comes with the project, where it is of this model."""
    file = resources.files("attn_assets.calibration").joinpath(SHIPPED)
    if not file.is_file():
        return None
    with resources.as_file(file) as path:
        scorer = ZoneScorer.load(path)
    return scorer if same_model(str(scorer.provenance.get("model")), model_id) else None
