"""The connection to the sidecar: one ZMQ socket, and what its monitor tells of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import zmq
from zmq.utils.monitor import parse_monitor_message

from attn_core.addresses import is_ipv6
from attn_core.head_projection import MAX_BYTES
from attn_core.wire import decode_projection
from attn_kernels.curve import CurveKeys
from attn_kernels.outbox import Limits, Outbox
from attn_kernels.spool_segment import Parcel

logger = logging.getLogger(__name__)

_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Link:
    """Sends an outbox's batches in order and takes their acknowledgements in. Used by one thread.

    `take_matrix` gets the bytes of a head projection that the sidecar sends beside them; it must not raise.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        address: str,
        limits: Limits,
        curve: CurveKeys | None,
        take_matrix: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._take_matrix = take_matrix
        self._context = context
        self._address = address
        self._limits = limits
        self._curve = curve
        self._held: Parcel | None = None
        self._patience_s = limits.ack_timeout_s
        self._failed_handshakes = 0
        self._heard_at = self._waiting_since = self._lost_at = time.monotonic()
        self.connected = False
        self._open()

    @property
    def silent_s(self) -> float:
        """Seconds since the sidecar last acknowledged something, or since the start."""
        return time.monotonic() - self._heard_at

    @property
    def absent_s(self) -> float:
        """Seconds for which there has been no connection."""
        return 0.0 if self.connected else time.monotonic() - self._lost_at

    def _open(self) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        # Messages go to a finished connection only: what a lost one held is in the outbox and is sent again.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        # Answers are tiny but for a matrix: what is larger than any cuts the connection unread.
        self._socket.setsockopt(zmq.MAXMSGSIZE, 2 * MAX_BYTES)
        self._socket.setsockopt(zmq.IPV6, int(is_ipv6(self._address)))
        self._socket.setsockopt(zmq.RECONNECT_IVL, self._limits.reconnect_interval_ms)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, self._limits.reconnect_interval_max_ms)
        if self._curve is not None:
            self._socket.curve_serverkey = self._curve.server_public
            self._socket.curve_publickey = self._curve.public
            self._socket.curve_secretkey = self._curve.secret
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _HANDSHAKE_FAILED
        )
        self._socket.connect(self._address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def exchange(self, outbox: Outbox, *, wait_s: float) -> None:
        """Send what can be sent, then take in what arrives within `wait_s`."""
        self._send(outbox)
        for socket, _ in self._poller.poll(int(wait_s * 1000)):
            if socket is self._monitor:
                self._note_connection(outbox)
            else:
                self._receive(outbox)
        if self.connected and outbox.awaits_answer and time.monotonic() - self._waiting_since > self._patience_s:
            # A connection of its own, since what the old one still holds would only be joined by more of the same.
            logger.warning(
                "Attention publisher: no acknowledgement from %s for %.0f s; sending again on a new connection.",
                self._address,
                self._patience_s,
            )
            self._patience_s = min(2 * self._patience_s, self._limits.ack_timeout_max_s)
            self.close()
            self.connected, self._lost_at = False, time.monotonic()
            self._open()
            self._rewind(outbox)

    def _send(self, outbox: Outbox) -> None:
        while self.connected:
            if not outbox.awaits_answer:
                self._waiting_since = time.monotonic()
            if self._held is None:
                self._held = outbox.next_unsent()
            if self._held is None:
                return
            try:
                self._socket.send_multipart(self._held.frames(), flags=zmq.NOBLOCK)
            except zmq.Again:
                return
            self._held = None

    def _receive(self, outbox: Outbox) -> None:
        answered = False
        while self._socket.poll(0, zmq.POLLIN):
            frames = self._socket.recv_multipart()
            if (matrix := decode_projection(frames)) is not None:
                self._take_matrix(matrix)
            else:
                outbox.settle(frames)
                answered = True
        if answered:
            self._heard_at = self._waiting_since = time.monotonic()
            self._patience_s = self._limits.ack_timeout_s

    def _note_connection(self, outbox: Outbox) -> None:
        while self._monitor.poll(0, zmq.POLLIN):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                logger.info("Attention publisher: connected to %s.", self._address)
                self.connected, self._failed_handshakes = True, 0
                self._rewind(outbox)
            elif event & _HANDSHAKE_FAILED:
                self._note_failed_handshake()
            elif self.connected:
                logger.warning("Attention publisher: %s is gone; fingerprints wait for it.", self._address)
                self.connected, self._lost_at = False, time.monotonic()

    def _note_failed_handshake(self) -> None:
        self._failed_handshakes += 1
        if self._failed_handshakes & (self._failed_handshakes - 1) == 0:  # the first, second, fourth ...
            advice = (
                "is --attention-tokens-curve-server-key the public key of that sidecar, and does it know this server's?"
                if self._curve is not None
                else "it may ask for CURVE keys: give --attention-tokens-curve-server-key"
            )
            logger.error(
                "Attention publisher: %s answers, but the handshake fails (%d times so far): %s",
                self._address,
                self._failed_handshakes,
                advice,
            )

    def _rewind(self, outbox: Outbox) -> None:
        outbox.rewind()
        self._held = None
        self._waiting_since = time.monotonic()

    def close(self) -> None:
        """Close the socket; what it still held is in the outbox."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
