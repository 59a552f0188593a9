"""Check the plugin's hooks against releases of SGLang other than the installed one, without installing them.

    .venv-server/bin/python scripts/check_sglang_releases.py [VERSION ...] [--write] [-- COMMAND ...]

Each release's wheel is downloaded, unpacked into a temporary folder and put in front of the installed one. For each the
hooks that it lacks are named, and those whose place differs from every release that was tried. With a COMMAND (such as
``pytest tests/kernels/test_answers.py``) it is run on each release too. ``--write`` notes what the places look like.
Exit status 1 where a release lacks a hook that the capture needs, or the command failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "kernels/attn_kernels/sglang_plugin/known_sources.py"
LOOK = """
import json, warnings
warnings.simplefilter("ignore")
from attn_kernels.sglang_plugin import hooks, versions
found = []
for hook in hooks.all_hooks():
    problem = hooks.problem_of(hook)
    digest = None if problem else versions.source_digest(hooks.original_of(hook))
    changed = digest is not None and versions.has_changed(hook.target, hooks.original_of(hook))
    found.append([hook.target, problem, hook.optional, hook.breaks, digest, changed])
print("FOUND " + json.dumps([versions.installed(), found]))
"""


def main() -> int:
    """Check each release; 1 where one cannot be hooked."""
    from attn_kernels.sglang_plugin.versions import KNOWN_VERSIONS, known_sources

    own, command = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("versions", nargs="*", default=list(KNOWN_VERSIONS), metavar="VERSION")
    parser.add_argument("--write", action="store_true", help="note each release's places in known_sources.py")
    options = parser.parse_args(own)
    sources = dict(known_sources())
    failed = False
    for version in options.versions:
        with tempfile.TemporaryDirectory() as folder:
            environment = _with_release(version, Path(folder))
            digests, hookable = _look(version, environment)
            sources[version] = digests
            failed |= not hookable
            if command and hookable:
                failed |= subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode != 0
    if options.write:
        _write({version: sources[version] for version in sources if version in KNOWN_VERSIONS})
    return int(failed)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def _with_release(version: str, folder: Path) -> dict[str, str]:
    """An environment in which this release is imported."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*download, "--only-binary", ":all:", "--dest", str(folder), f"sglang=={version}"], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    paths = [str(folder / "unpacked"), str(ROOT), str(ROOT / "kernels")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _look(version: str, environment: dict[str, str]) -> tuple[dict[str, str], bool]:
    """What the hooked places look like in this release, and whether all that are needed are there."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not lines:
        print(f"sglang {version}: cannot be loaded: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return {}, False
    loaded, found = json.loads(lines[-1].removeprefix("FOUND "))
    assert loaded == version, f"asked for sglang {version}, {loaded} was loaded"
    problems = [entry for entry in found if entry[1]]
    needed = [entry for entry in problems if not entry[2]]
    print(f"sglang {version}: {len(found) - len(problems)} of {len(found)} hooks fit")
    for target, problem, optional, breaks, _, _ in problems:
        print(f"  {'does without' if optional else 'needs'} {target}: {problem}; so {breaks}")
    for target, _, _, breaks, _, changed in found:
        if changed:
            print(f"  changed: {target} (else {breaks})")
    return {target: digest for target, _, _, _, digest, _ in found if digest}, not needed


def _write(sources: dict[str, dict[str, str]]) -> None:
    lines = ['"""What each hooked place looked like when it was tried; from scripts/check_sglang_releases.py."""', ""]
    lines += ["from __future__ import annotations", "", "SOURCES: dict[str, dict[str, str]] = {"]
    for version in sorted(sources, reverse=True):
        lines.append(f'    "{version}": {{')
        lines += [f'        "{target}": "{digest}",' for target, digest in sorted(sources[version].items())]
        lines.append("    },")
    lines += ["}", '"""Release to place to the digest of its source."""', ""]
    SOURCES.write_text("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
