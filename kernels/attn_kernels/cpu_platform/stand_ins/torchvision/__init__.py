"""A stand-in for torchvision where it cannot be installed: what SGLang imports exists, and raises when it is used."""

from __future__ import annotations

from typing import Any, NoReturn

__version__ = "0.0.0"


class _Absent:
    """A name of torchvision that text serving imports and never calls."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImportError(f"{self._name} needs the real torchvision: install it to serve models that see images")


def absent(name: str) -> Any:
    """A placeholder for `name` that raises ImportError when it is called."""
    if name.rpartition(".")[2].startswith("__"):
        raise AttributeError(name)
    return _Absent(name)


from torchvision import io, ops, transforms  # noqa: E402  (they take `absent` from here)

__all__ = ["absent", "io", "ops", "transforms"]
