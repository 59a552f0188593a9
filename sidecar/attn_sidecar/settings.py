"""What the sidecar is told by its operator: flags first, then ``ATTN_SIDECAR_*`` variables, then defaults.

The environment is read here and nowhere else in this process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from attn_core.errors import SettingsError
from attn_core.wire import DEFAULT_ADDRESS

ENV_PREFIX = "ATTN_SIDECAR_"
LOG_FORMATS = ("text", "json")
_TCP = re.compile(r"^tcp://(?P<host>\[[0-9a-fA-F:.%]+\]|[^:/\s\[\]]+):(?P<port>\d{1,5}|\*)$")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, typed and checked. Build with `Settings.resolve`, or directly in tests."""

    port: int = 9000
    """HTTP port; 0 takes any free one."""
    host: str = "127.0.0.1"
    """HTTP address to listen on."""
    db: Path = Path("fingerprints.db")
    """SQLite database; made if it does not exist."""
    discovery_dir: Path = Path("discovery_outputs")
    """Where discovery publishes its bundles and the symlink `latest`."""
    online: bool = False
    """Follow novelty and drift between discovery runs."""
    zmq_bind: str | None = DEFAULT_ADDRESS
    """ZMQ address to take fingerprints at; None for no ingest."""
    log_format: str = "text"
    """`text` for people, `json` for machines."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port {self.port}: a port lies between 0 and 65535 (0 takes any free one)")
        if not self.host:
            raise SettingsError("--host is empty: give an address, such as 127.0.0.1")
        if self.log_format not in LOG_FORMATS:
            raise SettingsError(f"--log-format {self.log_format!r}: valid are {', '.join(LOG_FORMATS)}")
        if self.zmq_bind is not None:
            _check_zmq_address(self.zmq_bind)

    @classmethod
    def resolve(cls, *, flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
        """Settings from the flags given (None: not given), the environment and the defaults, in that order.

        Raises `SettingsError` naming the value that cannot be used, and the variable it came from.
        """
        chosen: dict[str, Any] = {}
        for field in fields(cls):
            flag = flags.get(field.name)
            variable = ENV_PREFIX + field.name.upper()
            if flag is not None:
                chosen[field.name] = flag
            elif variable in environ:
                try:
                    chosen[field.name] = _FROM_TEXT.get(field.name, str)(environ[variable])
                except ValueError as error:
                    raise SettingsError(f"{variable}={environ[variable]!r}: {error}") from error
        if str(chosen.get("zmq_bind", "")).lower() in ("off", "none"):
            chosen["zmq_bind"] = None
        return cls(**chosen)

    @property
    def wide_bindings(self) -> list[str]:
        """What is bound beyond this machine's loopback: nothing here asks callers who they are."""
        wide = [] if is_loopback(self.host) else [f"--host {self.host}"]
        if self.zmq_bind is not None and not _zmq_is_local(self.zmq_bind):
            wide.append(f"--zmq-bind {self.zmq_bind}")
        return wide


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, IPv6 with or without brackets) is this machine alone."""
    bare = host.strip("[]")
    if bare == "localhost":
        return True
    try:
        return ip_address(bare).is_loopback
    except ValueError:
        return False


def _zmq_is_local(address: str) -> bool:
    match = _TCP.match(address)
    return match is None or is_loopback(match["host"])


def _check_zmq_address(address: str) -> None:
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return
    match = _TCP.match(address)
    if match is None or (match["port"] != "*" and not 0 < int(match["port"]) <= 65535):
        raise SettingsError(
            f"--zmq-bind {address!r} is not an address to bind: valid are tcp://HOST:PORT, such as {DEFAULT_ADDRESS}, "
            "tcp://*:9001 for every interface, ipc://PATH, or off"
        )


def _bool_from_text(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered not in _TRUE + _FALSE:
        raise ValueError(f"valid are {', '.join(_TRUE)} and {', '.join(_FALSE[:-1])}")
    return lowered in _TRUE


def _port_from_text(text: str) -> int:
    if not text.strip().isdigit():
        raise ValueError("a port is a whole number")
    return int(text)


_FROM_TEXT: Mapping[str, Callable[[str], object]] = {
    "port": _port_from_text,
    "db": Path,
    "discovery_dir": Path,
    "online": _bool_from_text,
}
