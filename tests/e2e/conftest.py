"""The real stack, once a module: model server, sidecar and Dagster, with the demo's traffic sent through them."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.__main__ import run
from demo.processes import Stack
from demo.stack import Places, Ports, dagster_url, server_url, sidecar_url

ROOT = Path(__file__).resolve().parents[2]


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on at this moment, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass(frozen=True)
class Running:
    """The stack that a test works on."""

    stack: Stack
    ports: Ports
    places: Places
    output: str
    """What the demo printed."""

    @property
    def server(self) -> str:
        return server_url(self.ports)

    @property
    def sidecar(self) -> str:
        return sidecar_url(self.ports)

    @property
    def dagster(self) -> str:
        return dagster_url(self.ports)

    def program(self, name: str):
        return next(program for program in self.stack.programs if program.name == name)


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Iterator[Running]:
    """The demo, run to its end and still up."""
    server, sidecar, zmq, dagster = free_ports(4)
    ports = Ports(server=server, sidecar=sidecar, zmq=zmq, dagster=dagster)
    places = Places(data=tmp_path_factory.mktemp("demo"))
    stack = Stack(logs=places.logs)
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in ("demo.__main__", "demo.stack", "demo.traffic", "demo.processes"):
            patch.setattr(f"{module}.say", lambda text: (lines.append(text), print(text, flush=True)))
        try:
            run(stack, ports=ports, places=places)
            yield Running(stack=stack, ports=ports, places=places, output="\n".join(lines))
        finally:
            stack.stop()
            keep = os.environ.get("ATTN_KEEP_LOGS")
            if keep:
                shutil.copytree(places.logs, keep, dirs_exist_ok=True)
