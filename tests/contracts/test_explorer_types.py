"""The explorer's types are those of the sidecar's OpenAPI."""

import importlib.util
from pathlib import Path

DEV = Path(__file__).resolve().parents[2] / "ui" / "dev"


def test_the_explorers_types_are_the_sidecars():
    spec = importlib.util.spec_from_file_location("generate_types", DEV / "generate_types.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.TYPES.read_text(encoding="utf-8") == generate.generated(), "run `python ui/dev/generate_types.py`"
