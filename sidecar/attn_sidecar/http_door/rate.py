"""How often one client may ask: a token bucket an address, in a table that cannot grow without bound."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

DEFAULT_WIDE_PER_S = 200.0
"""Requests a second of a client elsewhere, unless told otherwise; clients on this machine are not counted then."""
_BURST_S = 2.0
_MAX_CLIENTS = 10_000


class RateLimit:
    """Admits `per_s` requests a second of each client on average, twice that at once."""

    def __init__(self, per_s: float, *, spares_loopback: bool, max_clients: int = _MAX_CLIENTS) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s * _BURST_S)
        self._spares_loopback = spares_loopback
        self._max_clients = max_clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, address: str, *, now_s: float) -> int:
        """0 where this request is admitted (and counted), else whole seconds until the next one would be."""
        client = _client(address)
        if client is None and self._spares_loopback:
            return 0
        key = client or "loopback"
        left, at_s = self._buckets.pop(key, (self._most, now_s))
        left = min(self._most, left + (now_s - at_s) * self._per_s)
        admitted = left >= 1.0
        self._buckets[key] = (left - 1.0 if admitted else left, now_s)
        if len(self._buckets) > self._max_clients:
            # The one that has been silent longest; it comes back with a full bucket, at worst.
            self._buckets.popitem(last=False)
        return 0 if admitted else max(1, math.ceil((1.0 - left) / self._per_s))


@lru_cache(maxsize=4096)
def _client(address: str) -> str | None:
    """Whom an address stands for: None for this machine, an IPv6 neighbourhood (/64) for each address in it."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback:
        return None
    return str(ip) if ip.version == 4 else str(IPv6Address(int(ip) >> 64 << 64))
