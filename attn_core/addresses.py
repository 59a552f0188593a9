"""ZMQ addresses: what can be connected to, told at once and in one line, before a socket fails in a thread."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from attn_core.errors import SettingsError

MAX_IPC_BYTES = 107
"""Longest path of a Unix domain socket on Linux."""
_TCP = re.compile(r"tcp://(?P<host>\[[^\]/]*\]|[^/:\s]*):(?P<port>\d{1,5})")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


def check_connect_address(address: str, *, example: str) -> None:
    """Raise `SettingsError` where no ZMQ socket can connect to `address`: what is wrong, and a form that works."""
    wrong = _why_not(address)
    if wrong is not None:
        raise SettingsError(
            f"{address!r} is no address to connect to: {wrong}. Valid are tcp://HOST:PORT, such as {example}, "
            "tcp://[::1]:9001 for IPv6, and ipc://PATH"
        )


def is_ipv6(address: str) -> bool:
    """Whether the address names an IPv6 host, which a ZMQ socket has to be told."""
    return address.startswith("tcp://[")


def _why_not(address: str) -> str | None:
    if address.startswith("ipc://"):
        path = address.removeprefix("ipc://")
        if not path or len(path.encode()) > MAX_IPC_BYTES:
            return f"a path has 1 to {MAX_IPC_BYTES} bytes"
        return None
    if "://" not in address:
        return "it does not begin with tcp:// or ipc://"
    match = _TCP.fullmatch(address)
    if match is None:
        return "it is not tcp://HOST:PORT"
    host, port = match["host"], int(match["port"])
    if not 0 < port <= 65535:
        return f"port {port} does not lie between 1 and 65535"
    if host == "*" or not host:
        return "a sender needs one host, not every interface"
    if host.startswith("["):
        try:
            IPv6Address(host[1:-1].partition("%")[0])
        except ValueError:
            return f"{host} is no IPv6 address"
        return None
    return None if _NAME.fullmatch(host) else f"{host!r} is no host name or address"
