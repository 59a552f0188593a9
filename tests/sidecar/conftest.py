import contextlib
import signal
import sys
from pathlib import Path

import pytest
from sidecar_tools import Sender, SidecarProcess
from starlette.testclient import TestClient

from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.settings import Settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))  # attention drawn at random

LONGEST_S = 120
"""A test that hangs is ended: a WebSocket's test client waits forever."""


@pytest.fixture(autouse=True)
def _ends():
    def too_long(*_):
        raise TimeoutError(f"this test ran for {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LONGEST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def settings(tmp_path):
    return Settings(
        db=tmp_path / "fingerprints.db",
        discovery_dir=tmp_path / "discovery_outputs",
        zmq_bind="tcp://127.0.0.1:*",
        online=True,
    )


@pytest.fixture
def sidecar(settings):
    return Sidecar(settings)


@pytest.fixture
def client(sidecar, tmp_path):
    """The whole sidecar in this process: its own threads, a real database, a real ROUTER."""
    with TestClient(create_app(sidecar, static_dir=tmp_path / "static")) as client:
        yield client


@pytest.fixture
def sender(client, sidecar):
    with contextlib.closing(Sender(sidecar.ingest.address)) as sender:
        yield sender


@pytest.fixture
def start_process(tmp_path):
    """Start sidecar processes; all are ended after the test."""
    started = []

    def start(**options):
        started.append(SidecarProcess(tmp_path, **options))
        return started[-1]

    yield start
    for process in started:
        process.stop()
