"""Stand-in for torchvision.ops.boxes."""

from __future__ import annotations

from typing import Any

from torchvision import absent


def __getattr__(name: str) -> Any:
    return absent(f"torchvision.ops.boxes.{name}")
