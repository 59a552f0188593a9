"""`kill_discovery`: `kill -9` of a long discovery run at random moments, then `--resume`: the same bundle each time.

Every round draws from its own seed how often (1 to 3 times) and at which moments of the run's life the process is
killed; the seed is printed, and `python -m benchmarks.kill_discovery --seed N` plays that round again. All rounds start
beside the same published run, so that at every moment there is a `latest`, and it has to be whole after each kill. The
last resumed run is left alone; its bundle's hash (SHA-256 over the names and hashes of its files) is held against that
of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from attn_core.bundle import LATEST, Bundle, open_bundle
from attn_core.errors import BundleError
from attn_core.store import HOUR_US, insert_fingerprints, open_writer
from benchmarks.captured import bootstrapped, wire_batches
from benchmarks.measure import figure_from_limit, report

ROUNDS = 20
DEFAULT_ROWS = 6_000
SIZES = ("--long-running", "--umap-sample-size", "1500", "--batch-size", "250")
_RUN = re.compile(r"^run (\S+)$")
_LONGEST_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The run that nobody disturbed."""

    db: Path
    before: Path
    """An output folder with an earlier run, copied for each round."""
    sizes: tuple[str, ...]
    files: dict[str, str]
    """SHA-256 of each file of its bundle."""
    seconds: float
    """From the moment that the run had a name to its end."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One round."""

    seed: int
    killed_at_s: tuple[float, ...]
    """Seconds into the run, or the resumed run, of each kill that found it alive."""
    checkpoint: tuple[str, ...]
    """What was finished at each of them."""
    bundle_hash: str
    differing: tuple[str, ...]
    """Files that are not as in the undisturbed run's bundle."""
    latest_was_whole: bool


def hashes_of(bundle: Bundle) -> dict[str, str]:
    """SHA-256 of each of the bundle's files."""
    return {name: said["sha256"] for name, said in sorted(bundle.manifest["files"].items())}


def bundle_hash(files: dict[str, str]) -> str:
    """SHA-256 over names and hashes."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def prepare(db: Path, folder: Path, *, sizes: Sequence[str] = SIZES) -> Reference:
    """Publish a first run of the database's rows, then the undisturbed one beside it."""
    before, after = folder / "before", folder / "undisturbed"
    _Process(db, before, sizes).wait()
    shutil.copytree(before, after, symlinks=True)
    process = _Process(db, after, sizes)
    began_s = time.monotonic()
    process.wait()
    return Reference(
        db=db, before=before, sizes=tuple(sizes), files=hashes_of(open_bundle(after / LATEST)),
        seconds=time.monotonic() - began_s,
    )  # fmt: skip


def play_round(seed: int, reference: Reference, *, folder: Path) -> Outcome:
    """One round of this seed; `folder` is made."""
    draw = np.random.default_rng(seed)
    moments = [float(share) for share in draw.uniform(0, 1, size=int(draw.integers(1, 4)))]
    shutil.copytree(reference.before, folder, symlinks=True)
    process = _Process(reference.db, folder, reference.sizes)
    killed, finished, whole = [], [], True
    for share in moments:
        at_s = share * reference.seconds
        while not process.kill_after(at_s) and not killed:
            # It was quicker than the undisturbed one: the same run anew, killed earlier.
            shutil.rmtree(folder)
            shutil.copytree(reference.before, folder, symlinks=True)
            process, at_s = _Process(reference.db, folder, reference.sizes), at_s / 2
        if process.ended_well:
            break
        killed.append(round(at_s, 2))
        finished.append(_finished(folder / ".checkpoints" / process.run_id))
        whole &= _is_whole(folder / LATEST)
        process = _Process(reference.db, folder, ["--resume", process.run_id], run_id=process.run_id)
    process.wait()
    found = open_bundle(folder / LATEST)
    files = hashes_of(found)
    differing = {name for name in files.keys() | reference.files.keys() if files.get(name) != reference.files.get(name)}
    if found.run_id != process.run_id:
        raise SystemExit(f"kill_discovery: `latest` is {found.run_id}, not {process.run_id}")
    return Outcome(
        seed=seed,
        killed_at_s=tuple(killed),
        checkpoint=tuple(finished),
        bundle_hash=bundle_hash(files),
        differing=tuple(sorted(differing)),
        latest_was_whole=whole,
    )


