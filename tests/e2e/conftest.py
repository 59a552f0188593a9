"""The real stack, once a module: model server, sidecar and Dagster, with the demo's traffic sent through them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import httpx
import pytest
from explorer_stack import CHROMIUM_FLAGS, DRIVER_NOISE, PATIENCE_MS, ROOT, STATIC, Served, fake_sidecar
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from running_stack import Running, free_ports

from demo.__main__ import JOB, run
from demo.checks import require_bundle, served_run_id
from demo.discovery import Dagster
from demo.processes import Stack, wait_until
from demo.stack import Places, Ports


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Iterator[Running]:
    """The demo, run to its end and still up."""
    server, sidecar, zmq, dagster = free_ports(4)
    ports = Ports(server=server, sidecar=sidecar, zmq=zmq, dagster=dagster)
    places = Places(data=tmp_path_factory.mktemp("demo"))
    stack = Stack(logs=places.logs)
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in ("demo.__main__", "demo.stack", "demo.traffic", "demo.processes"):
            patch.setattr(f"{module}.say", lambda text: (lines.append(text), print(text, flush=True)))
        try:
            run(stack, ports=ports, places=places)
            yield Running(stack=stack, ports=ports, places=places, output="\n".join(lines))
        finally:
            stack.stop()
            keep = os.environ.get("ATTN_KEEP_LOGS")
            if keep:
                shutil.copytree(places.logs, keep, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """The stack that these tests look at."""
    if not (STATIC / "index.html").exists():
        pytest.fail(f"{STATIC.relative_to(ROOT)} holds no explorer: run `npm ci && npm run build` in ui/")
    if os.environ.get("ATTN_E2E_URL"):
        yield Served(
            explorer_url=os.environ["ATTN_E2E_URL"].rstrip("/"), model_url=os.environ.get("ATTN_E2E_MODEL_URL")
        )
    elif os.environ.get("ATTN_E2E_FAKE") == "1":
        with fake_sidecar() as url:
            yield Served(explorer_url=url, model_url=None)
    else:
        demo = request.getfixturevalue("demo")
        have_two_runs(demo)
        yield Served(explorer_url=demo.sidecar, model_url=demo.server)


def have_two_runs(running: Running) -> None:
    """A second run where the demo's tokens lay in one hour: with one run there is nothing to compare."""
    runs = httpx.get(f"{running.sidecar}/runs").raise_for_status().json()["runs"]
    if sum(run["available"] for run in runs) >= 2:
        return
    hour_us = httpx.get(f"{running.sidecar}/zones/timeline").raise_for_status().json()["hours"][0]["hour_start_us"]
    dagster, program = Dagster(running.dagster), running.program("dagster")
    dagster.wait(dagster.launch_hour(hour_us, job=JOB), program=program, timeout_s=420)
    wait_until(
        lambda: served_run_id(running.sidecar) == require_bundle(running.places.discovery).run_id,
        what="the sidecar to serve the second run",
        timeout_s=60,
        programs=[program],
    )


@pytest.fixture(scope="module")
def explorer_url(served: Served) -> str:
    """Where the explorer is served."""
    return served.explorer_url


@pytest.fixture(scope="module")
def browser(served: Served) -> Iterator[Browser]:
    """Debian's Chromium, started after the stack: Playwright keeps an event loop, and the demo runs one of its own."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("no chromium on the PATH: install Debian's package `chromium`")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, headless=True, args=CHROMIUM_FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of 1440×900 whose console must stay silent."""
    said: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and DRIVER_NOISE not in message.text:
            said.append(f"{message.type}: {message.text}")

    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.set_default_timeout(PATIENCE_MS)
    opened.on("console", listen)
    opened.on("pageerror", lambda error: said.append(f"uncaught: {error}"))
    yield opened
    opened.close()
    assert said == []
