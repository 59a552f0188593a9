"""Is the write-ahead log in force, and does the file lie where that can be relied on? Looked at when it is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

PART = "journal"
MOUNTS = Path("/proc/self/mounts")
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ncpfs", "fuse.sshfs", "fuse.rclone"})
"""Shared memory between processes, which the log needs, is not shared over these."""
_TO_DO = "put --db on a local disk"


def why_unsuited(connection: sqlite3.Connection, path: Path) -> str | None:
    """Why this open database is slower or less safe than it should be, None where it is not."""
    mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0]).lower()
    if mode != "wal":
        return (
            f"SQLite keeps {path} in journal mode {mode!r} instead of WAL: readers and the writer block one another. "
            f"Some network file systems cannot do better: {_TO_DO}"
        )
    kind = filesystem_of(path)
    if kind in _NETWORK:
        return (
            f"{path} lies on a network file system ({kind}), where two machines that open it damage it, and a lost "
            f"connection may: {_TO_DO}"
        )
    return None


def filesystem_of(path: Path, *, mounts: Path | None = None) -> str | None:
    """The type of the file system that holds this path, as Linux names it; None where it does not say."""
    try:
        lines = (mounts or MOUNTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    whole = str(path.resolve())
    best, kind = "", None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # A space in a path is written as an octal number.
        mounted, of_mount = fields[1].replace("\\040", " "), fields[2]
        is_over = mounted == "/" or whole == mounted or whole.startswith(f"{mounted}/")
        # Of two mounts at one place the later one is seen.
        if is_over and len(mounted) >= len(best):
            best, kind = mounted, of_mount
    return kind
