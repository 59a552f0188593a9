"""The explorer's types of the sidecar's answers, from its own OpenAPI: ``python ui/dev/generate_types.py``.

Only what the explorer asks for is written, with everything that it refers to.
``tests/contracts/test_explorer_types.py`` fails where the file no longer says what the sidecar does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.settings import Settings

TYPES = Path(__file__).resolve().parents[1] / "src" / "lib" / "answers.ts"
ANSWERS = (
    "ClustersAnswer",
    "ClusterAnswer",
    "TimelineAnswer",
    "RunsAnswer",
    "RunAnswer",
    "CompareAnswer",
    "OnlineFigures",
    "Grounding",
)
_HEAD = "/** The sidecar's answers, generated from its OpenAPI by dev/generate_types.py. Not edited by hand. */\n"
_PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def typescript(schemas: dict[str, Any]) -> str:
    """The file's text: an interface for each answer and each schema it leads to, by name."""
    wanted: dict[str, str] = {}
    open_names = list(ANSWERS)
    while open_names:
        name = open_names.pop()
        if name in wanted:
            continue
        seen: list[str] = []
        fields = [f"  {field}: {_type(schema, seen)};\n" for field, schema in schemas[name]["properties"].items()]
        wanted[name] = f"export interface {name} {{\n{''.join(fields)}}}\n"
        open_names += seen
    return "\n".join([_HEAD, *(wanted[name] for name in sorted(wanted))])


def _type(schema: dict[str, Any], seen: list[str]) -> str:
    """One field's type; the names of schemas it refers to are added to `seen`."""
    if "$ref" in schema:
        name: str = schema["$ref"].rsplit("/", 1)[1]
        seen.append(name)
        return name
    if "anyOf" in schema:
        return " | ".join(_type(one, seen) for one in schema["anyOf"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_PLAIN[one] for one in kind)
    if "prefixItems" in schema:
        return f"[{', '.join(_type(one, seen) for one in schema['prefixItems'])}]"
    if kind == "array":
        item = _type(schema["items"], seen)
        return f"({item})[]" if " | " in item else f"{item}[]"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"Record<string, {_type(values, seen) if isinstance(values, dict) else 'unknown'}>"
    return _PLAIN.get(str(kind), "unknown")


def generated() -> str:
    """What the file should hold, of the sidecar in this tree."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        settings = Settings(db=at / "fingerprints.db", discovery_dir=at / "discovery_outputs", zmq_bind=None)
        schemas = create_app(Sidecar(settings), static_dir=at / "static").openapi()["components"]["schemas"]
    return typescript(schemas)


if __name__ == "__main__":
    TYPES.write_text(generated(), encoding="utf-8")
