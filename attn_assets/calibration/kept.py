"""The calibrations there are: one file each, numbered by model, never changed; and the one that comes with the project.

A recalibration is an event: it adds a file that names the one before it. What is served says which file it rests on.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from attn_core.errors import CalibrationError
from attn_core.zones import ZoneFormula, model_name, shipped_formula

_LOG = logging.getLogger(__name__)
FOLDER = "zone_calibrations"
"""Beside the bundles, in the discovery directory."""


@dataclass(frozen=True)
class Calibrations:
    """The calibrations in one folder; it need not exist."""

    folder: Path

    def numbered(self, model_id: str) -> list[Path]:
        """The files of this model's calibrations, oldest first."""
        return sorted((self.folder / model_name(model_id)).glob("[0-9]*.json"))

    def newest(self, model_id: str) -> ZoneFormula:
        """The formula in force for a model: of its last calibration, else the one that comes with the package."""
        for path in reversed(self.numbered(model_id)):
            try:
                return load_formula(path)
            except CalibrationError as error:
                # Of an older form, or damaged: no reason to stop discovery.
                _LOG.warning("calibration left out: %s; attn-discover calibrate makes a new one", error)
        return shipped_formula()

    def history(self, model_id: str) -> list[dict[str, Any]]:
        """What each of a model's readable calibrations says of itself, oldest first."""
        found = []
        for path in self.numbered(model_id):
            try:
                found.append(dict(load_formula(path).provenance))
            except CalibrationError as error:
                _LOG.warning("calibration left out: %s", error)
        return found

    def keep(self, formula: ZoneFormula) -> ZoneFormula:
        """File it as its model's newest: the same formula with `version` and `replaces` in its provenance."""
        model_id = str(formula.provenance["model"])
        files = self.numbered(model_id)
        before = self.newest(model_id)
        number = int(files[-1].stem) + 1 if files else 1
        provenance = {
            **formula.provenance,
            "version": f"{model_name(model_id)}-{number:04}",
            "replaces": before.version,
        }
        named = replace(formula, provenance=provenance)
        folder = self.folder / model_name(model_id)
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as part:
            staged = Path(part.name)
        try:
            staged.write_text(json.dumps(named.as_json()) + "\n", encoding="utf-8")
            # A link is made only where the name is free: two at once do not overwrite each other.
            os.link(staged, folder / f"{number:04}.json")
        except FileExistsError as error:
            raise CalibrationError(
                f"{folder / f'{number:04}.json'} appeared meanwhile: another calibration of this model has ended first"
            ) from error
        finally:
            staged.unlink()
        return named


def load_formula(path: Path) -> ZoneFormula:
    """Read one; raises `CalibrationError`."""
    try:
        return ZoneFormula.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError(f"{path} cannot be read: {error}") from error
