"""The bearer tokens that open the sidecar: where they come from, how strong they must be, how they are compared."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from pathlib import Path

from attn_core.errors import SettingsError
from attn_sidecar.settings import ENV_PREFIX, Settings

MIN_CHARACTERS, MAX_CHARACTERS = 32, 256
_MIN_DISTINCT = 8
# What RFC 6750 allows in a token and RFC 9110 in a WebSocket subprotocol: no "/", no "=".
_ALLOWED = re.compile(r"[A-Za-z0-9._~+-]+")
_BEARER = b"bearer "
_AS_SUBPROTOCOL = "bearer."
MEND = f"make one with: attn-sidecar keys NEW_DIR, or: openssl rand -hex 32 ({MIN_CHARACTERS} characters at least)"


class Tokens:
    """The tokens that open this sidecar; never printed. Several, so that one can be changed without a gap."""

    def __init__(self, tokens: Sequence[str], *, origin: str) -> None:
        """Raises `SettingsError`, naming `origin` and never the token, where there is none or one is too weak."""
        if not tokens:
            raise SettingsError(f"{origin} holds no token: {MEND}")
        for token in tokens:
            if (flaw := _flaw(token)) is not None:
                raise SettingsError(f"{origin}: {flaw}; {MEND}")
        self._expected = tuple(token.encode("ascii") for token in tokens)

    @classmethod
    def from_file(cls, path: Path) -> Tokens:
        """The tokens of a file, one a line; empty lines and lines that begin with # do not count."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError(f"--token-file {path} cannot be read ({reason}): {MEND}") from error
        tokens = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        return cls(tokens, origin=f"--token-file {path}")

    def __repr__(self) -> str:
        return f"<{len(self._expected)} tokens>"

    def opens(self, given: bytes) -> bool:
        """Whether this is one of them, in a time that says nothing of where it differs."""
        opened = False
        for expected in self._expected:
            # No early end: which of them it was is nobody's business either.
            opened |= hmac.compare_digest(expected, given)
        return opened


def _flaw(token: str) -> str | None:
    if not MIN_CHARACTERS <= len(token) <= MAX_CHARACTERS:
        return f"a token has {MIN_CHARACTERS} to {MAX_CHARACTERS} characters, not {len(token)}"
    if _ALLOWED.fullmatch(token) is None:
        return "a token is made of the letters A-Z and a-z, digits and . _ ~ + -"
    if len(set(token)) < _MIN_DISTINCT:
        return f"a token has at least {_MIN_DISTINCT} different characters: this one could be guessed"
    return None


def tokens_from(settings: Settings) -> Tokens | None:
    """The tokens that these settings name, or None where they name none; raises `SettingsError` as `Tokens` does."""
    if settings.token_file is not None:
        return Tokens.from_file(settings.token_file)
    if settings.token is not None:
        return Tokens([settings.token], origin=f"the variable {ENV_PREFIX}TOKEN")
    return None


def token_from_authorization(value: bytes) -> bytes:
    """What follows ``Bearer`` in an Authorization header; empty where it is another scheme."""
    return value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else b""


def token_from_subprotocols(offered: Sequence[str]) -> bytes:
    """The token that a browser, which can set no header, offers as the subprotocol ``bearer.TOKEN``; else empty."""
    for name in offered:
        if name.startswith(_AS_SUBPROTOCOL):
            return name.removeprefix(_AS_SUBPROTOCOL).encode("latin-1", "replace")
    return b""


def is_token(subprotocol: str) -> bool:
    """Whether this subprotocol carries a token."""
    return subprotocol.startswith(_AS_SUBPROTOCOL)
