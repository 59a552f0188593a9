"""Connections whose head is too large or too slow, at the level of uvicorn's protocol."""

import asyncio

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from attn_sidecar.http_door.connections import HEAD_LIMIT_S, BoundedConnection, close_late
from attn_sidecar.http_door.door import MAX_HEAD_BYTES


class WiredTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__({"peername": ("192.0.2.7", 5), "sockname": ("192.0.2.1", 9009)})
        self.written = b""
        self.closed = False

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def connected():
    """A connection that was just made, its loop and its transport."""
    loop = asyncio.new_event_loop()
    connection = BoundedConnection(Config(answer, log_config=None), ServerState(), {}, loop)
    transport = WiredTransport()
    connection.connection_made(transport)
    yield connection, loop, transport
    connection.connection_lost(None)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


HEAD = b"GET /stats HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("begun", [b"", b"GE", HEAD])
def test_a_head_that_does_not_come_is_not_waited_for(connected, begun):
    connection, loop, transport = connected
    if begun:
        connection.data_received(begun)
    now_s = loop.time()
    assert close_late([connection], now_s=now_s + HEAD_LIMIT_S - 1) == 0
    assert not transport.closed
    assert close_late([connection], now_s=now_s + HEAD_LIMIT_S + 1) == 1
    assert transport.closed


def test_a_connection_between_requests_is_left_to_the_servers_own_limit(connected):
    connection, loop, transport = connected
    connection.data_received(HEAD + b"\r\n")
    loop.run_until_complete(asyncio.sleep(0))
    assert transport.written.startswith(b"HTTP/1.1 204")
    assert close_late([connection, object()], now_s=loop.time() + 1000) == 0


def test_a_head_that_grows_without_end_is_cut_off(connected):
    connection, _, transport = connected
    connection.data_received(HEAD + b"X: ")
    received = 0
    while not transport.closed:
        assert received <= MAX_HEAD_BYTES, "kept beyond the bound"
        connection.data_received(b"y" * 1000)
        received += 1000
    assert transport.written.startswith(b"HTTP/1.1 431")
    assert received > MAX_HEAD_BYTES // 2


def test_a_large_body_is_no_head(connected):
    connection, loop, transport = connected
    connection.data_received(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(10):
        connection.data_received(b" " * 10_000)
    loop.run_until_complete(asyncio.sleep(0))
    assert transport.written.startswith(b"HTTP/1.1 204")
    assert not transport.closed
