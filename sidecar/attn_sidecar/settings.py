"""What the sidecar is told by its operator: flags first, then ``ATTN_SIDECAR_*`` variables, then defaults.

The environment is read here and nowhere else in this process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attn_core.errors import SettingsError
from attn_core.wire import DEFAULT_ADDRESS
from attn_sidecar.online.bounds import Bounds

ENV_PREFIX = "ATTN_SIDECAR_"
LOG_FORMATS = ("text", "json")
MIN_DB_BYTES = 1 << 20
_TCP = re.compile(r"^tcp://(?P<host>\[[0-9a-fA-F:.%]+\]|[^:/\s\[\]]+):(?P<port>\d{1,5}|\*)$")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9a-fA-F:.]+\]?")
_WILDCARDS = ("*", "0.0.0.0", "::")  # noqa: S104 - recognised, not bound
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
    online_novelty: float = Bounds.novelty
    """With `online`: unclaimed share beyond the expected one that asks for an early run."""
    online_drift: float = Bounds.drift
    """With `online`: drift in cluster radii that asks for an early run."""
    online_min_points: int = Bounds.min_points
    """With `online`: points that must have come before anything is judged."""
    online_half_life: int = Bounds.half_life_points
    """With `online`: a point counts half as much once this many newer ones have come."""
    zmq_bind: str | None = DEFAULT_ADDRESS
    """ZMQ address to take fingerprints at; None for no ingest."""
    log_format: str = "text"
    """`text` for people, `json` for machines."""
    token: str | None = field(default=None, repr=False)
    """The bearer token that every endpoint asks for; only ever from the environment, since `ps` shows flags."""
    token_file: Path | None = None
    """File of bearer tokens, one a line; counts before `token`."""
    insecure: bool = False
    """Serve beyond this machine without token and keys."""
    zmq_curve_secret_key: Path | None = None
    """ZMQ certificate with this sidecar's secret key: ingest is encrypted, and asks senders for a known key."""
    zmq_curve_clients: Path | None = None
    """ZMQ certificate, or directory of them, with the public keys of the senders let in."""
    cors_origin: tuple[str, ...] = ()
    """Origins whose pages may read answers."""
    allowed_host: tuple[str, ...] = ()
    """Names in the Host header taken beside localhost and the bound one."""
    root_path: str = ""
    """Path prefix that a proxy passes on with every request, as /attn; "" for none."""
    rate_limit: float | None = None
    """Requests/s of one client, 0 for no bound; None: no bound on this machine, 200 elsewhere."""
    body_time_limit_s: float = 10.0
    """How long a request's body may take to come."""
    answer_time_limit_s: float = 30.0
    """How long an answer may take to begin."""
    privacy: bool = False
    """Keep and show fingerprints only: no text, token ids or positions, whatever senders send."""
    retention_hours: float | None = None
    """Fingerprints stored longer ago are deleted; None keeps them."""
    max_db_bytes: int | None = None
    """Above nine tenths of this the oldest fingerprints are deleted; None for no bound."""

    def __post_init__(self) -> None:
        assert self.online_bounds  # Raises what is wrong with it.
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port {self.port}: a port lies between 0 and 65535 (0 takes any free one)")
        if not self.host:
            raise SettingsError("--host is empty: give an address, such as 127.0.0.1")
        if self.log_format not in LOG_FORMATS:
            raise SettingsError(f"--log-format {self.log_format!r}: valid are {', '.join(LOG_FORMATS)}")
        if self.zmq_bind is not None:
            _check_zmq_address(self.zmq_bind)
        for name in ("rate_limit", "body_time_limit_s", "answer_time_limit_s"):
            value = getattr(self, name)
            least = 0 if name == "rate_limit" else 0.1
            if value is not None and not least <= value <= 1e6:
                flag = name.removesuffix("_s").replace("_", "-")
                raise SettingsError(f"--{flag} {value}: valid is a number from {least} to 1000000")
        if self.retention_hours is not None and not 0 < self.retention_hours <= 1e6:
            raise SettingsError(f"--retention-hours {self.retention_hours}: valid is a number above 0, in hours")
        if self.max_db_bytes is not None and self.max_db_bytes < MIN_DB_BYTES:
            raise SettingsError(f"--max-db-bytes {self.max_db_bytes}: valid is a number of bytes from {MIN_DB_BYTES}")
        if self.db.is_dir():
            raise SettingsError(f"--db {self.db} is a folder: name the database's file, as {self.db}/fingerprints.db")
        if self.discovery_dir.is_file():
            raise SettingsError(f"--discovery-dir {self.discovery_dir} is a file: name the folder of the runs")
        for origin in self.cors_origin:
            _check_origin(origin)
        for host in self.allowed_host:
            _check_host(host)
        if self.root_path and _ROOT_PATH.fullmatch(self.root_path) is None:
            raise SettingsError(
                f"--root-path {self.root_path!r}: valid is a path that begins with / and does not end in one, as /attn"
            )
        if (self.zmq_curve_secret_key is None) != (self.zmq_curve_clients is None):
            raise SettingsError(
                "--zmq-curve-secret-key and --zmq-curve-clients go together: "
                "attn-sidecar keys NEW_DIR makes both, and prints the flags"
            )

    def check_doors(self) -> None:
        """Raises `SettingsError` where the sidecar would serve the network without asking who is there."""
        if self.insecure:
            return
        if not is_loopback(self.host) and self.token is None and self.token_file is None:
            raise SettingsError(
                f"--host {self.host} would let anyone on the network read prompts and write fingerprints. Give "
                f"--token-file FILE (attn-sidecar keys NEW_DIR makes one) or the variable {ENV_PREFIX}TOKEN; or leave "
                "--host away and come through a tunnel: ssh -L 9009:127.0.0.1:9009 HOST; or, on a network you trust "
                "entirely, --insecure"
            )
        if self.zmq_reach == "named":
            raise SettingsError(
                f"--zmq-bind {self.zmq_bind} would let anyone on the network write fingerprints. Give "
                "--zmq-curve-secret-key and --zmq-curve-clients (attn-sidecar keys NEW_DIR makes the keys and prints "
                "both sides' flags); or, on a network you trust entirely, --insecure"
            )

    @property
    def zmq_reach(self) -> str:
        """From where ingest takes connections.

        ``local``: bound to this machine alone (or off); ``guarded``: wider, and CURVE keys are asked for; ``everyone``:
        wider, by --insecure; ``loopback-peers``: bound to every interface without keys, so senders elsewhere are turned
        away; ``named``: bound to one address of the network without keys, where nobody could be let in.
        """
        if self.zmq_bind is None or _zmq_is_local(self.zmq_bind):
            return "local"
        if self.zmq_curve_secret_key is not None:
            return "guarded"
        if self.insecure:
            return "everyone"
        match = _TCP.match(self.zmq_bind)
        return "loopback-peers" if match is not None and match["host"].strip("[]") in _WILDCARDS else "named"

    @classmethod
    def resolve(cls, *, flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
        """Settings from the flags given (None: not given), the environment and the defaults, in that order.

        Raises `SettingsError` naming the value that cannot be used, and the variable it came from.
        """
        chosen: dict[str, Any] = {}
        for each in fields(cls):
            flag = flags.get(each.name)
            variable = ENV_PREFIX + each.name.upper()
            if flag is not None:
                chosen[each.name] = tuple(flag) if isinstance(flag, list) else flag
            elif variable in environ:
                try:
                    chosen[each.name] = _FROM_TEXT.get(each.name, str)(environ[variable])
                except ValueError as error:
                    raise SettingsError(f"{variable}={environ[variable]!r}: {error}") from error
        if str(chosen.get("zmq_bind", "")).lower() in ("off", "none"):
            chosen["zmq_bind"] = None
        return cls(**chosen)

    @property
    def online_bounds(self) -> Bounds:
        """The settings of `--online` together; raises `SettingsError` naming the one that cannot be used."""
        return Bounds(
            novelty=self.online_novelty,
            drift=self.online_drift,
            min_points=self.online_min_points,
            half_life_points=self.online_half_life,
        )

    @property
    def wide_bindings(self) -> list[str]:
        """What serves callers beyond this machine's loopback without asking who they are (by --insecure)."""
        has_token = self.token is not None or self.token_file is not None
        wide = [] if is_loopback(self.host) or has_token else [f"--host {self.host}"]
        if self.zmq_reach in ("everyone", "named"):
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


def _check_host(text: str) -> None:
    if _HOST_NAME.fullmatch(text) is None or text.count(":") == 1:
        raise SettingsError(
            f"--allowed-host {text!r}: valid is a name or an address without scheme, port or path, as explorer.example"
        )


def _check_origin(text: str) -> None:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or text != f"{parts.scheme}://{parts.netloc}".lower():
        raise SettingsError(
            f"--cors-origin {text}: valid is SCHEME://HOST or SCHEME://HOST:PORT in lower case, such as "
            "https://dashboards.example, without a path; name each origin, * is not taken"
        )


def _list_from_text(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


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
    "online_novelty": float,
    "online_drift": float,
    "online_min_points": int,
    "online_half_life": int,
    "token_file": Path,
    "insecure": _bool_from_text,
    "zmq_curve_secret_key": Path,
    "zmq_curve_clients": Path,
    "cors_origin": _list_from_text,
    "allowed_host": _list_from_text,
    "rate_limit": float,
    "body_time_limit_s": float,
    "answer_time_limit_s": float,
    "privacy": _bool_from_text,
    "retention_hours": float,
    "max_db_bytes": int,
}
