"""What the user asked of the capture: from flags in the launcher, from one variable in SGLang's other processes."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from attn_core.head_projection import FOLDER
from attn_core.wire import DEFAULT_ADDRESS

VARIABLE = "ATTN_CAPTURE"
"""Environment variable that carries the settings, as JSON, to the processes that SGLang spawns. Not for users."""
PUBLISH_OFF = "off"


@dataclass(frozen=True, kw_only=True)
class CaptureSettings:
    """The plugin's settings; without ``--return-attention-tokens`` there are none and the plugin does nothing."""

    top_k: int = 32
    publish_address: str = DEFAULT_ADDRESS
    """ZMQ address of the sidecar, or ``off``."""
    capture: Literal["all", "requested"] = "all"
    privacy: bool = False
    cuda_graphs: bool = False
    """Whether decode steps are recorded in CUDA graphs, with their capture."""
    budget_percent: float | None = None
    """What the capture may cost, in percent of the rest of a step; None for no bound."""
    spool_dir: str | None = None
    """Where batches wait on disk for the sidecar; None: under the user's state directory, by the server's port."""
    spool_bytes: int = 1 << 30
    """Bound of the spool's files; 0 for no spool."""
    head_sample: int = 8
    """Tokens of which one gives its raw head figures while there is no head projection; 0 for never."""
    head_projection_dir: str | None = None
    """Where the current head projection is kept; None: under the user's state directory, by the server's port."""
    curve_server_key: str | None = None
    """File with the sidecar's public CURVE key; None for no encryption."""
    curve_client_key: str | None = None
    """File with this server's secret CURVE key; None for a pair made at start."""


def to_environment(settings: CaptureSettings | None) -> None:
    """Leave the settings, or that there are none, for the processes that this one will spawn."""
    os.environ.pop(VARIABLE, None)
    if settings is not None:
        os.environ[VARIABLE] = json.dumps(asdict(settings))


def from_environment() -> CaptureSettings | None:
    """The settings of the launcher that spawned this process, or None where it captures nothing."""
    text = os.environ.get(VARIABLE)
    return None if text is None else CaptureSettings(**json.loads(text))


def default_spool_dir(*, port: int) -> Path:
    """Where the spool of the server on this port lies unless told otherwise: a directory of the user's own."""
    return _state_dir() / "spool" / str(port)


def default_head_projection_dir(*, port: int) -> Path:
    """Where the server on this port keeps its head projection unless told otherwise."""
    return _state_dir() / FOLDER / str(port)


def _state_dir() -> Path:
    if state := os.environ.get("XDG_STATE_HOME"):
        root = Path(state)
    elif home := os.environ.get("HOME"):
        root = Path(home) / ".local" / "state"
    else:
        root = Path(tempfile.gettempdir()) / f"attention-explorer-{os.getuid()}"
    return root / "attention-explorer"
