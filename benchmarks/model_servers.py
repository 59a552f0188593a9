"""Model servers for a benchmark: the demo model behind SGLang, with and without the capture, each on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from benchmarks.sidecar_process import free_port
from demo.processes import Program, Stack
from demo.stack import MODEL_DIR, Ports, server_url, start_model_server, wait_for

READY_S = 300


@dataclass(frozen=True, kw_only=True)
class ModelServer:
    """A running model server."""

    url: str
    program: Program

    def client(self) -> httpx.Client:
        """A client of it with room for 16 requests at once."""
        return httpx.Client(base_url=self.url, timeout=600, limits=httpx.Limits(max_connections=16))

    def resident_bytes(self) -> int:
        """Memory in RAM of the server and all its processes; pages they share are counted in each."""
        main = psutil.Process(self.program.process.pid)
        return sum(process.memory_info().rss for process in (main, *main.children(recursive=True)))


@dataclass(frozen=True, kw_only=True)
class ServerKind:
    """How one of several servers is started."""

    name: str
    capture: bool
    zmq_port: int = 0
    """Where its sidecar listens, or will."""
    arguments: tuple[str, ...] = ()


@contextmanager
def running_servers(*kinds: ServerKind) -> Iterator[list[ModelServer]]:
    """All of them side by side, ready; idle ones sleep. Their logs are lost with the temporary folder."""
    with TemporaryDirectory(prefix="attn-bench-") as folder, ExitStack() as cleanup:
        started = []
        for kind in kinds:
            stack = Stack(logs=Path(folder) / kind.name)
            cleanup.callback(stack.stop)
            ports = Ports(server=free_port(), zmq=kind.zmq_port)
            program = start_model_server(
                stack, ports=ports, model=MODEL_DIR, capture=kind.capture, arguments=kind.arguments
            )
            started.append((program, server_url(ports)))
        for program, url in started:
            wait_for(program, url=f"{url}/health", timeout_s=READY_S)
        yield [ModelServer(url=url, program=program) for program, url in started]
