"""The getting-started guide, word for word: its command lines are cut out of its text and run.

Only three things are put in the place of what it says: the demo model for the named one (nothing can be downloaded in a
test), the run's own id for RUN_ID, and a copy of examples/attention_explorer as the working folder.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from running_stack import ROOT

from attn_core.bundle import open_bundle
from demo.processes import Program, wait_until
from demo.stack import MODEL_DIR

GUIDE = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
SHELL = [text for language, text in BLOCKS if language == "bash"]
PYTHON = [text for language, text in BLOCKS if language == "python"]
SIDECAR = "http://localhost:9009"


def command(starts_with: str, *, number: int = 0) -> list[str]:
    """The words of the guide's n-th command line that starts so, continuation lines joined."""
    lines = [line for block in SHELL for line in block.replace("\\\n", " ").splitlines()]
    found = [line for line in lines if line.startswith(starts_with)]
    assert len(found) > number, f"the guide has no line {number} starting with {starts_with!r}"
    return shlex.split(found[number])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """examples/attention_explorer as a user has it, at a place where it may be written to."""
    copy = tmp_path_factory.mktemp("guide") / "attention_explorer"
    (copy / "discovery").mkdir(parents=True)
    source = ROOT / "examples" / "attention_explorer"
    for name in ("rapids_sidecar.py", "discovery/discovery_job.py", "discovery/schema.sql"):
        shutil.copy(source / name, copy / name)
    (copy / "ui").symlink_to((source / "ui").resolve())
    return copy


