"""The health board: what is wrong right now, said by the part that knows and read by `/health`."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ailment:
    """One thing that is wrong."""

    reason: str
    blocks: bool
    """Whether fingerprints cannot be kept because of it; a warning otherwise."""


class HealthBoard:
    """Current ailments by part. Any thread may write or read it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ailments: dict[str, Ailment] = {}

    def ail(self, part: str, reason: str, *, blocks: bool) -> bool:
        """Say that `part` ails; True if it was well until now."""
        with self._lock:
            was_well = part not in self._ailments
            self._ailments[part] = Ailment(reason=reason, blocks=blocks)
            return was_well

    def recover(self, part: str) -> bool:
        """Say that `part` is well; True if it ailed until now."""
        with self._lock:
            return self._ailments.pop(part, None) is not None

    def ails(self, part: str) -> bool:
        """Whether `part` ails now."""
        with self._lock:
            return part in self._ailments

    @property
    def reasons(self) -> list[str]:
        """What is wrong, each beginning with the part's name."""
        with self._lock:
            return [f"{part}: {ailment.reason}" for part, ailment in sorted(self._ailments.items())]

    @property
    def blocked(self) -> bool:
        """Whether something keeps fingerprints from being stored."""
        with self._lock:
            return any(ailment.blocks for ailment in self._ailments.values())
