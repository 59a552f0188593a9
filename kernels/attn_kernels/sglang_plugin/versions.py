"""The SGLang releases that the plugin was tried with, and what each hooked place looked like in them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

KNOWN_VERSIONS = ("0.5.23", "0.5.22")
"""Tried with a real server, newest first (docs/capture.md says how far)."""


def installed() -> str:
    """The version of the SGLang that this process imports."""
    import sglang

    return str(sglang.__version__)


def source_digest(function: Callable[..., Any]) -> str:
    """Twelve hexadecimal digits that change with the source of a function or class."""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]


def has_changed(target: str, function: Callable[..., Any]) -> bool:
    """Whether a hooked place differs from what it was in every release that was tried."""
    return source_digest(function) not in {sources.get(target) for sources in known_sources().values()}


def known_sources() -> dict[str, dict[str, str]]:
    """Release to hooked place to the digest of its source."""
    from attn_kernels.sglang_plugin.known_sources import SOURCES

    return SOURCES
