"""The discovery job under the name that the getting-started guide uses: the same as the command `attn-discover`."""

import sys

try:
    from attn_assets.cli import main
except ModuleNotFoundError as error:
    sys.exit(
        f"discovery_job.py: {error.name} is not installed in {sys.executable}.\n"
        "Run `make setup` in the project's root and use .venv/bin/python, or: pip install -e '.[assets]'"
    )

if __name__ == "__main__":
    sys.exit(main())
