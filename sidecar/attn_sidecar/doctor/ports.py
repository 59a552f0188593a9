"""Ports: free, taken by this very sidecar, or taken by somebody else, and by whom."""

from __future__ import annotations

import errno
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from attn_sidecar.doctor.asking import NoAnswer, ask
from attn_sidecar.doctor.findings import Finding, failed, ok, warning
from attn_sidecar.settings import Settings

_PROC = Path("/proc")
_LISTENING = "0A"
HEALTH_WITHIN_S = 2.0
"""/health is answered at once; whoever holds the port and says nothing for this long is no sidecar."""
_ZMQ_TCP = re.compile(r"^tcp://(?P<host>.+):(?P<port>\d+)$")


@dataclass(frozen=True, kw_only=True)
class Running:
    """A sidecar that answers at the HTTP port."""

    url: str
    version: str
    status: str
    reasons: list[str]
    holder: str | None


def check_ports(settings: Settings) -> tuple[list[Finding], Running | None]:
    """The HTTP and the ZMQ port, and the sidecar that runs already, where one does."""
    findings: list[Finding] = []
    running: Running | None = None
    reason = why_not_free(settings.host, settings.port)
    where = f"{settings.host}:{settings.port}"
    if reason is None:
        findings.append(ok("port.http", f"{where} is free"))
    elif reason != errno.EADDRINUSE:
        findings.append(_cannot_listen("port.http", where, reason, "choose another with --port N or --host ADDR"))
    else:
        running = sidecar_at(settings)
        holder = holder_of(settings.port)
        if running is None:
            by = f" by {holder}" if holder else ""
            to_do = "stop that program, or choose another port with --port N"
            findings.append(failed("port.http", f"{where} is taken{by}, which is no sidecar", to_do))
        else:
            findings.append(ok("port.http", f"a sidecar {running.version} answers at {where}"))
            if running.reasons:
                to_do = "GET /health says more; each reason begins with the part that ails"
                make = failed if running.status == "503" else warning
                findings.append(make("sidecar.health", "; ".join(running.reasons), to_do))
            else:
                findings.append(ok("sidecar.health", "it says that it is well"))
    findings += _check_zmq(settings, running)
    return findings, running


def _check_zmq(settings: Settings, running: Running | None) -> list[Finding]:
    if settings.zmq_bind is None:
        return [warning("port.zmq", "ingest is off", "take --zmq-bind off away to receive fingerprints")]
    match = _ZMQ_TCP.match(settings.zmq_bind)
    if match is None:
        return [ok("port.zmq", f"{settings.zmq_bind} is no TCP port: not looked at")]
    host, port = match["host"], int(match["port"])
    reason = why_not_free("0.0.0.0" if host == "*" else host, port)  # noqa: S104 - what the user asked for
    if reason is None:
        if running is None:
            return [ok("port.zmq", f"{settings.zmq_bind} is free")]
        to_do = "start the doctor with the flags of the sidecar that runs"
        return [warning("port.zmq", f"nobody listens at {settings.zmq_bind}, though a sidecar runs", to_do)]
    if reason != errno.EADDRINUSE:
        return [_cannot_listen("port.zmq", settings.zmq_bind, reason, "give an address of this machine")]
    holder = holder_of(port)
    if running is not None and (holder is None or holder == running.holder):
        return [ok("port.zmq", f"{settings.zmq_bind} is taken, by the sidecar that runs")]
    by = f" by {holder}" if holder else ""
    to_do = "stop that program, or choose another with --zmq-bind tcp://127.0.0.1:PORT (and tell the model server)"
    return [failed("port.zmq", f"{settings.zmq_bind} is taken{by}", to_do)]


def _cannot_listen(name: str, where: str, reason: int, to_do: str) -> Finding:
    return failed(name, f"{where} cannot be listened at: {errno.errorcode.get(reason, reason)}", to_do)


def why_not_free(host: str, port: int) -> int | None:
    """The errno of trying to listen there, None where it works."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
    return None


def sidecar_at(settings: Settings) -> Running | None:
    """The sidecar that answers at the HTTP port, None where it is something else."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "") else settings.host  # noqa: S104 - recognised, not bound
    url = f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{settings.port}"
    try:
        answer = ask(f"{url}/health", token=token_of(settings), timeout_s=HEALTH_WITHIN_S)
    except NoAnswer:
        return None
    said = answer.body
    if not isinstance(said, dict) or "version" not in said or said.get("status") not in ("ok", "degraded"):
        return None
    return Running(
        url=url,
        version=str(said["version"]),
        status=str(answer.status),
        reasons=[str(reason) for reason in said.get("reasons", [])],
        holder=holder_of(settings.port),
    )


def token_of(settings: Settings) -> str | None:
    """A token that opens the sidecar, where one is asked for and can be read."""
    if settings.token_file is None:
        return settings.token
    try:
        lines = settings.token_file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    return next((line.strip() for line in lines if line.strip()), None)


def holder_of(port: int) -> str | None:
    """Name and process id of who listens at a TCP port of this machine, as far as /proc lets us see."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    for process in _PROC.glob("[0-9]*"):
        try:
            if any(link.readlink().name in inodes for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text(encoding='utf-8').strip()} (process {process.name})"
        except OSError:
            # Another user's, or gone.
            continue
    return None
