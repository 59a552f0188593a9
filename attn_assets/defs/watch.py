"""Which hours the sensor asks for: pure, so that it can be tried without Dagster or a clock."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attn_core.store import HOUR_US


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When a request is worth it."""

    min_new_rows: int
    """New rows that a running hour needs; an hour that has ended needs one."""
    debounce_s: int
    """Seconds between two requests of one hour."""
    first_hour_us: int
    """Hours before this have no partition."""
    max_requests: int = 24
    """Requests of one look: what is more waits for the next, oldest hours first."""
    superseded_us: int = 0
    """Hours that end before this are in a newer window that is published: their rows are taken in, no map is made."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The last request of an hour: rows above the watermark that it covered, highest id among them, and when."""

    num_rows: int
    max_id: int
    at_us: int


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Every row up to `watermark_id` was requested; of the newer ones, those that `hours` says."""

    watermark_id: int = 0
    hours: Mapping[int, Asked] = field(default_factory=dict)
    """By hour start, UTC microseconds."""
    ahead: Mapping[int, int] = field(default_factory=dict)
    """Hours that had not begun when rows of them were seen, to the highest id: asked for once they have."""

    @classmethod
    def from_json(cls, text: str | None) -> Cursor:
        """The cursor that `to_json` wrote; the beginning for None."""
        if not text:
            return cls()
        raw = json.loads(text)
        hours = {int(h): Asked(num_rows=r, max_id=m, at_us=a) for h, (r, m, a) in raw["hours"].items()}
        ahead = {int(h): int(m) for h, m in raw.get("ahead", {}).items()}
        return cls(watermark_id=raw["watermark_id"], hours=hours, ahead=ahead)

    def to_json(self) -> str:
        """Small JSON: the watermark, and three numbers for each hour asked for lately."""
        hours = {str(h): [one.num_rows, one.max_id, one.at_us] for h, one in sorted(self.hours.items())}
        ahead = {str(h): m for h, m in sorted(self.ahead.items())}
        return json.dumps({"watermark_id": self.watermark_id, "hours": hours, **({"ahead": ahead} if ahead else {})})


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to ask for, why nothing where nothing, and the cursor of the next look."""

    requests: tuple[tuple[int, int, int], ...]
    """(hour start in UTC us, new rows, highest id), oldest hour first: the whole graph of that hour."""
    late: tuple[tuple[int, int, int], ...]
    """The same of hours that a newer window holds: their rows alone."""
    evidence: str
    cursor: Cursor


def decide(hours: Sequence[tuple[int, int, int]], *, cursor: Cursor, now_us: int, rules: Rules) -> Decision:
    """From (hour start, rows above the watermark, highest id) of each hour with such rows."""
    requests: list[tuple[int, int, int]] = []
    late: list[tuple[int, int, int]] = []
    waiting, asked, ahead = [], dict(cursor.hours), dict(cursor.ahead)
    # Rows dated in the future have no partition yet; those of an hour that has begun meanwhile have.
    seen = {hour_us: (num_rows, max_id) for hour_us, num_rows, max_id in hours}
    for hour_us in [h for h in ahead if h <= now_us]:
        num_rows, max_id = seen.get(hour_us, (0, 0))
        seen[hour_us] = (num_rows + 1, max(max_id, ahead[hour_us]))
        if len(requests) < rules.max_requests:
            requests.append((hour_us, num_rows + 1, seen[hour_us][1]))
            asked[hour_us] = Asked(num_rows=num_rows, max_id=seen[hour_us][1], at_us=now_us)
            del ahead[hour_us]
    for hour_us, num_rows, max_id in hours:
        last = asked.get(hour_us)
        new_rows = num_rows if last is None else num_rows - last.num_rows
        if hour_us > now_us:
            ahead[hour_us] = max(max_id, ahead.get(hour_us, 0))
        elif hour_us < rules.first_hour_us:
            asked[hour_us] = Asked(num_rows=num_rows, max_id=max_id, at_us=now_us)
        elif new_rows <= 0:
            continue
        elif last is not None and now_us - last.at_us < rules.debounce_s * 1_000_000:
            waiting.append(f"{new_rows} rows, asked for {(now_us - last.at_us) // 1_000_000} s ago")
        elif new_rows < rules.min_new_rows and now_us < hour_us + HOUR_US:
            waiting.append(f"{new_rows} rows of the {rules.min_new_rows} that a running hour needs")
        elif len(requests) + len(late) >= rules.max_requests:
            waiting.append(f"{new_rows} rows of another hour: {rules.max_requests} are asked for at a time")
        else:
            wanted = late if hour_us + HOUR_US < rules.superseded_us else requests
            wanted.append((hour_us, new_rows, max_id))
            asked[hour_us] = Asked(num_rows=num_rows, max_id=max_id, at_us=now_us)
    if not waiting:
        # All is asked for: the watermark moves up, and only the instants of the requests still matter.
        watermark = max([cursor.watermark_id, *(max_id for _, _, max_id in hours)])
        recent = now_us - rules.debounce_s * 1_000_000
        asked = {
            h: Asked(num_rows=0, max_id=one.max_id, at_us=one.at_us) for h, one in asked.items() if one.at_us > recent
        }
        next_cursor = Cursor(watermark_id=watermark, hours=asked, ahead=ahead)
    else:
        next_cursor = Cursor(watermark_id=cursor.watermark_id, hours=asked, ahead=ahead)
    evidence = f"no new fingerprints after id {next_cursor.watermark_id}"
    if ahead:
        evidence += f"; rows of {len(ahead)} hours that have not begun: a sender's clock runs ahead"
    if waiting:
        evidence = "waiting: " + "; ".join(waiting)
    return Decision(requests=tuple(requests), late=tuple(late), evidence=evidence, cursor=next_cursor)
