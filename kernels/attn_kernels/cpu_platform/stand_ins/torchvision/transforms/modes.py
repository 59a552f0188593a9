"""Stand-in for the interpolation modes that torchvision.transforms shares between its versions."""

from __future__ import annotations

from enum import Enum


class InterpolationMode(Enum):
    """The names that processors use as default arguments."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"
