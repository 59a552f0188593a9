"""The database and the discovery folder: there, whole, writable, with room; recent, and of the model that is served."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

from attn_core.baseline import FILE_NAME as BASELINE
from attn_core.bundle import LATEST, latest_run_id, open_bundle
from attn_core.early_run import asked
from attn_core.errors import BundleError, SchemaMismatch, StoreError
from attn_core.store import open_reader
from attn_sidecar.doctor.findings import Finding, failed, ok, warning
from attn_sidecar.settings import Settings
from attn_sidecar.store.examination import Examination, examine, why_not_writable
from attn_sidecar.store.journal import filesystem_of, why_unsuited

LITTLE_BYTES, TOO_LITTLE_BYTES = 2_000_000_000, 100_000_000
OLD_S = 2 * 3600
CHECK_WITHIN_S = 60.0
_LOCK_WAIT_MS = 3_000
_MAKE_ROOM = "free some space, or bound the store with --retention-hours or --max-db-bytes"


def check_database(path: Path) -> tuple[list[Finding], Examination | None]:
    """Everything about the database, and what was read of it where it could be."""
    findings, seen = [_room(path)], None
    if not path.exists():
        return [*findings, _can_be_made(path)], None
    try:
        seen = examine(path, within_s=CHECK_WITHIN_S)
    except SchemaMismatch as error:
        return [*findings, failed("database.opens", str(error), "see there")], None
    except StoreError as error:
        to_do = "name another with --db, or mend what the message says"
        return [*findings, failed("database.opens", str(error), to_do)], None
    findings.append(ok("database.opens", f"{path}: newest row {seen.newest_id}"))
    if seen.faults is not None:
        to_do = (
            f"stop the sidecar, save what can be saved with sqlite3 {path} .recover | sqlite3 mended.db, and put "
            "mended.db in its place"
        )
        findings.append(failed("database.whole", f"damaged: {seen.faults}", to_do))
    elif not seen.finished:
        to_do = f"run sqlite3 {path} 'PRAGMA quick_check' when there is time"
        findings.append(warning("database.whole", f"not known: the check took over {CHECK_WITHIN_S:.0f} s", to_do))
    else:
        findings.append(ok("database.whole", "every page is in order"))
    findings += [_writable(path), _journal(path)]
    return findings, seen


def _journal(path: Path) -> Finding:
    with closing(open_reader(path)) as connection:
        reason = why_unsuited(connection, path)
    if reason is None:
        return ok("database.journal", f"write-ahead log, on {filesystem_of(path) or 'a file system without a name'}")
    return warning("database.journal", reason, "put the file on a local disk, or name another with --db")


def _can_be_made(path: Path) -> Finding:
    folder = path.parent
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return ok("database.opens", f"{path} does not exist yet; the sidecar makes it")
    return failed(
        "database.opens",
        f"{path} does not exist, and {folder} {'cannot be written' if folder.is_dir() else 'is no folder'}",
        f"make {folder} and let the sidecar's user write there, or name another place with --db",
    )


def _writable(path: Path) -> Finding:
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK | os.X_OK):
        return failed(
            "database.writable",
            f"{path} or its folder may not be written by this user",
            "run the doctor as the sidecar's user; if that is so, change owner or permissions of both",
        )
    reason = why_not_writable(path, wait_ms=_LOCK_WAIT_MS)
    if reason is None:
        return ok("database.writable", "the write lock can be had")
    return failed(
        "database.writable",
        f"no write lock within {_LOCK_WAIT_MS // 1000} s: {reason}",
        "find who holds it (a sqlite3 shell with an open transaction?) and end that",
    )


def _room(path: Path) -> Finding:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        return failed("database.room", f"{path.parent} cannot be looked at: {error}", "name another with --db")
    found = f"{free / 1e9:.1f} GB free beside the database"
    if free < TOO_LITTLE_BYTES:
        return failed("database.room", found, _MAKE_ROOM)
    return warning("database.room", found, _MAKE_ROOM) if free < LITTLE_BYTES else ok("database.room", found)


def check_bundle(settings: Settings, *, now_us: int, model: str | None) -> list[Finding]:
    """The published run, held against the clock and the model that is served (None: not known)."""
    folder = settings.discovery_dir
    if latest_run_id(folder) is None:
        to_do = "run discovery: attn-discover --db DB --output DIR, or dagster dev; check --discovery-dir"
        return [warning("bundle.verifies", f"no run is in {folder}: zones come from the shipped formula", to_do)]
    try:
        bundle = open_bundle(folder / LATEST)
    except BundleError as error:
        to_do = "run discovery again; a sidecar that runs goes on with the run before"
        return [failed("bundle.verifies", str(error), to_do)]
    findings = [ok("bundle.verifies", f"{bundle.run_id}: every file is what was published")]
    age_s = (now_us - int(bundle.manifest.get("window_end_us") or now_us)) / 1e6
    old = f"its window ended {age_s / 3600:.1f} h ago"
    if age_s > OLD_S:
        findings.append(warning("bundle.recent", old, "look at Dagster: does its schedule run, do its checks pass?"))
    else:
        findings.append(ok("bundle.recent", old))
    models = bundle.manifest.get("models") or []
    if model is not None and models and model not in models:
        to_do = "run discovery on this model's fingerprints: clusters of one model say little of another"
        findings.append(warning("bundle.model", f"made of {', '.join(models)}; {model} is served", to_do))
    if settings.online:
        findings += _check_online(folder, has_baseline=BASELINE in bundle.manifest["files"])
    return findings


def _check_online(folder: Path, *, has_baseline: bool) -> list[Finding]:
    findings = []
    if not has_baseline:
        to_do = "run discovery once with this version"
        findings.append(warning("online.baseline", f"the run has no {BASELINE}: --online judges nothing", to_do))
    if not os.access(folder, os.W_OK | os.X_OK):
        to_do = "let the sidecar's user write there: that is where it asks for an early run"
        findings.append(warning("online.can_ask", f"{folder} cannot be written by this user", to_do))
    try:
        request = asked(folder)
    except BundleError as error:
        return [*findings, warning("online.early_run", str(error), "delete the file")]
    if request is not None:
        to_do = "nothing, if Dagster runs: its sensor early_discovery answers within a minute"
        findings.append(warning("online.early_run", f"asked for: {request.evidence}", to_do))
    return findings
