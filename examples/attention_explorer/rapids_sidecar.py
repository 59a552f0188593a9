"""The sidecar service under the name that the getting-started guide uses: the same as the command `attn-sidecar`."""

import sys

try:
    from attn_sidecar.cli import main
except ModuleNotFoundError as error:
    sys.exit(
        f"rapids_sidecar.py: {error.name} is not installed in {sys.executable}.\n"
        "Run `make setup` in the project's root and use .venv/bin/python, or: pip install -e '.[sidecar]'"
    )

if __name__ == "__main__":
    sys.exit(main())
