"""Stand-in for torchvision.ops."""

from __future__ import annotations

from typing import Any

from torchvision import absent
from torchvision.ops import boxes as boxes


def __getattr__(name: str) -> Any:
    return absent(f"torchvision.ops.{name}")
