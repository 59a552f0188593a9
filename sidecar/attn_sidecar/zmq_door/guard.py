"""The guard of the ingest socket: answers libzmq's question whether a connection may be made (ZAP, ZeroMQ RFC 27).

Three cases (`Settings.zmq_reach`): with CURVE keys, senders whose key is known; bound to every interface without keys,
senders of this machine alone; else there is no guard, since the address itself lets nobody else in.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import zmq
from zmq.utils import z85

from attn_core.errors import SettingsError
from attn_sidecar.health import HealthBoard
from attn_sidecar.logs import log_event, logger_named
from attn_sidecar.service_thread import ServiceThread
from attn_sidecar.settings import Settings
from attn_sidecar.zmq_door.certificates import ServerKeys, client_keys, server_keys

_LOG = logger_named("zmq_door")
_ADDRESS = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_DOMAIN = b"attn-sidecar"
_HANDSHAKE_MS = 3000
_RE_READ_S = 1.0
_TOLD_AGAIN_S = 60.0
_PEERS_TOLD = 256
Judge = Callable[[str, bytes, Sequence[bytes]], str | None]
"""From peer address, mechanism and credentials to the reason for turning it away, or None."""


class Guard:
    """One thread that answers for one ZMQ context. Made before the guarded socket binds, closed before the context."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        judge: Judge,
        keys: ServerKeys | None,
        health: HealthBoard | None = None,
    ) -> None:
        self._judge = judge
        self._keys = keys
        self.num_refused = 0
        self._told: dict[str, float] = {}
        self._questions = context.socket(zmq.REP)
        self._questions.setsockopt(zmq.LINGER, 0)
        self._questions.bind(_ADDRESS)
        self._bell, self._bell_rope = socket.socketpair()
        self.thread = ServiceThread(
            "attn-zmq-guard", part="ingest", run=self._run, health=health or HealthBoard(), blocks=True
        )
        self.thread.start()

    def stand_before(self, guarded: zmq.Socket[bytes]) -> None:
        """Have this socket's connections judged; before it binds."""
        # Without a domain libzmq lets in whoever brings no credentials, unasked.
        guarded.zap_domain = _DOMAIN
        guarded.handshake_ivl = _HANDSHAKE_MS
        if self._keys is not None:
            guarded.curve_server = True
            guarded.curve_publickey = self._keys.public
            guarded.curve_secretkey = self._keys.secret

    def close(self) -> None:
        """End the thread; idempotent."""
        self.thread.stopping()
        if self.thread.is_alive():
            self._bell_rope.send(b"\0")
            self.thread.join()
        self._questions.close()
        self._bell.close()
        self._bell_rope.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._bell, zmq.POLLIN)
        poller.register(self._questions, zmq.POLLIN)
        while self._bell.fileno() not in (ready := dict(poller.poll())):
            if self._questions in ready:
                with self.thread.turn():
                    self._answer(self._questions.recv_multipart())

    def _answer(self, question: Sequence[bytes]) -> None:
        _, request_id, _, address, _, mechanism, *credentials = question
        peer = address.decode("latin-1")
        try:
            reason = self._judge(peer, mechanism, credentials)
        except Exception as error:
            self.thread.survived(error, doing="a sender was turned away")
            reason = "it could not be judged: the log says why"
        if reason is not None:
            self.num_refused += 1
            self._tell(peer, reason)
        # Not 400, after which libzmq's sender never tries again: a key that is added later would not help it. With 300
        # it hears nothing, is cut off by the handshake's limit, and comes again.
        status, text = (b"200", b"OK") if reason is None else (b"300", b"not now")
        self._questions.send_multipart([_VERSION, request_id, status, text, b"", b""])

    def _tell(self, peer: str, reason: str) -> None:
        """Once a minute a peer: a refused sender tries again ten times a second."""
        now_s = time.monotonic()
        if now_s - self._told.get(peer, -_TOLD_AGAIN_S) < _TOLD_AGAIN_S:
            return
        self._told.pop(peer, None)
        self._told[peer] = now_s
        if len(self._told) > _PEERS_TOLD:
            self._told.pop(next(iter(self._told)))
        log_event(_LOG, logging.WARNING, "ingest.sender_turned_away", peer=peer, reason=reason)


def guard_for(
    settings: Settings, context: zmq.Context[zmq.Socket[bytes]], *, health: HealthBoard | None = None
) -> Guard | None:
    """The guard that these settings ask for, or None; raises `SettingsError` where keys cannot be read."""
    if settings.zmq_curve_secret_key is not None and settings.zmq_curve_clients is not None:
        keys = server_keys(settings.zmq_curve_secret_key)
        return Guard(context, judge=KnownKeys(settings.zmq_curve_clients), keys=keys, health=health)
    if settings.zmq_reach == "loopback-peers":
        return Guard(context, judge=only_this_machine, keys=None, health=health)
    return None


def only_this_machine(peer: str, mechanism: bytes, _: Sequence[bytes]) -> str | None:
    """Lets in who comes from a loopback address."""
    try:
        ip = ip_address(peer)
    except ValueError:
        return "its address cannot be told"
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback and mechanism == b"NULL":
        return None
    return "without CURVE keys only senders of this machine are taken: attn-sidecar keys NEW_DIR, or --insecure"


class KnownKeys:
    """Lets in whose public key lies in `path`; read again at most once a second: keys can be added and removed."""

    def __init__(self, path: Path) -> None:
        """Raises `SettingsError` where there is no key."""
        self._path = path
        self._keys = client_keys(path)
        self._read_at_s = time.monotonic()

    def __call__(self, peer: str, mechanism: bytes, credentials: Sequence[bytes]) -> str | None:
        """The reason for turning this sender away, or None."""
        if mechanism != b"CURVE" or len(credentials) != 1:
            return "it brings no CURVE key"
        if time.monotonic() - self._read_at_s > _RE_READ_S:
            self._read_again()
        if credentials[0] in self._keys:
            return None
        return f"its public key {z85.encode(credentials[0]).decode()} is not among --zmq-curve-clients"

    def _read_again(self) -> None:
        self._read_at_s = time.monotonic()
        try:
            self._keys = client_keys(self._path)
        except SettingsError as error:
            # Nobody new is let in for a file that is half written; who was known stays known.
            log_event(_LOG, logging.ERROR, "ingest.keys_unreadable", reason=error)
