"""Stand-in for torchvision.transforms.v2."""

from __future__ import annotations

from typing import Any

from torchvision import absent
from torchvision.transforms.modes import InterpolationMode as InterpolationMode
from torchvision.transforms.v2 import functional as functional


def __getattr__(name: str) -> Any:
    return absent(f"torchvision.transforms.v2.{name}")
