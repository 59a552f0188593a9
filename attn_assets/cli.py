"""`attn-discover`: one discovery run from the command line."""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from attn_core.errors import AttnError, SettingsError, StoreError

if TYPE_CHECKING:
    from attn_assets.checkpoint import Checkpoint, RunState
    from attn_assets.progress import LiveProgress
    from attn_assets.progress_socket import ProgressSocket

EXIT_FAILED, EXIT_USAGE, EXIT_EMPTY = 1, 2, 3
_EPILOG = """\
examples:
  attn-discover --db fingerprints.db --output ./discovery_outputs --hours 24 --min-cluster-size 20
  attn-discover --db fingerprints.db --output ./discovery_outputs \\
      --long-running --websocket-port 9010 --max-memory-gb 16
  attn-discover --db fingerprints.db --output ./discovery_outputs --resume RUN_ID
  attn-discover calibrate --help       (calibrate the zones to the model that is served)

what it does:
  reads the fingerprints of the last hours, lays them out on a map (UMAP on a sample, the rest placed against it), finds
  clusters (HDBSCAN), labels them with zones, fits the classifier that the sidecar serves, and publishes all of it as
  OUTPUT/RUN_ID. OUTPUT/latest then points there, and a running sidecar takes it up by itself.

exit codes:
  0 published   1 failed   2 a flag or the database cannot be used   3 no fingerprints in the window
  130 / 143 stopped by Ctrl+C / SIGTERM (with --long-running: resumable)

out of memory:
  1. reduce --umap-sample-size   2. use --long-running with --max-memory-gb   3. change the chunk size with --batch-size
"""
_DEFAULTS: dict[str, Any] = {
    "hours": 24.0,
    "min_cluster_size": 20,
    "umap_sample_size": 50_000,
    "batch_size": 20_000,
    "seed": 0,
}


class _Stopped(BaseException):
    """A signal asked us to stop; not an `Exception`, so that nothing on the way swallows it."""

    def __init__(self, number: int) -> None:
        self.number = number


def build_parser() -> argparse.ArgumentParser:
    """The command line. Flags that a resumed run must not change have no default here."""
    parser = argparse.ArgumentParser(
        prog="attn-discover",
        description="Find the recurring kinds of attention in the fingerprints of the last hours, and publish them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--db", type=Path, default=Path("data/fingerprints.db"), metavar="PATH",
        help="SQLite database with fingerprints (default: %(default)s)")  # fmt: skip
    add("--output", type=Path, default=Path("data/discovery_outputs"), metavar="PATH",
        help="output directory; the sidecar's --discovery-dir (default: %(default)s)")  # fmt: skip
    add("--hours", type=_positive(float), metavar="N", help="time window in hours, up to now (default: 24)")
    add("--min-cluster-size", type=_at_least(2), metavar="N", help="fewest rows that make a cluster (default: 20)")
    add("--umap-sample-size", type=_at_least(50), metavar="N",
        help="rows that map and clusters are fitted on; time and memory grow with it (default: 50000)")  # fmt: skip
    add("--batch-size", type=_at_least(1), metavar="N",
        help="rows placed at a time outside the sample, and the step of a checkpoint (default: 20000)")  # fmt: skip
    add("--seed", type=_at_least(0), metavar="N", help="same rows and seed, same result (default: 0)")
    add("--long-running", action="store_true",
        help="keep a checkpoint under OUTPUT/.checkpoints/RUN_ID, so that Ctrl+C loses nothing")  # fmt: skip
    add("--resume", metavar="RUN_ID",
        help="go on with a --long-running run that was stopped; its parameters and window hold")  # fmt: skip
    add("--websocket-port", type=_at_least(0), metavar="N",
        help="serve progress as JSON on ws://127.0.0.1:N (0: any free port, printed)")  # fmt: skip
    add("--max-memory-gb", type=_positive(float), metavar="G",
        help="stay within G * 10^9 bytes: batches (and a sample not given) are planned so; stopped above")  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. Ctrl+C and SIGTERM end the process, saved, with 130 and 143."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["calibrate"]:
        from attn_assets.calibration.command import main as calibrate

        return calibrate(arguments[1:])
    args = build_parser().parse_args(arguments)
    try:
        _refuse_on_resume(args)
        return _discover(args)
    except (SettingsError, StoreError) as error:
        print(f"attn-discover: {error}", file=sys.stderr)
        return EXIT_EMPTY if type(error).__name__ == "NoFingerprints" else EXIT_USAGE
    except AttnError as error:
        print(f"attn-discover: {error}", file=sys.stderr)
        return EXIT_FAILED


