"""`kill_rounds`: `kill -9` of the sidecar, of the sender or of both, at random moments under load, again and again.

Every round draws from its own seed: how many kills (1 to 3), whom, when, and how long the dead stay away. The seed is
printed; `python -m benchmarks.kill_rounds --seed N` plays that round again. What is owed, and has to be in the database
when the last sender has ended: every batch that a sender was acknowledged for, every batch that its spool had taken
when it was killed, and everything that a sender which was not killed ever made. What a killed sender held in memory
only (younger than its `spool_after_s`, by default a second) is owed to nobody; it is counted apart, with its age.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.kill_sender import STEPS_A_REQUEST
from benchmarks.measure import Figure, figure_from_limit, report
from benchmarks.sidecar_process import free_port

ROUNDS = 100
LOAD_S = 1.5
_LONGEST_S = 90.0
_SPOOL_AFTER_S = (0.05, 0.3, 1.0)
_VICTIMS = (("sidecar",), ("sender",), ("sidecar", "sender"))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One round, counted from the ledgers and the database."""

    seed: int
    kills: str
    made: int
    """Rows in batches that any sender made."""
    owed: int
    held: int
    lost: int
    """Rows and request events owed and not in the database."""
    twice: int
    strange: int
    """Rows in the database that nobody made, or that are not as they were made."""
    unkept: int
    """Rows made, not owed and not in the database."""
    oldest_unkept_s: float
    """How long before its sender was killed the oldest such batch was made, less that sender's `spool_after_s`."""
    damaged: bool


