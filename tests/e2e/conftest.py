"""The real stack, once a module: model server, sidecar and Dagster, with the demo's traffic sent through them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from running_stack import Running, free_ports

from demo.__main__ import run
from demo.processes import Stack
from demo.stack import Places, Ports


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
