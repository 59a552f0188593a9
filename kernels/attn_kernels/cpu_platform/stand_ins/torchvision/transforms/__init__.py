"""Stand-in for torchvision.transforms."""

from __future__ import annotations

from typing import Any

from torchvision import absent
from torchvision.transforms import functional as functional
from torchvision.transforms import v2 as v2
from torchvision.transforms.modes import InterpolationMode as InterpolationMode


def __getattr__(name: str) -> Any:
    return absent(f"torchvision.transforms.{name}")
