"""The programs of the stack: started in groups of their own, watched until ready, stopped without leaving anything."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

POLL_S = 0.25


class DemoError(Exception):
    """A step of the demo did not happen; the message says which, why and what to do."""


def say(text: str) -> None:
    """One line of progress, at once."""
    print(text, flush=True)


def require_free_port(port: int, *, flag: str, host: str = "127.0.0.1") -> None:
    """Raise `DemoError`, naming the port and the flag that changes it, where something listens on it already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DemoError(
                f"port {port} is taken ({error.strerror}): stop what listens there, "
                f'or choose another: make demo ARGS="{flag} {port + 10}"'
            ) from error


@dataclass
class Program:
    """A program of the stack, running in its own process group with its output in `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def require_alive(self) -> None:
        """Raise `DemoError` with the end of the log where the program has exited."""
        code = self.process.poll()
        if code is not None:
            raise DemoError(
                f"{self.name} stopped by itself with exit code {code}. The end of {self.log}:\n{self.tail()}"
            )

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log, indented."""
        text = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        return "\n".join(f"    {line}" for line in text)

    def stop(self, *, timeout_s: float = 20.0) -> None:
        """Ask the whole group to end, and end what has not after `timeout_s`."""
        for sign, patience_s in (
            (signal.SIGINT, timeout_s / 2),
            (signal.SIGTERM, timeout_s / 2),
            (signal.SIGKILL, 5.0),
        ):
            if not _signal_group(self.process.pid, sign):
                break
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline and _group_alive(self.process):
                time.sleep(POLL_S)
            if not _group_alive(self.process):
                break
        self.process.wait(timeout=5)

    def kill(self) -> None:
        """End the whole group at once, as a crash would."""
        _signal_group(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)


def _signal_group(group: int, sign: int) -> bool:
    try:
        os.killpg(group, sign)
    except ProcessLookupError:
        return False
    return True


def _group_alive(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reap the leader, so that a group of only a zombie counts as gone
    return _signal_group(process.pid, 0)


@dataclass
class Stack:
    """Every program started so far; stopped in the reverse order."""

    logs: Path
    programs: list[Program] = field(default_factory=list)

    def start(self, name: str, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path) -> Program:
        """Start a program with `env` added to this process's environment."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                cwd=cwd,
                start_new_session=True,
            )
        program = Program(name=name, process=process, log=log)
        self.programs.append(program)
        return program

    def stop(self) -> None:
        """Stop every program, the newest first."""
        while self.programs:
            program = self.programs.pop()
            # Nobody reading any more is no reason to leave programs behind.
            with suppress(BrokenPipeError):
                say(f"  stopping {program.name}")
            program.stop()


def wait_until(
    ready: Callable[[], bool], *, what: str, timeout_s: float, programs: Sequence[Program] = (), every_s: float = POLL_S
) -> float:
    """Wait for `ready()`, saying every 10 s that it still waits; returns the seconds it took.

    Raises `DemoError` after `timeout_s`, or as soon as one of `programs` has died.
    """
    start = time.monotonic()
    said = start
    while not ready():
        for program in programs:
            program.require_alive()
        now = time.monotonic()
        if now - start > timeout_s:
            logs = "".join(f"\nThe end of {p.log}:\n{p.tail()}" for p in programs)
            raise DemoError(f"{what}: not ready after {timeout_s:.0f} s{logs}")
        if now - said >= 10:
            said = now
            say(f"  {what}: {now - start:.0f} s ...")
        time.sleep(every_s)
    return time.monotonic() - start


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment; raises `DemoError` where setup has not made it."""
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        raise DemoError(f"{environment.name} is not there: run make setup")
    return python