def _discover(args: argparse.Namespace) -> int:
    # Imported here and not above: Dagster and SciPy take seconds, and --help should not.
    from attn_assets.memory import MemoryExceeded
    from attn_assets.progress import LiveProgress
    from attn_assets.progress_socket import ProgressSocket

    state, checkpoint, finished = _prepare(args)
    if finished:
        print(f"run {state.run_id} is published already: {args.output / state.run_id}")
        return 0
    socket = None
    if args.websocket_port is not None:
        socket = ProgressSocket(args.websocket_port)
        socket.start()
        print(f"progress on ws://127.0.0.1:{socket.port}", file=sys.stderr, flush=True)
    progress = LiveProgress(state.run_id, listener=socket.tell if socket else None)
    print(f"run {state.run_id}", flush=True)
    try:
        _try_record(args.db, state, "running")
        return _run_until_stopped(args, state, checkpoint, progress)
    except MemoryExceeded as error:
        # Its thread still works, and goes on taking memory: only leaving ends that.
        progress.forbid_publishing()
        _fail(args, state, checkpoint, progress, error)
        print(f"attn-discover: {error}", file=sys.stderr, flush=True)
        _leave(args, state, socket, EXIT_FAILED)
        raise
    except AttnError as error:
        _fail(args, state, checkpoint, progress, error)
        raise
    except _Stopped as stopped:
        _stop(stopped.number, args, state, checkpoint, progress, socket)
        raise
    finally:
        if socket is not None:
            socket.close()


def _prepare(args: argparse.Namespace) -> tuple[RunState, Checkpoint | None, bool]:
    from attn_assets.checkpoint import Checkpoint
    from attn_assets.defs.in_process import Request, begin, discard
    from attn_assets.memory import fit_sizes

    if args.resume is not None:
        checkpoint = Checkpoint(args.output, args.resume)
        state = checkpoint.load()
        if not args.db.exists():
            raise SettingsError(f"--db {args.db} does not exist: name the database that the run was started with")
        if args.max_memory_gb is not None:
            state = replace(state, max_memory_gb=args.max_memory_gb)
        print(f"resuming {state.run_id}: {state.status}", file=sys.stderr)
        return state, checkpoint, state.status == "published"
    chosen = {
        name: default if getattr(args, name) is None else getattr(args, name) for name, default in _DEFAULTS.items()
    }
    state, num_rows = begin(args.db, args.output, Request(**chosen))
    print(f"{num_rows:,} fingerprints in the last {state.hours:g} hours", file=sys.stderr)
    if args.max_memory_gb is not None:
        try:
            sizes = fit_sizes(
                num_rows=num_rows, umap_sample_size=state.umap_sample_size, batch_size=state.batch_size,
                max_memory_gb=args.max_memory_gb, sample_is_fixed=args.umap_sample_size is not None,
            )  # fmt: skip
        except SettingsError:
            discard(args.output, state.run_id)
            raise
        state = replace(
            state, umap_sample_size=sizes.umap_sample_size, batch_size=sizes.batch_size,
            max_memory_gb=args.max_memory_gb,
        )  # fmt: skip
        fitted = (
            f"; sample {sizes.umap_sample_size:,} rows, batch {sizes.batch_size:,}, to fit" if sizes.reduced else ""
        )
        expected = f"about {sizes.expected_bytes / 1e9:.1f} GB expected of {args.max_memory_gb:g} GB"
        print(f"memory: {expected}{fitted}", file=sys.stderr)
    if not args.long_running:
        return state, None, False
    checkpoint = Checkpoint(args.output, state.run_id)
    checkpoint.save(state)
    return state, checkpoint, False


