import sys
from pathlib import Path

# The HTTP and wire contracts are tried against the sidecar's own parts and helpers.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sidecar"))