def environment(venv: str) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{ROOT / venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def start(name, words, *, cwd, venv=".venv"):
    log = cwd / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, cwd=cwd, env=environment(venv), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    return Program(name=name, process=process, log=log)


def run(words, *, cwd, timeout=240, check=True):
    done = subprocess.run(
        words, cwd=cwd, env=environment(".venv"), capture_output=True, text=True, timeout=timeout, check=False
    )
    assert not check or done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def answers(url):
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def followed(folder):
    """Steps 1 to 4 of the guide: database, model server, sidecar, requests."""
    programs = []
    try:
        database = command("sqlite3 ")
        assert database == ["sqlite3", "fingerprints.db", "<", "discovery/schema.sql"]
        with (folder / database[3]).open() as schema:
            subprocess.run(database[:2], stdin=schema, cwd=folder, check=True, capture_output=True)

        words = command("python -m sglang.launch_server")
        words[words.index("--model") + 1] = str(MODEL_DIR)
        programs.append(start("server", words, cwd=folder, venv=".venv-server"))
        programs.append(start("sidecar", command("python rapids_sidecar.py"), cwd=folder))
        wait_until(lambda: answers(f"{SIDECAR}/health"), what="sidecar", timeout_s=60, programs=programs)
        wait_until(lambda: answers("http://localhost:30000/health"), what="server", timeout_s=240, programs=programs)
        yield programs
    finally:
        for program in reversed(programs):
            program.stop()


def test_step_4_prints_attention_data(followed, folder):
    client = subprocess.Popen(
        ["python", "-u", "-c", PYTHON[0]], cwd=folder, env=environment(".venv"), stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in client.stdout:
        if line.startswith("Attention data:"):
            lines.append(line)
        if len(lines) == 20:  # so small a model may not find an end by itself
            client.terminate()
            break
    client.wait(timeout=60)
    client.stdout.close()
    assert len(lines) > 3
    assert "fingerprint" in lines[0]
    wait_until(lambda: httpx.get(f"{SIDECAR}/stats").json()["fingerprints"] >= len(lines), what="rows", timeout_s=30)


def test_before_discovery_it_says_so(followed, folder):
    assert "discovery not available" in httpx.get(f"{SIDECAR}/discovery/status").text


def test_step_5_discovers_and_the_sidecar_serves_it(followed, folder):
    for question in ("Write a long story about a ship.", "Count from 1 to 100.", "List twenty animals, one a line."):
        message = {"role": "user", "content": question}
        httpx.post(
            "http://localhost:30000/v1/chat/completions",
            json={"model": "default", "messages": [message], "max_tokens": 60, "ignore_eos": True},
            timeout=120,
        ).raise_for_status()
    wait_until(lambda: httpx.get(f"{SIDECAR}/stats").json()["fingerprints"] >= 150, what="rows", timeout_s=60)
    run(command("python discovery/discovery_job.py"), cwd=folder)
    run_id = open_bundle(folder / "discovery_outputs" / "latest").run_id
    wait_until(
        lambda: httpx.get(f"{SIDECAR}/discovery/status").json().get("run_id") == run_id, what="reload", timeout_s=30
    )
    vector = {"vector": [0.5, 0.3, 0.2, 1.0, *[0.125] * 8, *[1.0] * 8]}
    assert httpx.post(f"{SIDECAR}/classify", json=vector).json()["run_id"] == run_id


def test_long_running_saves_a_checkpoint_and_resumes(followed, folder):
    words = command("python discovery/discovery_job.py", number=1)
    assert {"--long-running", "--websocket-port", "--max-memory-gb"} <= set(words)
    process = subprocess.Popen(
        words, cwd=folder, env=environment(".venv"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seen = ""
    for line in process.stdout:
        seen += line
        if "umap" in line.lower():
            process.send_signal(signal.SIGINT)
            break
    rest, _ = process.communicate(timeout=120)
    seen += rest
    assert process.returncode == 130, seen
    run_id = re.search(r"--resume (\S+)", seen)[1]

    words = command("python discovery/discovery_job.py", number=2)
    assert words[words.index("--resume") + 1] == "RUN_ID"
    words[words.index("RUN_ID")] = run_id
    run(words, cwd=folder)
    assert open_bundle(folder / "discovery_outputs" / "latest").run_id == run_id


def test_step_6_serves_the_explorer_on_5173(followed, folder):
    install, develop = command("npm install"), command("npm run dev")
    run(install, cwd=folder / "ui")
    program = start("ui", develop, cwd=folder / "ui")
    try:
        wait_until(lambda: answers("http://localhost:5173"), what="npm run dev", timeout_s=60, programs=[program])
        assert '<div id="root"' in httpx.get("http://localhost:5173").text
        assert httpx.get("http://localhost:5173/stats").json() == httpx.get(f"{SIDECAR}/stats").json()
    finally:
        program.stop()
        program.log.unlink()


def test_the_example_script_finds_what_runs(followed, folder):
    words = command("python examples/manifold_quickstart.py")
    done = run(words, cwd=ROOT)
    assert "zones of this answer" in done.stdout
    assert "is served" in done.stdout


def test_every_endpoint_of_the_guide_is_there(followed):
    endpoints = re.findall(r"^(GET|POST) (/\S+)", GUIDE, flags=re.MULTILINE)
    assert len(endpoints) == 5
    described = httpx.get(f"{SIDECAR}/openapi.json").json()["paths"]
    for method, path in endpoints:
        assert method.lower() in described[path], f"{method} {path}"


def flags_of_the_guide(heading):
    section = GUIDE.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\| `(--[a-z-]+)", section, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("heading", "words", "venv"),
    [
        ("SGLang Server", ["python", "-m", "sglang.launch_server", "--help"], ".venv-server"),
        ("Sidecar Service", ["python", "rapids_sidecar.py", "--help"], ".venv"),
        ("Discovery Job", ["python", "discovery/discovery_job.py", "--help"], ".venv"),
    ],
)
def test_every_flag_of_the_guide_is_in_the_help(folder, heading, words, venv):
    done = subprocess.run(
        words, cwd=folder, env=environment(venv), capture_output=True, text=True, timeout=120, check=True
    )
    flags = flags_of_the_guide(heading)
    assert len(flags) >= 3
    for flag in flags:
        assert flag in done.stdout, flag


def test_the_flags_of_the_troubleshooting_section_exist(folder):
    done = run(["python", "discovery/discovery_job.py", "--help"], cwd=folder)
    for flag in re.findall(r"`(--(?:umap|max|batch)[a-z-]+)`", GUIDE.split("## Troubleshooting", 1)[1]):
        assert flag in done.stdout, flag


def test_the_docs_copy_of_the_response_is_real_json():
    body = next(text for language, text in BLOCKS if language == "json")
    assert set(json.loads(body)["manifold"]) == {"zone", "confidence", "cluster_id", "cluster_label"}


def test_the_guide_is_complete():
    assert Path(ROOT / "examples/manifold_quickstart.py").exists()
    assert len(SHELL) >= 9
