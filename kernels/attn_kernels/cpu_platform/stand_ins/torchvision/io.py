"""Stand-in for torchvision.io."""

from __future__ import annotations

from enum import Enum
from typing import Any

from torchvision import absent


class ImageReadMode(Enum):
    """The colour modes that image loading names."""

    UNCHANGED = 0
    GRAY = 1
    GRAY_ALPHA = 2
    RGB = 3
    RGB_ALPHA = 4


def __getattr__(name: str) -> Any:
    return absent(f"torchvision.io.{name}")
