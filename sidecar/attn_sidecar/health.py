"""The health board: what is wrong right now, said by the part that knows and read by `/health`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Ailment:
    """One thing that is wrong."""

    reason: str
    blocks: bool
    """Whether fingerprints cannot be kept because of it; a warning otherwise."""


class Watched(Protocol):
    """A thread: looked at when someone asks, for it cannot be relied on to say so itself."""

    name: str
    num_errors: int
    """Faults that it survived since the start."""

    part: str
    """Of the sidecar, that it belongs to."""
    blocks: bool
    """Whether fingerprints cannot be stored without it."""

    def why_unwell(self) -> str | None:
        """What is wrong with it now."""

    def is_alive(self) -> bool:
        """Whether it does its work at all."""


class HealthBoard:
    """Current ailments by part. Any thread may write or read it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ailments: dict[str, Ailment] = {}
        self._watched: list[Watched] = []

    def watch(self, watched: Watched) -> None:
        """Look at this too whenever someone asks."""
        with self._lock:
            self._watched.append(watched)

    def _now(self) -> dict[str, Ailment]:
        """What is wrong, by part, those included that cannot say so themselves."""
        with self._lock:
            found, watched = dict(self._ailments), list(self._watched)
        for one in watched:
            if one.part not in found and (reason := one.why_unwell()) is not None:
                found[one.part] = Ailment(reason=reason, blocks=one.blocks and not one.is_alive())
        return found

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

    @property
    def unwell_parts(self) -> set[str]:
        """The parts of which something is wrong, what is watched included."""
        return set(self._now())

    @property
    def watched(self) -> list[Watched]:
        """What is looked at whenever someone asks."""
        with self._lock:
            return list(self._watched)

    def ails(self, part: str) -> bool:
        """Whether `part` itself says that it ails now."""
        with self._lock:
            return part in self._ailments

    @property
    def reasons(self) -> list[str]:
        """What is wrong, each beginning with the part's name."""
        return [f"{part}: {ailment.reason}" for part, ailment in sorted(self._now().items())]

    @property
    def blocked(self) -> bool:
        """Whether something keeps fingerprints from being stored."""
        return any(ailment.blocks for ailment in self._now().values())
