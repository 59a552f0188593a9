"""`python -m study`: ask the demo's model, look at what discovery makes of it, write docs/fidelity.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from demo.processes import DemoError
from demo.stack import ROOT, Ports
from study.collect import LABELS, collect
from study.measure import clusters_in_words, measure
from study.report import write_report


class _Line:
    """One line of progress, rewritten on a terminal; elsewhere one for every twentieth part."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if not sys.stderr.isatty() and done % max(total // 20, 1) and done != total:
            return
        elapsed_s = time.monotonic() - self._began_s
        left_s = elapsed_s / max(done, 1) * (total - done)
        end = "\r" if sys.stderr.isatty() and done < total else "\n"
        print(f"  {done} of {total} answers, about {left_s:.0f} s left    ", end=end, file=sys.stderr, flush=True)


def main() -> int:
    """Run the study; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m study", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "data" / "study", help="where it works (default: %(default)s)"
    )
    parser.add_argument(
        "--per-zone", type=int, default=70, help="prompts a zone; half as many of other wording besides"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same prompts (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="maps that are made (default: %(default)s)")
    parser.add_argument("--reuse", action="store_true", help="measure what is in the folder already: ask nothing")
    parser.add_argument("--first-port", type=int, default=31000, help="of four (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "fidelity.md", help="the page (default: %(default)s)"
    )
    args = parser.parse_args()
    first = args.first_port
    ports = Ports(server=first, sidecar=first + 1, zmq=first + 2, dagster=first + 3)
    try:
        if not args.reuse:
            collect(args.folder, num_per_zone=args.per_zone, seed=args.seed, ports=ports, report=_Line())
        elif not (args.folder / LABELS).exists():
            print(f"study: {args.folder} holds no answers: run it without --reuse first", file=sys.stderr)
            return 2
        print("  answers are there; maps are made and judged", file=sys.stderr, flush=True)
        figures = measure(args.folder, seeds=args.seeds)
        write_report(args.output, figures, clusters_in_words(args.folder))
    except DemoError as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstudy: stopped; no page was written", file=sys.stderr)
        return 130
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
