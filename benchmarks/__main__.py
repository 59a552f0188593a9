"""`make bench`: run the benchmarks that fit this machine, or one of them by name."""

from __future__ import annotations

import argparse
import importlib
import sys

BENCHMARKS = (
    "capture_cpu",
    "capture_soak",
    "capture_bytes",
    "kernel_exact",
    "ingest",
    "classify_http",
    "fingerprint_http",
    "points_http",
    "kill_rounds",
    "fuzz_frames",
    "sidecar_soak",
    "run_swaps",
    "zones",
    "neighbours",
    "umap",
    "hdbscan",
    "place",
    "classify_batch",
    "discovery",
    "growth",
    "kill_discovery",
    "dagster_overhead",
    "replay",
)


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for; 0 where every target is met, 1 where one is not, 2 for a wrong name."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=BENCHMARKS, help="one benchmark (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON object a figure on standard output")
    parser.add_argument("--rows", type=int, default=None, help="size, where a benchmark has one")
    arguments = parser.parse_args(argv)
    met = True
    for name in [arguments.name] if arguments.name else BENCHMARKS:
        module = importlib.import_module(f"benchmarks.{name}")
        met &= module.run(rows=arguments.rows, as_json=arguments.json)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
