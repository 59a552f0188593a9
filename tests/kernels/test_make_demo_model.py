"""The demo model's folder is verified by hash, and a damaged one is known for what it is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import MODEL, ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_demo_model", ROOT / "scripts/make_demo_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(script: ModuleType, tmp_path: Path) -> Path:
    """A small folder put in place as the real one is."""
    made = tmp_path / "work" / "model"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "config.json").write_text("{}")
    script.publish(made, tmp_path / "out")
    return tmp_path / "out"


def test_a_whole_folder_is_taken_as_it_is(script: ModuleType, folder: Path) -> None:
    assert script.why_stale(folder) is None


def test_damage_is_found_and_named(script: ModuleType, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weighta")
    assert "model.safetensors is damaged" in script.why_stale(folder)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in script.why_stale(folder)
    (folder / script.MANIFEST_NAME).write_text("{")
    assert "manifest cannot be read" in script.why_stale(folder)


def test_another_source_is_made_again(script: ModuleType, folder: Path) -> None:
    path = folder / script.MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "gguf_sha256": "0" * 64}))
    assert "another source" in script.why_stale(folder)


def test_a_new_folder_replaces_a_damaged_one(script: ModuleType, folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text("damaged")
    made = tmp_path / "work" / "again"
    made.mkdir()
    (made / "config.json").write_text("{}")
    script.publish(made, folder)
    assert script.why_stale(folder) is None
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", script.MANIFEST_NAME]


def test_a_second_run_only_verifies(server: object) -> None:
    command = [sys.executable, ROOT / "scripts/make_demo_model.py", "--output", MODEL]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.startswith("Demo model: ready and verified")
