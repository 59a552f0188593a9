"""How the process gives freed memory back, so that hours of load leave it where the first minutes did."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
"""glibc's malloc.h."""
_NUM_ARENAS = 2


def bound_allocator() -> bool:
    """Let all threads share a few heaps of the C library; False where it is not glibc, which alone has this setting.

    glibc makes a heap for every thread up to eight a core, and memory that one thread frees serves no other: with a
    pool of threads that take batches in turn, each heap grows to what its own worst moment needed.
    To be called before threads are started.
    """
    library = ctypes.CDLL(None)
    try:
        version = library.gnu_get_libc_version
        mallopt = library.mallopt
    except AttributeError:
        return False
    version.restype = ctypes.c_char_p
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    return bool(version()) and mallopt(_M_ARENA_MAX, _NUM_ARENAS) == 1
