"""ZMQ certificates, the format that the model server's flags take too: read, and made by `attn-sidecar keys`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from zmq.auth.certs import load_certificate
from zmq.utils import z85

from attn_core.errors import SettingsError

_MAKE = "attn-sidecar keys NEW_DIR makes them"


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """The sidecar's own CURVE keys, Z85-encoded."""

    public: bytes
    secret: bytes = field(repr=False)


def server_keys(path: Path) -> ServerKeys:
    """The keys of a certificate with a secret one; raises `SettingsError` naming the file, never what it holds."""
    public, secret = _certificate(path, flag="--zmq-curve-secret-key")
    if secret is None:
        raise SettingsError(f"--zmq-curve-secret-key {path} holds no secret key: give the file NAME.key_secret")
    return ServerKeys(public=public, secret=secret)


def client_keys(path: Path) -> frozenset[bytes]:
    """The public keys (32 bytes each) of one certificate, or of every ``*.key`` in a directory.

    Raises `SettingsError` where a file is no certificate or there is none.
    """
    flag = "--zmq-curve-clients"
    files = sorted(path.glob("*.key")) if path.is_dir() else [path]
    keys = frozenset(z85.decode(_certificate(file, flag=flag)[0]) for file in files)
    if not keys:
        raise SettingsError(f"{flag} {path} holds no file NAME.key, so nobody could send: {_MAKE}")
    return keys


def _certificate(path: Path, *, flag: str) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(path)
        for key in (public, secret):
            if key is not None and len(z85.decode(key)) != 32:
                raise ValueError(key)
    except (OSError, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it holds no CURVE key"
        # Not "from error": what was read might be a secret in the wrong place.
        raise SettingsError(f"{flag} {path} is not a ZMQ certificate ({reason}): {_MAKE}") from None
    return public, secret
