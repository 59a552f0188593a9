"""`attn-discover`, sent a real signal at an exact moment: `stopped_discover.py MOMENT SIGNAL wait|go-on ARGUMENTS...`.

The moment is when a file or folder has been moved to a path that ends like the pattern MOMENT. With `wait` the thread
that moved it then stands still, so that the signal finds the run exactly there; with `go-on` it works on while the
signal is handled.
"""

from __future__ import annotations

import os
import sys
import threading
from fnmatch import fnmatch

from attn_assets.cli import main

SLOW_S = 2.0


def stop_after(move, *, moment: str, number: int, wait: bool):
    """`os.replace` or `os.rename`, followed by the signal where the target is the one meant."""

    def moved(source, target, **options):
        move(source, target, **options)
        if fnmatch(str(target), f"*/{moment}"):
            os.kill(os.getpid(), number)
            # Going on slowly gives a process that does not wait for its thread the time to end too early.
            threading.Event().wait(None if wait else SLOW_S)

    return moved


if __name__ == "__main__":
    _, moment, number, then, *arguments = sys.argv
    for name in ("replace", "rename"):
        setattr(os, name, stop_after(getattr(os, name), moment=moment, number=int(number), wait=then == "wait"))
    sys.exit(main(arguments))
