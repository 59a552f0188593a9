"""How each part of the stack is started, and when it counts as ready."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx

from demo.processes import DemoError, Program, Stack, python_of, require_free_port, say, wait_until

ROOT = Path(__file__).resolve().parent.parent
MODEL_DIR = ROOT / "data" / "models" / "SmolLM2-135M-Instruct"
HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where each part listens on the loopback interface."""

    server: int = 30000
    sidecar: int = 9009
    zmq: int = 9001
    dagster: int = 3000

    def require_free(self) -> None:
        """Raise `DemoError` naming the first port that is taken and the flag that changes it."""
        for name, port in vars(self).items():
            require_free_port(port, flag=f"--{name}-port")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the state lies. Everything is under one folder, by default ``data/``."""

    data: Path = ROOT / "data"
    model: Path = MODEL_DIR

    @property
    def database(self) -> Path:
        """The SQLite store."""
        return self.data / "fingerprints.db"

    @property
    def discovery(self) -> Path:
        """Where bundles are published."""
        return self.data / "discovery_outputs"

    @property
    def logs(self) -> Path:
        """A log a program."""
        return self.data / "logs"


def zmq_address(ports: Ports) -> str:
    """Where the model server publishes and the sidecar listens."""
    return f"tcp://{HOST}:{ports.zmq}"


def start_model_server(
    stack: Stack, *, ports: Ports, model: Path, capture: bool = True, arguments: tuple[str, ...] = ()
) -> Program:
    """Start SGLang with (or, for comparison, without) attention capture. Not yet ready when this returns."""
    if not (model / "config.json").exists():
        raise DemoError(f"no model in {model}: run make setup")
    flags = ["--return-attention-tokens", "--attention-tokens-top-k", "32"] if capture else []
    if capture:
        flags += ["--attention-tokens-publish", zmq_address(ports)]
        flags += ["--attention-tokens-spool-dir", str(stack.logs.parent / "spool")]
        flags += ["--attention-head-projection-dir", str(stack.logs.parent / "head_projections_of_server")]
    command: list[str | Path] = [
        python_of(ROOT / ".venv-server"), "-m", "sglang.launch_server",
        "--model", model, "--attention-backend", "triton", "--host", HOST, "--port", str(ports.server),
        *flags, *arguments,
    ]  # fmt: skip
    name = "model-server" if capture else "model-server-plain"
    return stack.start(name, command, env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, cwd=ROOT)


def start_sidecar(stack: Stack, *, ports: Ports, places: Places, arguments: tuple[str, ...] = ()) -> Program:
    """Start the sidecar on the stack's database and discovery folder."""
    command: list[str | Path] = [
        python_of(ROOT / ".venv").with_name("attn-sidecar"),
        "--port", str(ports.sidecar), "--db", places.database, "--discovery-dir", places.discovery,
        "--online", "--zmq-bind", zmq_address(ports), *arguments,
    ]  # fmt: skip
    return stack.start("sidecar", command, env={}, cwd=ROOT)


def dagster_yaml(home: Path) -> str:
    """The project's `dagster.yaml`, with its state under `home`."""
    return (ROOT / "dagster.yaml").read_text(encoding="utf-8").replace("data/dagster", str(home))


def start_dagster(stack: Stack, *, ports: Ports, places: Places) -> Program:
    """Start `dagster dev` on the project's workspace, its own state under the data folder."""
    home = places.data / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(dagster_yaml(home), encoding="utf-8")
    environment = {
        "DAGSTER_HOME": str(home),
        "ATTN_DB": str(places.database),
        "ATTN_DISCOVERY_DIR": str(places.discovery),
        "ATTN_ASSETS_DIR": str(places.data / "assets"),
        # Dagster's own remark on its own command, which still is the one that needs nothing but a workspace file.
        "PYTHONWARNINGS": "ignore:Function `dev_command` is superseded",
    }
    command: list[str | Path] = [
        python_of(ROOT / ".venv").with_name("dagster"), "dev", "--workspace", ROOT / "workspace.yaml",
        "--host", HOST, "--port", str(ports.dagster),
    ]  # fmt: skip
    return stack.start("dagster", command, env=environment, cwd=ROOT)


def answers(url: str) -> bool:
    """Whether a GET of this URL gives 200."""
    try:
        return httpx.get(url, timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False


def wait_for(program: Program, *, url: str, timeout_s: float) -> None:
    """Wait until the program answers at `url`, and say how long it took."""
    took_s = wait_until(lambda: answers(url), what=program.name, timeout_s=timeout_s, programs=[program])
    say(f"  {program.name} is ready after {took_s:.0f} s")


def server_url(ports: Ports) -> str:
    """The model server's address."""
    return f"http://{HOST}:{ports.server}"


def sidecar_url(ports: Ports) -> str:
    """The sidecar's address; the explorer is served there."""
    return f"http://{HOST}:{ports.sidecar}"


def dagster_url(ports: Ports) -> str:
    """The Dagster UI's address."""
    return f"http://{HOST}:{ports.dagster}"
