"""Connections of the HTTP server with bounds that uvicorn leaves to a proxy: how large a request's head may grow, and
how long it may take to come."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from attn_sidecar.http_door.door import MAX_HEAD_BYTES

HEAD_LIMIT_S = 10.0
MAX_CONNECTIONS = 900
"""Below the 1,024 files that a process may usually hold open."""
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection; one whose head grows or lasts beyond the bounds is closed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.head_since_s = math.inf
        self._num_head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """A new connection: the first head is due from now on."""
        super().connection_made(transport)
        self.head_since_s = self.loop.time()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self.head_since_s = self.loop.time()

    def on_headers_complete(self) -> None:
        """The head is complete: how large it is the door looks at."""
        self.head_since_s, self._num_head_bytes = math.inf, 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes of a head or of a body. The parser would keep any number of a head's."""
        began_before = self.head_since_s != math.inf
        super().data_received(data)
        if self.head_since_s == math.inf or not began_before:
            return
        self._num_head_bytes += len(data)
        if self._num_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()


def close_late(connections: Iterable[Any], *, now_s: float, limit_s: float = HEAD_LIMIT_S) -> int:
    """Close the connections whose head has not come in time; returns how many these were."""
    late = [c for c in connections if isinstance(c, BoundedConnection) and now_s - c.head_since_s > limit_s]
    for connection in late:
        connection.transport.close()
    return len(late)
