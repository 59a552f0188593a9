"""CURVE: keys for an encrypted connection to the sidecar, from files in ZMQ's certificate format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.auth.certs import load_certificate

from attn_core.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class CurveKeys:
    """CURVE keys, Z85-encoded: whom to believe, and who this side is."""

    server_public: bytes
    public: bytes
    secret: bytes = field(repr=False)


def curve_keys(*, server_key: Path, client_key: Path | None = None) -> CurveKeys:
    """Keys from files in ZMQ's certificate format; without `client_key` a pair is made for this process.

    Raises `SettingsError` naming the file that holds no such key; what a file holds is never told.
    """
    server_public, _ = _certificate(server_key)
    if client_key is None:
        public, secret = zmq.curve_keypair()
        return CurveKeys(server_public=server_public, public=public, secret=secret)
    public, own_secret = _certificate(client_key)
    if own_secret is None:
        raise _no_secret(client_key)
    return CurveKeys(server_public=server_public, public=public, secret=own_secret)


def check_certificate(path: Path, *, secret: bool) -> None:
    """Raises `SettingsError` where this file holds no public key or, asked for, no secret one."""
    if _certificate(path)[1] is None and secret:
        raise _no_secret(path)


def _no_secret(path: Path) -> SettingsError:
    return SettingsError(f"{path} holds no secret key: give the file that zmq.auth names NAME.key_secret")


def _certificate(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it holds no public key"
        raise SettingsError(f"{path} is not a ZMQ certificate ({reason}): make one with zmq.auth") from error
    for key in (public, secret):
        if key is not None and len(key) != 40:
            raise SettingsError(f"{path} is not a ZMQ certificate: a key has 40 characters (Z85), not {len(key)}")
    return public, secret
