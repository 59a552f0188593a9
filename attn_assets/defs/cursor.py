"""What the sensor of new rows remembers from look to look, as small JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from attn_assets.defs.attempts import key_of_try
from attn_assets.defs.partitions import key_from_us


class Status(IntEnum):
    """How the last request of an hour stands."""

    REQUESTED = 0
    DONE = 1
    GIVEN_UP = 2


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The last request of an hour: rows above the watermark that it covered, highest id among them, and when."""

    num_rows: int
    max_id: int
    at_us: int
    num_failed: int = 0
    """Tries that failed in a row before this one."""
    number: int = 0
    """Of its run key."""
    whole: bool = True
    """The whole graph, not its rows alone."""
    status: Status = Status.REQUESTED

    def run_key(self, hour_us: int) -> str:
        """The key of the run that was requested."""
        return key_of_try(f"{key_from_us(hour_us)}/{self.max_id}", self.number)


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Every row up to `watermark_id` is done or given up; of the newer ones, those that `hours` says."""

    watermark_id: int = 0
    hours: Mapping[int, Asked] = field(default_factory=dict)
    """By hour start, UTC microseconds."""
    ahead: Mapping[int, int] = field(default_factory=dict)
    """Hours that had not begun when rows of them were seen, to the highest id: requested once they have."""

    @classmethod
    def from_json(cls, text: str | None) -> Cursor:
        """The cursor that `to_json` wrote, by this version or the one before; the beginning for None."""
        if not text:
            return cls()
        raw = json.loads(text)
        hours = {int(hour): _asked(values) for hour, values in raw["hours"].items()}
        ahead = {int(h): int(m) for h, m in raw.get("ahead", {}).items()}
        return cls(watermark_id=raw["watermark_id"], hours=hours, ahead=ahead)

    def to_json(self) -> str:
        """Small JSON: the watermark, and seven numbers for each hour that still matters."""
        hours = {
            str(h): [a.num_rows, a.max_id, a.at_us, a.num_failed, a.number, int(a.whole), int(a.status)]
            for h, a in sorted(self.hours.items())
        }
        ahead = {str(h): m for h, m in sorted(self.ahead.items())}
        return json.dumps({"watermark_id": self.watermark_id, "hours": hours, **({"ahead": ahead} if ahead else {})})


def _asked(values: Sequence[int]) -> Asked:
    num_rows, max_id, at_us = values[:3]
    num_failed, number, whole, status = values[3:] or (0, 0, 1, 0)
    return Asked(
        num_rows=num_rows, max_id=max_id, at_us=at_us, num_failed=num_failed, number=number, whole=bool(whole),
        status=Status(status),
    )  # fmt: skip
