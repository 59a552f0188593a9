"""`attn-discover calibrate`: calibrate the zones to the model that a server serves."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attn_core.errors import AttnError, CalibrationError, SettingsError

if TYPE_CHECKING:
    from attn_assets.calibration.kept import Calibrations

EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130
_EPILOG = """\
example:
  attn-discover calibrate --model-url http://127.0.0.1:30000 --output ./discovery_outputs

what it does:
  asks the served model prompts whose zone is known (JSON repair, coreference, counting, facts from long documents,
  open-ended and more, lengths balanced by irrelevant text), learns from the answers what is usual for this model at
  each context length and how often its tokens are of each zone, judges that on prompts of other wording, and keeps it
  as OUTPUT/zone_calibrations/MODEL/NNNN.json. The next discovery run starts from it; bundles made before keep the
  meaning they were made with. What a zone is made of is fixed (docs/zones.md): a calibration that breaks it is refused.
  The model server has to run with --return-attention-tokens. With the demo's model on two CPU cores it takes about
  15 minutes.

without any calibration the shipped formula is used, with what is usual learned from each window's own tokens.

exit codes:
  0 kept   1 failed or not good enough to keep   2 a flag cannot be used, or the server does not answer with attention
  130 stopped by Ctrl+C; nothing is kept
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="attn-discover calibrate",
        description="Calibrate the zones to the model that a server serves.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model-url", default="http://127.0.0.1:30000", metavar="URL",
        help="the model server, without /v1 (default: %(default)s)")  # fmt: skip
    add("--output", type=Path, default=Path("data/discovery_outputs"), metavar="PATH",
        help="the discovery directory, as attn-discover's (default: %(default)s)")  # fmt: skip
    add("--per-zone", type=_at_least(10), default=60, metavar="N",
        help="prompts to learn from for each of the five zones (default: %(default)s)")  # fmt: skip
    add("--held-out-per-zone", type=_at_least(4), default=30, metavar="N",
        help="prompts to judge by for each zone (default: %(default)s)")  # fmt: skip
    add("--max-tokens", type=_at_least(8), default=56, metavar="N",
        help="length of an answer (default: %(default)s)")  # fmt: skip
    add("--concurrency", type=_at_least(1), default=8, metavar="N", help="requests at once (default: %(default)s)")
    add("--seed", type=_at_least(0), default=0, metavar="N", help="same seed, same prompts (default: %(default)s)")
    add("--list", action="store_true", help="show the calibrations there are for the served model, and stop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        return _run(args)
    except KeyboardInterrupt:
        print("\nstopped; nothing was kept", file=sys.stderr)
        return EXIT_STOPPED
    except (SettingsError, OSError) as error:
        print(f"attn-discover calibrate: {error}", file=sys.stderr)
        return EXIT_USAGE
    except AttnError as error:
        print(f"attn-discover calibrate: {error}", file=sys.stderr)
        return EXIT_FAILED


def _run(args: argparse.Namespace) -> int:
    # Imported here and not above: --help should not wait for NumPy and scikit-learn.
    from attn_assets.calibration.asking import Server
    from attn_assets.calibration.calibrating import Recipe, calibrate
    from attn_assets.calibration.kept import FOLDER, Calibrations
    from attn_core.zones import ZONES

    calibrations = Calibrations(args.output / FOLDER)
    try:
        server = Server(url=args.model_url, concurrency=args.concurrency)
        model_id = server.model_id()
    except CalibrationError as error:
        raise SettingsError(str(error)) from error
    if args.list:
        return _list(calibrations, model_id)
    print(f"calibrating {model_id} at {args.model_url}", flush=True)
    recipe = Recipe(
        num_per_zone=args.per_zone,
        held_out_per_zone=args.held_out_per_zone,
        max_tokens=args.max_tokens,
        seed=args.seed,
    )
    found = calibrate(server, calibrations, recipe, report=_Line())
    print(f"\non {found.formula.provenance['num_held_out']} answers to prompts of other wording:")
    print(found.requests.table())
    print(f"macro-F1 {found.requests.macro_f1:.3f} by whole answers, {found.tokens.macro_f1:.3f} by single tokens")
    for zone, share, auc in zip(ZONES, found.quality.shares, found.quality.auc, strict=True):
        print(f"  {zone:<16} {share:4.0%} of the tokens, AUC of its own characteristic {auc:.2f}")
    print(
        f"kept as {found.formula.version}, in place of {found.formula.provenance['replaces']}; the next discovery run "
        "uses it"
    )
    return 0


def _list(calibrations: Calibrations, model_id: str) -> int:
    known = calibrations.history(model_id)
    for one in known:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(one["made_at_us"] / 1e6))
        macro_f1 = one["figures"]["held_out_requests"]["macro_f1"]
        print(f"{one['version']}  {when}  {one['num_answers']} answers  macro-F1 {macro_f1:.3f}")
    if not known:
        print(f"none for {model_id}: the shipped formula is used")
    return 0


class _Line:
    """One line of progress a stage, rewritten on a terminal; elsewhere a line for every tenth part."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage, self._started = stage, time.monotonic()
        step = max(total // 10, 1)
        if not sys.stderr.isatty() and done % step and done != total:
            return
        elapsed_s = time.monotonic() - self._started
        left = f", about {elapsed_s / done * (total - done):.0f} s left" if 0 < done < total else ""
        end = "\r" if sys.stderr.isatty() and done < total else "\n"
        print(f"  {stage}: {done} of {total}{left}    ", end=end, file=sys.stderr, flush=True)


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return value

    return parse
