"""The settings of `--online`: how long it remembers, when it says something, and where its bounds lie."""

from __future__ import annotations

from dataclasses import dataclass

from attn_core.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Shares lie in 0..1; drift is in root mean square radii of the clusters."""

    novelty: float = 0.15
    """Unclaimed share beyond the expected one that asks for an early run."""
    drift: float = 0.5
    """Drift that asks for an early run."""
    min_points: int = 1_000
    """Points since the run was loaded before anything is judged."""
    half_life_points: int = 10_000
    """A point counts half as much once this many newer ones have come."""

    def __post_init__(self) -> None:
        if not 0.0 < self.novelty <= 1.0:
            raise SettingsError(f"--online-novelty {self.novelty}: a share above 0, at most 1")
        if not self.drift > 0.0:
            raise SettingsError(f"--online-drift {self.drift}: a number of cluster radii above 0")
        if self.min_points < 1:
            raise SettingsError(f"--online-min-points {self.min_points}: at least 1")
        if self.half_life_points < 1:
            raise SettingsError(f"--online-half-life {self.half_life_points}: at least 1 point")
