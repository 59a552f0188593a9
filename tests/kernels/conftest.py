"""Real servers for the tests: the demo model behind SGLang, once with the capture and once without, once a session."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq

from attn_core import wire

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "data" / "models" / "SmolLM2-135M-Instruct"
START_TIMEOUT_S = 240.0


def pytest_configure(config: pytest.Config) -> None:
    """Let sentencepiece, which transformers imports, make its types.

    They warn while they are made; where that is an error half a type is left behind, and the process ends in a
    segmentation fault after the last test.
    """
    config.addinivalue_line("filterwarnings", "ignore:builtin type .* has no __module__ attribute:DeprecationWarning")


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A command that a test module names as `BESIDE`: it takes minutes, and needs nothing of the other tests."""

    arguments: tuple[str, ...]
    environment: dict[str, str]

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run it to its end, giving way to the servers of the other tests."""
        surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **self.environment}
        with tempfile.TemporaryDirectory() as compiled:  # anew each time: a cache would answer for the compiler
            return subprocess.run(
                ["nice", sys.executable, "-W", "ignore", *self.arguments],
                env={**surroundings, "TRITON_CACHE_DIR": compiled},
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )


_BESIDE = pytest.StashKey[dict[str, "Future[subprocess.CompletedProcess[str]]"]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what some modules compute beside the tests of the others, one after another on a core of its own."""
    modules = dict.fromkeys(item.module for item in session.items if isinstance(item, pytest.Function))
    wanted = {module.__name__: module.BESIDE for module in modules if hasattr(module, "BESIDE")}
    if session.config.option.collectonly or not wanted:
        return
    pool = ThreadPoolExecutor(1)
    session.stash[_BESIDE] = {name: pool.submit(beside.run) for name, beside in wanted.items()}
    pool.shutdown(wait=False)


@pytest.fixture(scope="module")
def computed_beside(request: pytest.FixtureRequest) -> subprocess.CompletedProcess[str]:
    """How the module's `BESIDE` ended."""
    return request.session.stash[_BESIDE][request.module.__name__].result()


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running model server, spoken to over HTTP alone."""

    port: int
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=300)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON answer to a JSON request that must succeed."""
        response = self.client.post(path, json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def chat(self, prompt: str, **options: Any) -> dict[str, Any]:
        """A whole chat answer, greedy unless told otherwise."""
        return self.post("/v1/chat/completions", chat_body(prompt, **options))

    def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The chunks of a streamed answer."""
        with self.client.stream("POST", path, json={**body, "stream": True}) as response:
            return list(events(response.iter_lines()))


def chat_body(prompt: str, **options: Any) -> dict[str, Any]:
    """A chat request, greedy unless told otherwise."""
    return {"model": "demo", "messages": [{"role": "user", "content": prompt}], "temperature": 0, **options}


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event."""
    import json

    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[len("data: ") :])


def make_model() -> None:
    """The demo model in place: verified where it is there, made where it is not."""
    made = subprocess.run([sys.executable, ROOT / "scripts/make_demo_model.py", "--output", MODEL], check=False)
    assert made.returncode == 0, "the demo model could not be made: see above"


def launch(log: Path, *args: str, **environment: str) -> tuple[Server, subprocess.Popen[bytes]]:
    """Start SGLang with the demo model and `args`; it is not ready yet."""
    port = free_port()
    command = [sys.executable, "-m", "sglang.launch_server", "--model", str(MODEL), "--port", str(port), *args]
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=surroundings, start_new_session=True)
    return Server(port=port, log=log), process


def wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Wait for the server's /health, telling how long it has been."""
    start = time.monotonic()
    told = start
    while True:
        with contextlib.suppress(httpx.TransportError):
            if server.client.get("/health").status_code == 200:
                print(f"model server ready after {time.monotonic() - start:.0f} s", file=sys.stderr)
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
            pytest.fail(f"the model server ended while starting:\n{server.log.read_text()[-3000:]}")
        if time.monotonic() - start > START_TIMEOUT_S:
            pytest.fail(f"the model server was not ready in time:\n{server.log.read_text()[-3000:]}")
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"waiting for the model server, {told - start:.0f} s ...", file=sys.stderr)