@dataclass
class _Round:
    folder: Path
    spool_after_s: float
    address: str = field(default_factory=lambda: f"tcp://127.0.0.1:{free_port()}")
    num_senders: int = 0
    killed_at_s: dict[int, float] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def database(self) -> Path:
        return self.folder / "fingerprints.db"

    def ledger(self, number: int) -> Path:
        return self.folder / f"ledger-{number}.jsonl"

    def start(self, who: str) -> None:
        with (self.folder / f"{who}.log").open("ab") as log:
            self.processes[who] = subprocess.Popen(
                self._sidecar_command() if who == "sidecar" else self._sender_command(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def _sidecar_command(self) -> list[str]:
        return [
            sys.executable, "-m", "attn_sidecar.cli", "--port", "0", "--zmq-bind", self.address, "--db",
            str(self.database), "--discovery-dir", str(self.folder / "runs"),
        ]  # fmt: skip

    def _sender_command(self) -> list[str]:
        number, self.num_senders = self.num_senders, self.num_senders + 1
        return [
            sys.executable, "-m", "benchmarks.kill_sender", "--address", self.address, "--name", str(number),
            "--spool", str(self.folder / "spool"), "--spool-after-s", str(self.spool_after_s),
            "--ledger", str(self.ledger(number)),
        ]  # fmt: skip

    def kill(self, who: str) -> None:
        process = self.processes[who]
        process.send_signal(signal.SIGKILL)
        if who == "sender":
            self.killed_at_s[self.num_senders - 1] = time.time()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def wait_for_load(self) -> None:
        never, give_up_at = threading.Event(), time.monotonic() + _LONGEST_S
        while not self.ledger(0).exists() or b"acknowledged" not in self.ledger(0).read_bytes():
            if time.monotonic() > give_up_at:
                raise SystemExit(f"kill_rounds: nothing is acknowledged: {self.tails()}")
            never.wait(0.02)

    def finish(self) -> None:
        """Let the last sender end, then the sidecar."""
        sender = self.processes["sender"]
        sender.communicate(timeout=_LONGEST_S)
        if sender.returncode:
            raise SystemExit(f"kill_rounds: the last sender could not deliver all: {self.tails()}")
        sidecar = self.processes["sidecar"]
        sidecar.terminate()
        try:
            sidecar.communicate(timeout=_LONGEST_S)
        except subprocess.TimeoutExpired as error:
            # It leaves the stack of each of its threads in its log.
            sidecar.send_signal(signal.SIGABRT)
            sidecar.communicate()
            raise SystemExit(f"kill_rounds: the sidecar did not end within {_LONGEST_S} s: {self.tails()}") from error

    def tails(self) -> str:
        return "\n".join(log.read_text(errors="replace")[-6000:] for log in self.folder.glob("*.log"))

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.communicate()


def play_round(seed: int, *, folder: Path, load_s: float = LOAD_S) -> Outcome:
    """One round of this seed in an empty folder; exits where it cannot be brought to its end."""
    draw = np.random.default_rng(seed)
    run = _Round(folder, float(draw.choice(_SPOOL_AFTER_S)))
    kills = sorted(
        (float(draw.uniform(0, load_s)), _VICTIMS[int(draw.integers(3))], float(draw.uniform(0, 0.5)))
        for _ in range(int(draw.integers(1, 4)))
    )
    never = threading.Event()
    try:
        run.start("sidecar")
        run.start("sender")
        run.wait_for_load()
        began_s = time.monotonic()
        for after_s, victims, away_s in kills:
            never.wait(max(0.0, began_s + after_s - time.monotonic()))
            for who in victims:
                run.kill(who)
            never.wait(away_s)
            for who in victims:
                run.start(who)
        never.wait(max(0.0, began_s + load_s - time.monotonic()))
        run.finish()
    finally:
        run.end()
    told = ", ".join(f"{'+'.join(victims)} at {after_s:.2f} s" for after_s, victims, _ in kills)
    return _counted(run, seed=seed, kills=told)


def _counted(run: _Round, *, seed: int, kills: str) -> Outcome:
    made: dict[tuple[str, int], dict[str, Any]] = {}
    owed_keys: set[tuple[str, int]] = set()
    for number in range(run.num_senders):
        for line in _lines(run.ledger(number)):
            if line["what"] == "ended":
                owed_keys |= {key for key, batch in made.items() if batch["sender"] == number}
                continue
            key = (line["key"][0], line["key"][1])
            if line["what"] == "made":
                made[key] = {**line, "sender": number}
            elif line["what"] in ("acknowledged", "spooled"):
                owed_keys.add(key)
            else:
                raise SystemExit(f"kill_rounds: seed {seed}: a batch was refused: {line}")
    tokens = {key: _tokens(batch) for key, batch in made.items() if batch["kind"] == "fingerprints"}
    owed = {row for key in owed_keys for row in tokens.get(key, ())}
    with closing(sqlite3.connect(run.database)) as connection:
        rows = connection.execute("SELECT request_id, step, token_id FROM fingerprints").fetchall()
        events = set(connection.execute(_EVENTS))
        damaged = connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok"
    held = {(request_id, step) for request_id, step, _ in rows}
    owed_events = {tuple(event) for key in owed_keys if made[key]["kind"] == "requests" for event in made[key]["rows"]}
    unkept = {key: part for key, found in tokens.items() if key not in owed_keys and (part := set(found) - held)}
    ages = [run.killed_at_s[made[key]["sender"]] - made[key]["at_s"] - run.spool_after_s for key in unkept]
    everything = {row for found in tokens.values() for row in found}
    return Outcome(
        seed=seed,
        kills=kills,
        made=len(everything),
        owed=len(owed),
        held=len(held),
        lost=len(owed - held) + len(owed_events - events),
        twice=len(rows) - len(held),
        strange=len(held - everything) + sum(not _is_as_made(*row) for row in rows),
        unkept=sum(map(len, unkept.values())),
        oldest_unkept_s=max(ages, default=0.0),
        damaged=damaged,
    )


_EVENTS = """
SELECT request_id, 'started' FROM requests WHERE started_at_us IS NOT NULL
UNION ALL SELECT request_id, 'ended' FROM requests WHERE ended_at_us IS NOT NULL
"""


def _lines(path: Path) -> list[dict[str, Any]]:
    """The ledger's lines; none where the sender was killed before its first."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def _tokens(batch: dict[str, Any]) -> list[tuple[str, int]]:
    (request_id, step), count = batch["rows"]
    sender, _, number = request_id.partition("-")
    first = int(number) * STEPS_A_REQUEST + step
    return [(f"{sender}-{n // STEPS_A_REQUEST}", n % STEPS_A_REQUEST) for n in range(first, first + count)]


def _is_as_made(request_id: str, step: int, token_id: int) -> bool:
    return token_id == int(request_id.partition("-")[2]) * STEPS_A_REQUEST + step


def _say(outcome: Outcome) -> None:
    verdict = "ok" if not (outcome.lost or outcome.twice or outcome.strange or outcome.damaged) else "FAILED"
    print(
        f"kill_rounds seed {outcome.seed}: {outcome.kills}: {outcome.made} rows made, {outcome.owed} owed, "
        f"{outcome.held} held, lost {outcome.lost}, twice {outcome.twice}, strange {outcome.strange}, never kept "
        f"{outcome.unkept} (beyond the spool's delay: {outcome.oldest_unkept_s:.2f} s): {verdict}",
        file=sys.stderr,
        flush=True,
    )


def _played(seed: int) -> Outcome:
    with TemporaryDirectory(prefix="attn-kill-") as folder:
        outcome = play_round(seed, folder=Path(folder))
    _say(outcome)
    return outcome


def run(*, rows: int | None, as_json: bool) -> bool:
    """Play and report; True where nothing was lost or held twice. `rows`: rounds (default 100), seeds 0, 1, ..."""
    outcomes = [_played(seed) for seed in range(ROUNDS if rows is None else rows)]
    counts = {
        "lost": sum(one.lost for one in outcomes),
        "duplicated": sum(one.twice for one in outcomes),
        "strange": sum(one.strange for one in outcomes),
        "damaged_databases": sum(one.damaged for one in outcomes),
    }
    figures: list[Figure] = [
        figure_from_limit(
            name="kill_rounds", figure="rounds", value=len(outcomes), unit="rounds", target="> 0", met=bool(outcomes)
        ),
        figure_from_limit(
            name="kill_rounds", figure="owed", value=sum(one.owed for one in outcomes), unit="rows", target="> 0",
            met=any(one.owed for one in outcomes),
        ),
        *(
            figure_from_limit(name="kill_rounds", figure=name, value=value, unit="", target="0", met=value == 0)
            for name, value in counts.items()
        ),
        figure_from_limit(
            name="kill_rounds", figure="never_kept", value=sum(one.unkept for one in outcomes), unit="rows",
            target="younger than the spool's delay", met=max(one.oldest_unkept_s for one in outcomes) < 0.5,
        ),
    ]  # fmt: skip
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Play one round of kill_rounds again.")
    parser.add_argument("--seed", type=int, required=True)
    again = _played(parser.parse_args().seed)
    sys.exit(1 if again.lost or again.twice or again.strange or again.damaged else 0)
