"""Checkpoints of `attn-discover --long-running`: what a run is, and everything that it has finished so far.

``OUTPUT/.checkpoints/RUN_ID/`` holds ``state.json`` (parameters, window, how it stands), ``assets/`` (the finished
assets' Parquet files) and ``pieces/`` (finished parts of the asset in hand). Each file appears whole or not at all, so
a run may be stopped at any moment, by Ctrl+C or by `kill -9`, and loses at most the piece in hand.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attn_assets.defs.resources import Keepers
from attn_core.errors import SettingsError

FOLDER = ".checkpoints"
STATE_VERSION = 1
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """All that decides a run's result, fixed when it starts, and how it stands."""

    run_id: str
    hours: float
    min_cluster_size: int
    umap_sample_size: int
    batch_size: int
    seed: int
    window_start_us: int
    window_end_us: int
    max_fingerprint_id: int
    """Rows that arrived after the start are not looked at, even where a resumed run could see them."""
    previous_run_id: str
    """Whose cluster ids are carried on; empty for nobody's."""
    started_at_us: int
    max_memory_gb: float | None = None
    """Above this the run is stopped; it decides nothing else."""
    status: str = "running"
    version: int = STATE_VERSION


class Checkpoint:
    """The folder of one run."""

    def __init__(self, output: Path, run_id: str) -> None:
        self.folder = output / FOLDER / run_id

    @property
    def assets(self) -> Path:
        """Where the finished assets lie."""
        return self.folder / "assets"

    def save(self, state: RunState) -> None:
        """Write `state.json` durably."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "state.json", (json.dumps(asdict(state), indent=2) + "\n").encode())

    def load(self) -> RunState:
        """The state saved here; raises `SettingsError` where there is none or it cannot be read."""
        try:
            raw = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            state = RunState(**raw)
        except FileNotFoundError as error:
            known = sorted(path.parent.name for path in self.folder.parent.glob("*/state.json"))
            have = f"there are {', '.join(known)}" if known else "there are none: only --long-running makes them"
            raise SettingsError(f"no checkpoint of run {self.folder.name} in {self.folder.parent} ({have})") from error
        except (OSError, ValueError, TypeError) as error:
            raise SettingsError(f"the checkpoint {self.folder} cannot be read: {error}") from error
        if state.version != STATE_VERSION:
            raise SettingsError(f"checkpoint {state.run_id} is of version {state.version}: start a new run")
        return state

    def finish(self, state: RunState, *, status: str) -> RunState:
        """Say how the run ended; of a published run only that remains."""
        ended = replace(state, status=status)
        self.save(ended)
        if status == "published":
            for part in (self.assets, self.folder / "pieces"):
                shutil.rmtree(part, ignore_errors=True)
        return ended


class FolderKeepers(Keepers):
    """Keeps the finished pieces of each asset in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keeper(self, asset: str) -> FolderKeeper:
        """The keeper of this asset."""
        return FolderKeeper(self._folder / "pieces" / asset)


class FolderKeeper:
    """Arrays as ``.npy`` files, each written whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, name: str) -> F32 | None:
        """The array kept under this name, or None."""
        path = self._folder / f"{name}.npy"
        return np.load(path, allow_pickle=False) if path.exists() else None

    def keep(self, name: str, array: F32) -> None:
        """Write it and force it to disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{name}.part"
        with part.open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._folder / f"{name}.npy")


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
