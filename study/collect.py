"""Answers of the demo's model to labelled prompts, through the real model server and the real sidecar."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from attn_assets.calibration.held_out import held_out_prompts
from attn_assets.calibration.prompts import LabelledPrompt
from attn_assets.calibration.setting import calibration_prompts
from attn_core.store import max_id, open_reader
from demo.processes import Stack, wait_until
from demo.stack import MODEL_DIR, Places, Ports, server_url, sidecar_url, start_model_server, start_sidecar, wait_for

MODEL_ID = "SmolLM2-135M-Instruct"
CONCURRENCY = 8
MAX_TOKENS = 56
LABELS = "labels.json"
QUIET_S = 5.0
Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One answered prompt."""

    request_id: str
    family: str
    zone: str
    surroundings: str
    is_held_out: bool


def prompts(*, num_per_zone: int, seed: int) -> list[tuple[LabelledPrompt, bool]]:
    """Labelled prompts, and whether each is of the wording that sets nothing."""
    setting = calibration_prompts(num_per_zone=num_per_zone, seed=seed)
    judging = held_out_prompts(num_per_zone=max(num_per_zone // 2, 1), seed=seed + 7)
    return [(one, False) for one in setting] + [(one, True) for one in judging]


def collect(folder: Path, *, num_per_zone: int, seed: int, ports: Ports, report: Report) -> None:
    """Fill `folder` with a database of tokens with sketches, and who asked what (`labels.json`)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    asked = prompts(num_per_zone=num_per_zone, seed=seed)
    places = Places(data=folder)
    stack = Stack(logs=places.logs)
    try:
        sidecar = start_sidecar(stack, ports=ports, places=places)
        server = start_model_server(stack, ports=ports, model=MODEL_DIR, arguments=("--served-model-name", MODEL_ID))
        wait_for(sidecar, url=f"{sidecar_url(ports)}/health", timeout_s=120)
        wait_for(server, url=f"{server_url(ports)}/health", timeout_s=300)
        answered = _ask(server_url(ports), asked, report=report)
        _wait_stored(places.database)
    finally:
        stack.stop()
    (folder / LABELS).write_text(json.dumps([vars(one) for one in answered]), encoding="utf-8")


def _ask(url: str, asked: Sequence[tuple[LabelledPrompt, bool]], *, report: Report) -> list[Asked]:
    done = 0

    def one(given: tuple[LabelledPrompt, bool]) -> Asked:
        nonlocal done
        prompt, is_held_out = given
        body = {
            "model": "default",
            "messages": [{"role": "user", "content": prompt.text}],
            "max_tokens": MAX_TOKENS,
            "temperature": prompt.temperature,
            "seed": 0,
        }
        request = urllib.request.Request(  # noqa: S310 - the address of the server that was just started
            f"{url}/v1/chat/completions", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as response:  # noqa: S310
            answer = json.load(response)
        done += 1
        report(done, len(asked))
        return Asked(
            request_id=str(answer["id"]),
            family=prompt.family,
            zone=prompt.zone,
            surroundings=prompt.surroundings,
            is_held_out=is_held_out,
        )

    with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="ask") as pool:
        return list(pool.map(one, asked))


def _wait_stored(db: Path) -> None:
    """Until the sidecar has stored whatever the server has sent: no new row for `QUIET_S`."""
    seen, quiet_since = -1, time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, quiet_since
        with closing(open_reader(db)) as connection:
            newest = max_id(connection)
        if newest != seen:
            seen, quiet_since = newest, time.monotonic()
        return time.monotonic() - quiet_since > QUIET_S

    wait_until(is_quiet, what="the sidecar stores what was sent", timeout_s=120)