def _run_until_stopped(
    args: argparse.Namespace, state: RunState, checkpoint: Checkpoint | None, progress: LiveProgress
) -> int:
    """The work runs in a thread: a signal then stops us at once, even in the middle of a long compiled call."""
    from attn_assets.defs.in_process import run
    from attn_assets.measure import peak_bytes
    from attn_assets.memory import MemoryExceeded, MemoryWatch
    from attn_assets.summary import result_of, summary
    from attn_core.bundle import open_bundle

    failure: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            run(state, db=args.db, output=args.output, progress=progress, checkpoint=checkpoint)
        except BaseException as error:
            failure.append(error)
        finally:
            done.set()

    def too_much(error: MemoryExceeded) -> None:
        failure.append(error)
        done.set()

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        threading.Thread(target=work, name="discovery", daemon=True).start()
        if state.max_memory_gb is None:
            done.wait()
        else:
            with MemoryWatch(state.max_memory_gb, on_exceeded=too_much):
                done.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if failure:
        raise failure[0]
    if checkpoint is not None:
        checkpoint.finish(state, status="published")
    bundle = open_bundle(args.output / state.run_id)
    progress.end("published", result=result_of(bundle))
    print(summary(bundle))
    bound = f" of {state.max_memory_gb:g} GB" if state.max_memory_gb is not None else ""
    print(f"peak memory {peak_bytes() / 1e9:.2f} GB{bound}", file=sys.stderr)
    print(f"published {args.output / state.run_id}")
    return 0


def _stop(
    number: int, args: argparse.Namespace, state: RunState, checkpoint: Checkpoint | None, progress: LiveProgress,
    socket: ProgressSocket | None,
) -> None:  # fmt: skip
    """Say how to go on, and leave at once: what is finished is on disk already, the piece in hand is dropped."""
    progress.forbid_publishing()
    published = (args.output / state.run_id).exists()
    if published:
        said = f"stopped, but {args.output / state.run_id} is published already."
    elif checkpoint is not None:
        line = f"attn-discover --db {args.db} --output {args.output} --resume {state.run_id}"
        said = f"stopped; what is done is saved. Go on with:\n  {line}"
    else:
        said = "stopped; nothing was published. With --long-running it could be resumed."
    if not published:
        _try_record(args.db, state, "interrupted")
    outcome = "published" if published else "interrupted"
    if checkpoint is not None:
        checkpoint.finish(state, status=outcome)
    progress.end(outcome)
    print(f"\n{said}", file=sys.stderr, flush=True)
    _leave(args, state, socket, 128 + number)


def _fail(
    args: argparse.Namespace, state: RunState, checkpoint: Checkpoint | None, progress: LiveProgress, error: AttnError
) -> None:
    """Tell everyone who may be watching that the run failed: checkpoint, socket, database, sidecar."""
    from attn_core import run_failure

    if checkpoint is not None:
        checkpoint.finish(state, status="failed")
    progress.end("failed", message=str(error))
    _try_record(args.db, state, "failed", error=str(error))
    failure = run_failure.RunFailure(
        run_id=state.run_id, stage=getattr(error, "stage", ""), reason=str(error), failed_at_us=time.time_ns() // 1000
    )
    try:
        run_failure.tell(args.output, failure)
    except OSError as refusal:
        print(f"the sidecar cannot be told: {refusal}", file=sys.stderr, flush=True)


def _leave(args: argparse.Namespace, state: RunState, socket: ProgressSocket | None, code: int) -> None:
    """End this process while its thread still works."""
    from attn_assets.defs.in_process import discard

    if socket is not None:
        socket.close()
    sys.stdout.flush()
    discard(args.output, state.run_id)
    os._exit(code)


def _record(db: Path, state: RunState, status: str, *, error: str | None = None) -> None:
    from attn_assets.publishing import record_outcome

    run = {"run_id": state.run_id, "status": status, "error": error, "started_at_us": state.started_at_us}
    record_outcome(db, run={**run, "window_start_us": state.window_start_us, "window_end_us": state.window_end_us})


def _try_record(db: Path, state: RunState, status: str, *, error: str | None = None) -> None:
    """Where the run does not depend on it: a database that cannot be written is said, and changes nothing else."""
    try:
        _record(db, state, status, error=error)
    except (StoreError, sqlite3.Error) as refusal:
        print(f"the database does not know that the run is {status}: {refusal}", file=sys.stderr, flush=True)


def _refuse_on_resume(args: argparse.Namespace) -> None:
    given = [f"--{name.replace('_', '-')}" for name in _DEFAULTS if getattr(args, name) is not None]
    if args.resume is not None and given:
        raise SettingsError(f"--resume takes the parameters of the run that was stopped: leave out {', '.join(given)}")


def _positive(kind: type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < 1e6:
            raise argparse.ArgumentTypeError(f"{text} is not between 0 and a million")
        return value

    return parse


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
