"""Which names this sidecar answers to, and pages of which origins may ask it.

Two attacks of a web page on someone whose sidecar listens on loopback: DNS rebinding (the page's own name is made to
lead to 127.0.0.1: seen by the Host header) and cross-site requests (seen by the Origin header).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from attn_sidecar.settings import is_loopback

DEV_ORIGINS = ("http://localhost:5173", "http://127.0.0.1:5173")
"""Where ``npm run dev`` serves the explorer; it passes on the browser's Origin."""
_CACHED = 256


class Names:
    """Verdicts on Host and Origin headers; the newest are remembered, so that asking again costs next to nothing."""

    def __init__(self, *, bound: str, hosts: Collection[str], origins: Collection[str]) -> None:
        loopback = is_loopback(bound)
        self._checks_host = loopback or bool(hosts)
        self._hosts = frozenset(host.lower().strip("[]") for host in (*hosts, bound))
        self._origins = frozenset(origin.encode() for origin in origins)
        self._may_ask = self._origins | (frozenset(o.encode() for o in DEV_ORIGINS) if loopback else frozenset())
        self._is_our_host = lru_cache(maxsize=_CACHED)(self._judge_host)

    def is_ours(self, host: bytes, *, reached: str) -> bool:
        """Whether the Host header names this sidecar; `reached` is the address that the client connected to."""
        return not self._checks_host or self._is_our_host(host, reached)

    def _judge_host(self, host: bytes, reached: str) -> bool:
        try:
            name = (urlsplit(f"//{host.decode('ascii')}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self._hosts or name == reached or is_loopback(name)

    def may_ask(self, origin: bytes, *, host: bytes, forwarded_host: bytes = b"") -> bool:
        """Whether a page of this origin may change something or listen: our own page, or one that was allowed.

        `forwarded_host` is X-Forwarded-Host, by which a proxy says under which name the page was asked for. No page of
        another site can send it: a WebSocket takes no headers, and a request with it is preflighted, without it.
        """
        name = origin.partition(b"://")[2]
        forwarded = forwarded_host.partition(b",")[0].strip()
        return origin in self._may_ask or name == host or (bool(forwarded) and name == forwarded)

    def may_read(self, origin: bytes) -> bool:
        """Whether a page of this other origin may read answers (CORS)."""
        return origin in self._origins
