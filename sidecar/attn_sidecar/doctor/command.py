"""The sub-command: the sidecar's own flags, so that it looks at what would be started or runs already."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from attn_core.errors import SettingsError, StoreError
from attn_core.store import check_sqlite, sqlite_version
from attn_sidecar.doctor.findings import FAILED, Finding, as_json, as_text, failed, ok, warning
from attn_sidecar.doctor.model_server import check_model_server
from attn_sidecar.doctor.places import check_bundle, check_database
from attn_sidecar.doctor.ports import check_ports, token_of
from attn_sidecar.http_door.token import tokens_from
from attn_sidecar.settings import ENV_PREFIX, Settings
from attn_sidecar.store.examination import Examination

PACKAGES = {"fastapi": 0, "uvicorn": 0, "msgspec": 0, "prometheus-client": 0, "pyzmq": 26, "pyarrow": 17, "numpy": 2}
"""What the sidecar needs, with the least major version."""
PYTHON = (3, 11)
EARLIEST_US = 1_767_225_600_000_000
"""2026-01-01: a clock before it is not set."""
AHEAD_US = 60_000_000
_DESCRIPTION = """\
Looks at everything that the sidecar needs and says what to do where something is wrong: ports, database, published run,
clock, dangerous settings, packages and, with --model-server, the model server (it is asked for one token).
Changes nothing. Give it the flags that you give the sidecar; it may run already."""
_EPILOG = f"""\
examples:
  attn-sidecar doctor --db fingerprints.db --discovery-dir ./discovery_outputs
  attn-sidecar doctor --port 9009 --model-server http://127.0.0.1:30000
  attn-sidecar doctor --json | python -m json.tool

What is not given is taken from {ENV_PREFIX}... variables, as the sidecar does.
Exit status: 0 nothing failed (warnings do not count), 1 something failed, 2 wrong use."""


def parser() -> ArgumentParser:
    """The sub-command's arguments."""
    made = ArgumentParser(
        prog="attn-sidecar doctor",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    made.add_argument("--model-server", metavar="URL", help="also look at this SGLang server (default: not looked at)")
    same = made.add_argument_group("as given to the sidecar")
    same.add_argument("--port", type=int, metavar="N")
    same.add_argument("--host", metavar="ADDR")
    same.add_argument("--db", type=Path, metavar="PATH")
    same.add_argument("--discovery-dir", type=Path, metavar="PATH")
    same.add_argument("--zmq-bind", metavar="ADDR")
    same.add_argument("--online", action=BooleanOptionalAction)
    same.add_argument("--token-file", type=Path, metavar="PATH")
    same.add_argument("--insecure", action=BooleanOptionalAction)
    same.add_argument("--zmq-curve-secret-key", type=Path, metavar="FILE")
    same.add_argument("--zmq-curve-clients", type=Path, metavar="PATH")
    return made


def main(arguments: Sequence[str]) -> int:
    """Look, say what was found; returns the exit status."""
    flags = vars(parser().parse_args(arguments))
    as_one_object, model_server = flags.pop("json"), flags.pop("model_server")
    try:
        settings = Settings.resolve(flags=flags, environ=os.environ)
    except SettingsError as error:
        print(f"attn-sidecar doctor: {error}", file=sys.stderr)
        return 2
    findings = examine_all(settings, model_server=model_server, now_us=time.time_ns() // 1000)
    print((as_json if as_one_object else as_text)(findings))
    return 1 if any(each.verdict == FAILED for each in findings) else 0


def examine_all(settings: Settings, *, model_server: str | None, now_us: int) -> list[Finding]:
    """Every finding, from the ground up."""
    ports, running = check_ports(settings)
    database, seen = check_database(settings.db)
    served: list[Finding] = []
    model: str | None = None
    if model_server is not None:
        served, model = check_model_server(model_server, running=running, token=token_of(settings))
    return [
        *check_packages(),
        *check_settings(settings),
        *check_clock(now_us=now_us, seen=seen),
        *ports,
        *database,
        *check_bundle(settings, now_us=now_us, model=model),
        *served,
    ]


def check_packages() -> list[Finding]:
    """Python and what the sidecar imports."""
    to_do = "make the environment anew: make setup, or pip install -e '.[sidecar]'"
    has = ".".join(map(str, sys.version_info[:3]))
    wrong = [] if sys.version_info >= PYTHON else [f"Python {has}"]
    held = [f"Python {has}", f"SQLite {sqlite_version()}"]
    try:
        check_sqlite()
    except StoreError as error:
        return [failed("packages", str(error), to_do)]
    for name, least in PACKAGES.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        held.append(f"{name} {found}")
        if int(found.partition(".")[0]) < least:
            wrong.append(f"{name} {found}, needed is {least}")
    return [failed("packages", ", ".join(wrong), to_do) if wrong else ok("packages", ", ".join(held))]


def check_settings(settings: Settings) -> list[Finding]:
    """What the sidecar would refuse to start with, and what it would start with and better had not."""
    try:
        settings.check_doors()
        tokens_from(settings)
    except SettingsError as error:
        return [failed("settings.doors", str(error), "the sidecar does not start like this")]
    if settings.insecure and (settings.wide_bindings or settings.zmq_reach == "everyone"):
        to_do = "give a token and CURVE keys instead: attn-sidecar keys NEW_DIR"
        found = "--insecure: anyone who reaches this machine reads prompts and writes fingerprints"
        return [warning("settings.doors", found, to_do)]
    wide = settings.wide_bindings
    return [ok("settings.doors", f"guarded: {', '.join(wide)}" if wide else "this machine alone may come in")]


def check_clock(*, now_us: int, seen: Examination | None) -> list[Finding]:
    """Is the clock set, and has it not been set back behind what is stored?"""
    if now_us < EARLIEST_US:
        return [failed("clock.set", "the clock lies before 2026", "set it by NTP: hours and runs are named by it")]
    newest_us = seen.newest_stored_at_us if seen is not None else None
    if newest_us is not None and newest_us > now_us + AHEAD_US:
        found = f"the newest row was stored {(newest_us - now_us) / 1e6:.0f} s in the future: the clock was set back"
        return [warning("clock.set", found, "set it by NTP; rows stored meanwhile bear the wrong hour")]
    return [ok("clock.set", "not behind what is stored")]
