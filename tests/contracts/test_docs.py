"""What the docs name exists: folders, make targets, links, commands and their flags."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "ui" / "README.md"]


def test_the_folders_of_the_readme_exist_and_are_all():
    named = {line.split("`")[1].rstrip("/") for line in README.splitlines() if line.startswith("| `")}
    assert len(named) >= 9
    for folder in named:
        assert (ROOT / folder).is_dir(), folder
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines() if "/" in line}
    hidden = {name for name in top if name.startswith(".")} | {"docs", "requirements", "scripts"}
    assert top - hidden == {folder.split("/")[0] for folder in named}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_decision_records_have_their_parts():
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [record.name[:4] for record in records]
    assert numbers == [f"{k:04}" for k in range(1, len(records) + 1)]
    for record in records:
        text = record.read_text(encoding="utf-8").lower()
        for part in ("context", "decision", "costs accepted", "revisit"):
            assert part in text, f"{record.name} does not say: {part}"


@pytest.mark.parametrize("command", ["attn-sidecar", "attn-discover"])
def test_flags_that_the_readme_gives_a_command_are_in_its_help(command):
    done = subprocess.run(
        [Path(sys.executable).with_name(command), "--help"], capture_output=True, text=True, check=True
    )
    lines = [line for line in README.replace("\\\n", " ").splitlines() if line.startswith(command)]
    flags = {flag for line in lines for flag in re.findall(r"--[a-z-]+", line)}
    assert flags
    for flag in flags:
        assert flag in done.stdout, flag
