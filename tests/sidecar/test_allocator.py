"""The bound on the C library's heaps: set where glibc is, and quietly left where it is not."""

from __future__ import annotations

import ctypes
import platform
from types import SimpleNamespace

import pytest

from attn_sidecar import allocator


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_sets_the_bound_with_glibc() -> None:
    assert allocator.bound_allocator()


def test_leaves_other_c_libraries_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not allocator.bound_allocator()
