"""The house: imports point one way, rooms have doors, nothing that can run a stranger's code."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "attn_core": ROOT / "attn_core",
    "attn_assets": ROOT / "attn_assets",
    "attn_sidecar": ROOT / "sidecar" / "attn_sidecar",
    "attn_kernels": ROOT / "kernels" / "attn_kernels",
}
MAY_IMPORT = {name: {name, "attn_core"} for name in PACKAGES}


def modules(package):
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files, f"{package} has no module"
    return files


def imported(path):
    """Every module that a file names in an import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    for path in modules(package):
        ours = {name.split(".")[0] for name in imported(path)} & set(PACKAGES)
        assert ours <= MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {ours - MAY_IMPORT[package]}"


def test_the_core_knows_no_framework():
    frameworks = {"dagster", "fastapi", "starlette", "torch", "sglang", "zmq", "uvicorn", "umap", "hdbscan", "sklearn"}
    for path in modules("attn_core"):
        assert not {name.split(".")[0] for name in imported(path)} & frameworks, path.name


@pytest.mark.parametrize(
    ("package", "module", "rooms"),
    [
        ("attn_sidecar", "zmq", {"ingest", "zmq_door"}),
        ("attn_sidecar", "sqlite3", {"store"}),
        ("attn_kernels", "sglang", {"sglang_plugin", "cpu_platform"}),
        ("attn_assets", "dagster", {"defs", "cli", "definitions"}),
    ],
)
def test_rooms_have_doors(package, module, rooms):
    for path in modules(package):
        if module in {name.split(".")[0] for name in imported(path)}:
            inside = path.relative_to(PACKAGES[package]).parts[0].removesuffix(".py")
            assert inside in rooms, f"{path.relative_to(ROOT)} imports {module}: only {sorted(rooms)} may"


def test_no_folder_shadows_hugging_faces_kernels():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "sidecar" / "__init__.py").exists()


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def test_no_file_names_a_registry_or_keeps_bulk():
    for path in tracked():
        assert path.stat().st_size < 1_000_000, f"{path.relative_to(ROOT)} is too large for git"
        if path.name.endswith((".lock", "package-lock.json")):
            text = path.read_text(encoding="utf-8")
            assert '"resolved"' not in text, f"{path.name} holds download addresses"
            # Packages name their home pages; what must not be there is where a file was fetched from.
            assert not re.search(r"https?://\S+\.(whl|tgz|tar\.gz)", text), f"{path.name} holds download addresses"


def test_nothing_reads_back_what_could_run():
    for path in tracked():
        if path.suffix == ".py" and path != Path(__file__):
            names = set(imported(path)) | {name.split(".")[0] for name in imported(path)}
            assert not names & {"pickle", "joblib", "dill", "marshal", "shelve"}, path
