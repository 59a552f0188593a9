"""What the end-to-end tests share: where the project lies, free ports, the stack that runs."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from demo.processes import Program, Stack
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

    def program(self, name: str) -> Program:
        return next(program for program in self.stack.programs if program.name == name)
