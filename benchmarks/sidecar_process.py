"""A sidecar of its own for a benchmark: on free ports, with its database in a temporary folder."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from demo.processes import Stack
from demo.stack import Places, Ports, sidecar_url, start_sidecar, wait_for, zmq_address


@dataclass(frozen=True)
class RunningSidecar:
    """Where it answers and where it stores."""

    url: str
    zmq: str
    database: Path
    pid: int


def resident_bytes(pid: int) -> int:
    """Memory that a process holds now."""
    return int(psutil.Process(pid).memory_info().rss)


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_sidecar(*, zmq_port: int | None = None, arguments: tuple[str, ...] = ()) -> Iterator[RunningSidecar]:
    """Start it, wait until it answers, stop it. It listens for fingerprints on this port, else on any free one."""
    with TemporaryDirectory(prefix="attn-bench-") as folder:
        ports = Ports(server=0, sidecar=free_port(), zmq=zmq_port or free_port(), dagster=0)
        places = Places(data=Path(folder))
        stack = Stack(logs=places.logs)
        try:
            program = start_sidecar(stack, ports=ports, places=places, arguments=arguments)
            wait_for(program, url=f"{sidecar_url(ports)}/health", timeout_s=60)
            yield RunningSidecar(
                url=sidecar_url(ports), zmq=zmq_address(ports), database=places.database, pid=program.process.pid
            )
        finally:
            stack.stop()


EMPTY_HANDLER = """
import uvicorn
from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import Route

async def empty(request):
    return Response(b"{}", media_type="application/json")

app = FastAPI()
app.router.routes.append(Route("/classify", empty, methods=["POST"]))
uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="error", access_log=False)
"""


@contextmanager
def empty_handler() -> Iterator[str]:
    """The peer of `classify_http`: the same stack with a handler that does nothing. Gives its address."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", EMPTY_HANDLER.replace("PORT", str(port))])
    try:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