def stop(server: Server, process: subprocess.Popen[bytes]) -> None:
    """End the server and every process that it started."""
    server.client.close()
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Sink:
    """A sidecar in miniature: takes batches on a ZMQ ROUTER, acknowledges them and keeps their rows."""

    def __init__(self, address: str, *, acknowledge: bool = True, prepare: Callable[[Any], None] | None = None) -> None:
        self.address = address
        self._prepare = prepare  # sets options of the socket before it is bound
        self.batches: list[wire.Batch] = []
        self._acknowledge = acknowledge
        self._offers: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        if self._prepare is not None:
            self._prepare(router)
        router.bind(self.address)
        while not self._stopping.is_set():
            if router.poll(50):
                identity, *frames = router.recv_multipart()
                batch = wire.decode_batch(frames)
                with self._changed:
                    self.batches.append(batch)
                    self._changed.notify_all()
                if self._acknowledge:
                    ack = wire.ack_frames(source_id=batch.source_id, seq=batch.seq)
                    router.send_multipart([identity, *ack])
                while self._offers:
                    offer = wire.projection_frames(source_id=batch.source_id, projection=self._offers.popleft())
                    router.send_multipart([identity, *offer])
        router.close()
        context.term()

    def offer(self, projection: bytes) -> None:
        """Send this as a head projection, to whoever sends the next batch, after its acknowledgement."""
        self._offers.append(projection)

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Every row of this kind so far, in order of arrival."""
        with self._changed:
            return [row for batch in self.batches if batch.kind == kind for row in batch.rows.to_pylist()]

    def steps(self, request_id: str) -> list[int]:
        """The steps that arrived of one request, in order of arrival."""
        return [row["step"] for row in self.rows("fingerprints") if row["request_id"] == request_id]

    def ended(self, request_id: str, timeout_s: float = 20.0) -> dict[str, Any]:
        """Wait for the row that says that this request ended."""

        def find() -> dict[str, Any] | None:
            rows = self.rows("requests")
            return next((r for r in rows if r["request_id"] == request_id and r["event"] == "ended"), None)

        self.wait(lambda: find() is not None, timeout_s)
        found = find()
        assert found is not None
        return found

    def wait(self, condition: Any, timeout_s: float = 20.0) -> None:
        """Wait until `condition()` holds; it is looked at whenever a batch has arrived."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"not so after {timeout_s} s"

    def close(self) -> None:
        """Stop listening; what is unacknowledged stays so."""
        self._stopping.set()
        self._thread.join()


@pytest.fixture(scope="session")
def sink() -> Iterator[Sink]:
    """Where the capturing server publishes."""
    listening = Sink(f"tcp://127.0.0.1:{free_port()}")
    yield listening
    listening.close()


SERVED_MODEL = "model-under-test"
"""The name under which the capturing server serves: one for which no head projection comes with the package."""


@pytest.fixture(scope="session")
def servers(sink: Sink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """The capturing server and the stock one, started side by side: on two cores that takes little longer than one.

    Both prefill in chunks of 64 tokens. The capturing one takes a request back every 9th step of a batch (SGLang's own
    test switch), as it would when its cache is full.
    """
    make_model()
    logs = tmp_path_factory.mktemp("servers")
    common = ["--attention-backend", "triton", "--chunked-prefill-size", "64"]
    capturing = ["--return-attention-tokens", "--attention-tokens-top-k", "16"]
    capturing += ["--attention-tokens-publish", sink.address, "--attention-tokens-spool-dir", str(logs / "spool")]
    capturing += ["--enable-metrics", "--attention-head-projection-dir", str(logs / "heads")]
    capturing += ["--attention-head-sample", "1", "--served-model-name", SERVED_MODEL]
    retracting = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "9"}
    with contextlib.ExitStack() as stack:
        started = [
            launch(logs / "capturing.log", *common, *capturing, **retracting),
            launch(logs / "stock.log", *common),
        ]
        for server, process in started:
            stack.callback(stop, server, process)
        for _, process in started:
            stack.callback(process.send_signal, signal.SIGTERM)  # first of all both, so that they end side by side
        for server, process in started:
            wait_until_ready(server, process)
        yield started[0][0], started[1][0]


@pytest.fixture(scope="session")
def server(servers: tuple[Server, Server]) -> Server:
    """The capturing server."""
    return servers[0]


@pytest.fixture(scope="session")
def stock_server(servers: tuple[Server, Server]) -> Server:
    """The same server without the flag."""
    return servers[1]
