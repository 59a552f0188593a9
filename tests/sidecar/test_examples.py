"""The systemd unit and the container file: held to what they name, as far as that can be done without running them."""

import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from attn_sidecar.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
UNIT = (ROOT / "examples" / "systemd" / "attn-sidecar.service").read_text(encoding="utf-8")
CONTAINER = (ROOT / "examples" / "container" / "Containerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n\s*", " ", CONTAINER).splitlines()
    if line.strip() and not line.startswith("#")
]


def values_of(instruction):
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path):
    path = tmp_path / "attn-sidecar.service"
    # The program has its place on the machine that it is installed on; any program will do here.
    path.write_text(re.sub(r"^ExecStart=.*$", f"ExecStart={sys.executable}", UNIT, flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", [UNIT, CONTAINER], ids=["unit", "container"])
def test_the_variables_are_settings(text):
    given = dict(re.findall(rf"\b({ENV_PREFIX}[A-Z_]+)=(\S+)", text))
    assert len(given) >= 5
    assert {name.removeprefix(ENV_PREFIX).lower() for name in given} <= {field.name for field in fields(Settings)}
    settings = Settings.resolve(flags={}, environ=given)
    assert settings.port == 9009
    assert settings.log_format == "json"


def test_the_unit_ends_it_as_it_ends_itself():
    assert "KillSignal=SIGTERM" in UNIT
    assert int(re.search(r"TimeoutStopSec=(\d+)", UNIT)[1]) > 5
    for line in ("DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "CapabilityBoundingSet=\n"):
        assert line in UNIT


def test_the_container_file_holds_together():
    known = {
        "FROM",
        "WORKDIR",
        "RUN",
        "COPY",
        "USER",
        "VOLUME",
        "ENV",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
    }
    assert {name for name, _ in INSTRUCTIONS} == known
    assert len(values_of("FROM")) == 2
    for copied in values_of("COPY"):
        if not copied.startswith("--from=build"):
            for source in copied.split()[:-1]:
                assert (ROOT / source).exists(), source
    (user,) = values_of("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, and not root"
    assert values_of("STOPSIGNAL") == ["SIGTERM"]
    assert "/health" in values_of("HEALTHCHECK")[0]
    assert values_of("ENTRYPOINT") == ['["attn-sidecar"]']
