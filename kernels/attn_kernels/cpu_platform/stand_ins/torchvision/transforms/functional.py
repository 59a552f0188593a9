"""Stand-in for torchvision.transforms.functional."""

from __future__ import annotations

from typing import Any

from torchvision import absent
from torchvision.transforms.modes import InterpolationMode as InterpolationMode


def __getattr__(name: str) -> Any:
    return absent(f"torchvision.transforms.functional.{name}")
