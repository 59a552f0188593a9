"""What the doctor says: one line a finding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

OK, WARNING, FAILED = "OK", "WARNING", "FAILED"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """Short and stable, such as ``database.writable``."""
    verdict: str
    """``OK``, ``WARNING`` (it works, and you may not want it so) or ``FAILED``."""
    found: str
    to_do: str | None = None
    """None where nothing is to be done."""


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name=name, verdict=OK, found=found)


def warning(name: str, found: str, to_do: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding(name=name, verdict=WARNING, found=found, to_do=to_do)


def failed(name: str, found: str, to_do: str) -> Finding:
    """It does not work."""
    return Finding(name=name, verdict=FAILED, found=found, to_do=to_do)


def as_text(findings: Sequence[Finding]) -> str:
    """One line a finding, what to do below it, and a line that sums up."""
    width = max((len(each.name) for each in findings), default=0)
    lines = []
    for each in findings:
        lines.append(f"{each.verdict:<8}{each.name:<{width}}  {each.found}")
        if each.to_do:
            lines.append(f"{'':<8}{'':<{width}}  -> {each.to_do}")
    counts = {verdict: sum(each.verdict == verdict for each in findings) for verdict in (OK, WARNING, FAILED)}
    lines.append(f"{counts[OK]} well, {counts[WARNING]} to look at, {counts[FAILED]} failed")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """One object: ``ok`` and the list of findings."""
    return json.dumps({"ok": not any(f.verdict == FAILED for f in findings), "findings": [asdict(f) for f in findings]})
