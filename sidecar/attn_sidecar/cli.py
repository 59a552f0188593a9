"""`attn-sidecar`: the command."""

from __future__ import annotations

import argparse
import asyncio
import errno
import faulthandler
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from threadpoolctl import threadpool_limits

from attn_core.errors import AttnError, SettingsError
from attn_sidecar import __version__
from attn_sidecar.allocator import bound_allocator
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.doctor import command as doctor_command
from attn_sidecar.http_door.connections import MAX_CONNECTIONS, BoundedConnection, close_late
from attn_sidecar.http_door.token import tokens_from
from attn_sidecar.ingest import AddressTaken
from attn_sidecar.logs import configure_logging, log_event, logger_named
from attn_sidecar.settings import ENV_PREFIX, LOG_FORMATS, Settings
from attn_sidecar.zmq_door import keys_command

_LOG = logger_named("cli")
_COMMANDS = {"doctor": doctor_command.main, "keys": keys_command.main}
"""Words that may stand in the place of flags, and what they run."""
_BACKLOG = 2048
_GRACE_S = 1
_STUCK_S = 15.0
"""A stop takes under 5 s; one that takes this long would never end."""
_SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter from one that waits for it. At Python's 5 ms an answer waits for ingest's
threads, and the writing thread for the others between two statements."""
_MAX_HEARD_BYTES = 4096
"""Of one message of a WebSocket's client: nothing that it says is needed."""
_TICKS_A_SECOND = 10
_DESCRIPTION = """\
Keeps what a model server attends to: takes fingerprints in over ZMQ, stores them in SQLite, classifies them on
arrival, and answers over HTTP (the explorer, /classify, /stats, a live WebSocket at /events)."""
_EPILOG = f"""\
examples:
  attn-sidecar                                    HTTP on 127.0.0.1:9000, fingerprints at tcp://127.0.0.1:9001
  attn-sidecar --port 9009 --db fingerprints.db --discovery-dir ./discovery_outputs --online
  attn-sidecar doctor                             what keeps it from doing its work, and what to do
  attn-sidecar keys ~/attn-keys                   make a token and CURVE keys, print how to serve a network with them
  curl localhost:9009/health                      is it well, and if not, why
  curl localhost:9009/stats                       what it has taken in

what it stands between:
  the model server publishes to --zmq-bind and keeps what is not acknowledged, so a restart here loses nothing
  the discovery job reads --db and publishes to --discovery-dir, whose `latest` is served without a restart

who may come in:
  this machine alone, unless --host or --zmq-bind say otherwise; then HTTP asks for a bearer token and ZMQ for CURVE
  keys. The token stands in --token-file, or in the variable {ENV_PREFIX}TOKEN; it is no flag, since everyone on the
  machine sees the flags of a process. docs/security.md has each door.

Each flag is also a variable: --discovery-dir is {ENV_PREFIX}DISCOVERY_DIR. A flag wins. What may be repeated is parted
by commas there.
Stop with Ctrl+C or SIGTERM: what has arrived is committed first. A second Ctrl+C does not wait for that.
Exit status: 0 stopped, 1 cannot start or was not let finish, 2 wrong use."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments. Defaults live in `Settings`, so that the environment can come between."""
    at = Settings()
    made = argparse.ArgumentParser(
        prog="attn-sidecar",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    where = made.add_argument_group("where it listens and what it works on")
    where.add_argument("--port", type=int, metavar="N", help=f"HTTP port (default: {at.port}; 0 takes a free one)")
    where.add_argument(
        "--host",
        metavar="ADDR",
        help=f"HTTP address (default: {at.host}, this machine alone; any other needs a token)",
    )
    where.add_argument(
        "--db", type=Path, metavar="PATH", help=f"SQLite database for fingerprint storage (default: {at.db})"
    )
    where.add_argument(
        "--discovery-dir",
        type=Path,
        metavar="PATH",
        help=f"directory containing discovery artifacts and the symlink latest (default: ./{at.discovery_dir})",
    )
    where.add_argument(
        "--zmq-bind",
        metavar="ADDR",
        help=f"ZMQ bind address for streaming, e.g. tcp://*:9001, or off (default: {at.zmq_bind}); senders on other "
        "machines need CURVE keys",
    )
    keeping = made.add_argument_group("how long it keeps what it stores")
    keeping.add_argument(
        "--retention-hours",
        type=float,
        metavar="N",
        help="delete fingerprints and requests stored more than N hours ago (default: keep them)",
    )
    keeping.add_argument(
        "--max-db-bytes",
        type=int,
        metavar="N",
        help="delete the oldest fingerprints when the database fills nine tenths of N bytes (default: no bound)",
    )
    _add_online(made)
    _add_doors(made)
    made.add_argument_group("logs").add_argument(
        "--log-format", choices=LOG_FORMATS, help=f"log lines on standard error (default: {at.log_format})"
    )
    made.add_argument("--version", action="version", version=f"attn-sidecar {__version__}")
    return made


def _add_online(made: argparse.ArgumentParser) -> None:
    at = Settings()
    online = made.add_argument_group("between discovery runs")
    online.add_argument(
        "--online",
        action=argparse.BooleanOptionalAction,
        help="follow novelty and drift, shown in /stats and /metrics, and ask Dagster for an early run past a bound; "
        "changes no id and no answer (default: off)",
    )
    for flag, kind, what in (
        ("novelty", float, "share of points in no cluster, beyond the expected one, that asks for an early run"),
        ("drift", float, "movement of the clusters' points, in cluster radii, that asks for an early run"),
        ("min-points", int, "points before anything is judged"),
        ("half-life", int, "points after which an older one counts half"),
    ):
        default = getattr(at, f"online_{flag.replace('-', '_')}")
        online.add_argument(f"--online-{flag}", type=kind, metavar="N", help=f"{what} (default: {default})")


def _add_doors(made: argparse.ArgumentParser) -> None:
    at = Settings()
    doors = made.add_argument_group("doors")
    doors.add_argument(
        "--token-file",
        type=Path,
        metavar="PATH",
        help="file with the bearer token that HTTP and /events ask for; several lines, several tokens",
    )
    doors.add_argument(
        "--zmq-curve-secret-key", type=Path, metavar="FILE", help="ZMQ certificate with this sidecar's secret key"
    )
    doors.add_argument(
        "--zmq-curve-clients",
        type=Path,
        metavar="PATH",
        help="ZMQ certificate, or a directory of them, of the model servers let in",
    )
    doors.add_argument(
        "--insecure",
        action=argparse.BooleanOptionalAction,
        help="serve a network without token and keys: anyone who reaches it reads prompts and writes fingerprints",
    )
    doors.add_argument(
        "--cors-origin",
        action="append",
        metavar="ORIGIN",
        help="a web page's origin that may read answers, e.g. https://dashboards.example; may be repeated "
        "(default: none but the explorer)",
    )
    doors.add_argument(
        "--allowed-host",
        action="append",
        metavar="NAME",
        help="a name that clients may use for this sidecar beside localhost; may be repeated",
    )
    doors.add_argument(
        "--root-path",
        metavar="PATH",
        help="path prefix that a reverse proxy passes on, as /attn; one that it takes off needs nothing",
    )
    doors.add_argument(
        "--rate-limit",
        type=float,
        metavar="N",
        help="requests/s of one client address, 0 for no bound (default: none on this machine, 200 elsewhere)",
    )
    for name, what in (("body", "a request's body to come"), ("answer", "an answer to begin")):
        default = getattr(at, f"{name}_time_limit_s")
        doors.add_argument(
            f"--{name}-time-limit",
            dest=f"{name}_time_limit_s",
            type=float,
            metavar="S",
            help=f"seconds for {what} (default: {default:g})",
        )
    doors.add_argument(
        "--privacy",
        action=argparse.BooleanOptionalAction,
        help="keep fingerprints only: no text, token ids or positions are stored or shown, whatever is sent",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in _COMMANDS:
        return _COMMANDS[words[0]](words[1:])
    flags = vars(parser().parse_args(words))
    try:
        settings = Settings.resolve(flags=flags, environ=os.environ)
        settings.check_doors()
        tokens_from(settings)
    except SettingsError as error:
        print(f"attn-sidecar: {error}", file=sys.stderr)
        return 2
    # A fault in native code, or `kill -ABRT` of a process that seems stuck, leaves every thread's stack in the log.
    faulthandler.enable()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # What is multiplied here is small: helpers of the linear algebra library would spend their time waiting for one
    # another, above all where the model server leaves them half a core.
    threadpool_limits(limits=1, user_api="blas")
    bound_allocator()
    configure_logging(settings.log_format)
    stop = StopSignal()
    try:
        http_socket, sidecar = _opened(settings)
    except AttnError as error:
        log_event(_LOG, logging.ERROR, "sidecar.cannot_start", reason=error)
        return 1
    _warn_if_wide(settings)
    server = _Server(
        uvicorn.Config(
            create_app(sidecar),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_GRACE_S,
            # Lines of other programs would be an invitation to compare versions.
            server_header=False,
            http=BoundedConnection,
            limit_concurrency=MAX_CONNECTIONS,
            ws_max_size=_MAX_HEARD_BYTES,
            # It would be done on the event loop, which every answer waits for; and listeners are near.
            ws_per_message_deflate=False,
            # Who asks is who connects: a header may name anybody, and rate limits go by the address.
            proxy_headers=False,
        ),
        sidecar=sidecar,
    )
    stop.server = server
    # A signal may have come before the server was known to `stop`. The server runs all the same: its end closes what is
    # open, and ZMQ's threads would keep the process otherwise.
    if stop.received:
        server.should_exit = True
    server.run(sockets=[http_socket])
    if arguments is not None:
        # The caller goes on; of a command, the end of the interpreter is watched too.
        faulthandler.cancel_dump_traceback_later()
    if server.force_exit:
        log_event(_LOG, logging.WARNING, "sidecar.gave_up_draining", reason="a second Ctrl+C: senders send again")
        return 1
    log_event(_LOG, logging.INFO, "sidecar.stopped")
    return 0 if server.started else 1


def _opened(settings: Settings) -> tuple[socket.socket, Sidecar]:
    """The listening socket first: two sidecars of one port must not both open the database."""
    http_socket = bind_http(settings.host, settings.port)
    try:
        sidecar = Sidecar(settings)
        sidecar.open()
    except AttnError:
        http_socket.close()
        raise
    return http_socket, sidecar


def bind_http(host: str, port: int) -> socket.socket:
    """A listening socket; raises `AddressTaken` naming the port."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
    except OSError as error:
        raise AddressTaken(f"HTTP address {host} cannot be used: {error}. Give an address with --host") from error
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        # Only a listening socket keeps a second sidecar from taking the same port.
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            reason = "is taken by another process: stop it, or choose another with --port N"
        else:
            reason = f"cannot be listened on: {error}. Choose another with --port N or --host ADDR"
        raise AddressTaken(f"HTTP port {port} on {host} {reason}") from error
    return bound


def _warn_if_wide(settings: Settings) -> None:
    if wide := settings.wide_bindings:
        warning = "anyone who reaches it can read prompts and write fingerprints: keep it behind a firewall"
        log_event(_LOG, logging.WARNING, "sidecar.open_to_network", bound=" ".join(wide), warning=warning)
    if settings.zmq_reach == "loopback-peers":
        note = "senders elsewhere are turned away: give them CURVE keys (attn-sidecar keys NEW_DIR), or --insecure"
        log_event(_LOG, logging.WARNING, "ingest.this_machine_only", bound=settings.zmq_bind, note=note)
    if settings.token_file is not None and settings.token_file.stat().st_mode & stat.S_IROTH:
        note = f"everyone on this machine can read it: chmod 600 {settings.token_file}"
        log_event(_LOG, logging.WARNING, "sidecar.token_file_open", note=note)


class StopSignal:
    """SIGTERM and SIGINT, also before and after the server handles them itself: both mean a clean end."""

    def __init__(self) -> None:
        self.received = False
        self.server: uvicorn.Server | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self.received = True
        if self.server is not None:
            self.server.should_exit = True


class _Server(uvicorn.Server):
    """Says when it is ready, and where."""

    def __init__(self, config: uvicorn.Config, *, sidecar: Sidecar) -> None:
        super().__init__(config)
        self._sidecar = sidecar

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if counter % _TICKS_A_SECOND == 0:
            # The clock of the event loop, by which connections note when their head began.
            close_late(self.server_state.connections, now_s=asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started or not sockets:
            return
        host, port = sockets[0].getsockname()[:2]
        log_event(
            _LOG,
            logging.INFO,
            "sidecar.ready",
            http=f"http://{f'[{host}]' if ':' in host else host}:{port}",
            zmq=self._sidecar.ingest.address if self._sidecar.ingest else "off",
            db=self._sidecar.settings.db,
            run_id=self._sidecar.discovery.served.run_id,
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log_event(_LOG, logging.INFO, "sidecar.stopping", connections=len(self.server_state.connections))
        # What was acknowledged is committed: a stop that hangs may be cut off, with the stacks that tell where.
        faulthandler.dump_traceback_later(_STUCK_S, exit=True)
        await super().shutdown(sockets)


if __name__ == "__main__":
    sys.exit(main())
