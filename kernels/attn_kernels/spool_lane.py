"""Where a spool lies: a lane, one private directory a process, under a root that several servers may be given.

A process holds its lane by an advisory lock on the directory itself, which the kernel lets go when the process ends,
however it ends. A lane that nobody holds is what a former process left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEGMENT_SUFFIX = ".segment"
_LANES = 64


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A directory that this process alone writes in."""

    path: Path
    number: int
    lock: int
    """The open directory."""

    def segments(self) -> list[Path]:
        """Its files, oldest first."""
        return sorted(self.path.glob(f"*{SEGMENT_SUFFIX}"))

    def release(self) -> None:
        """Let others have it; an empty one is removed."""
        with contextlib.suppress(OSError):
            self.path.rmdir()
        os.close(self.lock)


def take_lane(root: Path) -> Lane:
    """The first lane under `root` that no other process holds, made where there is none.

    Raises OSError where `root` cannot be used, PermissionError where a lane is another user's.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in range(_LANES):
        if (lane := _try_lane(root, number)) is not None:
            return lane
    raise OSError(f"all {_LANES} lanes under {root} are held by other processes")


def abandoned_lanes(root: Path, *, but: Lane) -> Iterator[Lane]:
    """The other lanes that nobody holds, each held while it is looked at."""
    for number in range(_LANES):
        if number != but.number and (root / f"lane-{number}").is_dir() and (lane := _try_lane(root, number)):
            try:
                yield lane
            finally:
                lane.release()


def _try_lane(root: Path, number: int) -> Lane | None:
    path = root / f"lane-{number}"
    while True:
        path.mkdir(mode=0o700, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its holder has just removed it
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid():
                raise PermissionError(f"{path} belongs to another user: give a directory of your own")
            if stat.S_IMODE(found.st_mode) != 0o700:
                os.fchmod(descriptor, 0o700)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still_at(path, found):
                lane, descriptor = Lane(path=path, number=number, lock=descriptor), -1
                return lane
        except BlockingIOError:
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _is_still_at(path: Path, found: os.stat_result) -> bool:
    """Whether the directory that was locked is the one that others will find: its holder may have removed it."""
    with contextlib.suppress(FileNotFoundError):
        now = path.stat(follow_symlinks=False)
        return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)
    return False