class _Process:
    """`attn-discover` in a process of its own, from the moment that its run has a name."""

    def __init__(self, db: Path, output: Path, arguments: Sequence[str], *, run_id: str = "") -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._log = output.with_name(f"{output.name}.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "attn_assets.cli", "--db", str(db), "--output", str(output), *arguments],
            stdout=subprocess.PIPE, stderr=self._log, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._process.stdout is not None
        self.run_id = run_id
        for line in self._process.stdout:
            named = _RUN.match(line)
            if named or "published already" in line:
                self.run_id = named[1] if named else run_id
                break
        if not self.run_id:
            raise SystemExit(f"kill_discovery: the run did not begin: {self._said()}")

    @property
    def ended_well(self) -> bool:
        return self._process.poll() == 0

    def kill_after(self, seconds: float) -> bool:
        """Whether it was alive then, and is dead now."""
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            self._log.close()
            return True
        self.wait()
        return False

    def wait(self) -> None:
        self._process.communicate(timeout=_LONGEST_S)
        if self._process.returncode:
            raise SystemExit(f"kill_discovery: run {self.run_id} failed: {self._said()}")
        self._log.close()

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:]


def _finished(checkpoint: Path) -> str:
    """Assets that are finished, and pieces of the one in hand."""
    assets = sorted(path.name for path in checkpoint.glob("assets/*") if any(path.glob("2*")))
    pieces = len(list(checkpoint.glob("pieces/*/[!.]*.npy")))
    return f"{len(assets)} assets, {pieces} pieces"


def _is_whole(latest: Path) -> bool:
    try:
        open_bundle(latest)
    except BundleError as error:
        print(f"kill_discovery: {error}", file=sys.stderr, flush=True)
        return False
    return True


def store_captured(db: Path, table: pa.Table, *, start_us: int) -> None:
    """The rows under request ids of their own, captured over the hour from `start_us` on."""
    now_us, count = time.time_ns() // 1000, table.num_rows
    at = pa.array(start_us + np.arange(count) * (HOUR_US // max(count, 1)))
    table = table.set_column(table.schema.get_field_index("captured_at_us"), "captured_at_us", at)
    with closing(open_writer(db)) as connection:
        for batch in wire_batches(table, rows_per_batch=8_192, source="kill"):
            connection.execute("BEGIN")
            insert_fingerprints(connection, batch, model_id="demo", stored_at_us=now_us)
            connection.execute("COMMIT")


def _say(outcome: Outcome) -> None:
    kills = "; ".join(f"{at} s ({done})" for at, done in zip(outcome.killed_at_s, outcome.checkpoint, strict=True))
    verdict = f"ANOTHER BUNDLE: {outcome.differing}" if outcome.differing else "same bundle"
    print(f"kill_discovery seed {outcome.seed}: killed at {kills}: {outcome.bundle_hash[:12]} {verdict}", flush=True,
          file=sys.stderr)  # fmt: skip


def play(seeds: Sequence[int], *, num_rows: int) -> list[Outcome]:
    """The rounds of these seeds, over one database of captured fingerprints."""
    with TemporaryDirectory(prefix="attn-kill-discovery-") as name:
        folder = Path(name)
        start_us = time.time_ns() // 1000 - 2 * HOUR_US
        store_captured(folder / "fingerprints.db", bootstrapped(num_rows), start_us=start_us)
        reference = prepare(folder / "fingerprints.db", folder)
        print(
            f"kill_discovery: undisturbed {bundle_hash(reference.files)[:12]} in {reference.seconds:.1f} s",
            file=sys.stderr,
        )
        outcomes = []
        for seed in seeds:
            outcomes.append(play_round(seed, reference, folder=folder / f"round-{seed}"))
            _say(outcomes[-1])
        return outcomes


def run(*, rows: int | None, as_json: bool, seeds: Sequence[int] = range(ROUNDS)) -> bool:
    """Play and report; True where every round ended in the undisturbed run's bundle. `rows`: fingerprints."""
    outcomes = play(seeds, num_rows=rows or DEFAULT_ROWS)
    kills = sum(len(one.killed_at_s) for one in outcomes)
    others = sum(bool(one.differing) for one in outcomes)
    torn = sum(not one.latest_was_whole for one in outcomes)
    name = "kill_discovery"
    figures = [
        figure_from_limit(name=name, figure="kills", value=kills, unit="kills", target="> 0", met=kills > 0),
        figure_from_limit(
            name=name, figure="rounds", value=len(outcomes), unit="rounds", target="> 0", met=bool(outcomes)
        ),
        figure_from_limit(name=name, figure="other_bundles", value=others, unit="", target="0", met=others == 0),
        figure_from_limit(name=name, figure="latest_not_whole", value=torn, unit="", target="0", met=torn == 0),
    ]
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds, seeds 0, 1, ...")
    parser.add_argument("--seed", type=int, help="only the round of this seed")
    parser.add_argument("--rows", type=int, default=DEFAULT_ROWS, help="fingerprints")
    parser.add_argument("--json", action="store_true", help="one JSON object a figure on standard output")
    asked = parser.parse_args()
    seeds = range(asked.rounds) if asked.seed is None else [asked.seed]
    sys.exit(0 if run(rows=asked.rows, as_json=asked.json, seeds=seeds) else 1)
