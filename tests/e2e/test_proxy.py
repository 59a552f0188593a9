"""The explorer behind a real reverse proxy, nginx: it works below a path prefix, or says which setting is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from explorer_stack import PATIENCE_MS
from playwright.sync_api import Browser, Page
from running_stack import free_ports

pytestmark = pytest.mark.e2e

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
FORWARD_UPGRADE = """
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
"""
"""As docs/sidecar.md gives it."""
NAME_THE_HOST = "proxy_set_header X-Forwarded-Host $http_host;"
VECTOR = [0.72, 0.18, 0.10, 1.31, 0.3, 0.18, 0.14, 0.1, 0.12, 0.08, 0.05, 0.03, 2.1, 1.9, 1.7, 1.5, 1.4, 1.2, 1.1, 1.0]

ONE_FINGERPRINT = "() => document.querySelector('[data-testid=fingerprints]')?.textContent === '1'"

Start = Callable[..., str]


@pytest.fixture(scope="module")
def served() -> None:
    """These tests start sidecars of their own: the demo is not needed."""


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Start]:
    """Starts a real sidecar with these flags and one stored token; gives its address."""
    with ExitStack() as running:

        def start(*flags: str) -> str:
            command = [sys.executable, "-m", "attn_sidecar.cli", "--port", "0", "--zmq-bind", "off"]
            command += ["--db", str(tmp_path / "a.db"), "--discovery-dir", str(tmp_path / "runs")]
            process = subprocess.Popen([*command, "--log-format", "json", *flags], stderr=subprocess.PIPE, text=True)
            running.enter_context(process)
            running.callback(process.terminate)
            assert process.stderr is not None
            for line in process.stderr:
                if (event := json.loads(line))["event"] == "sidecar.ready":
                    url = str(event["http"])
                    body = {"request_id": "chatcmpl-1", "step": 0, "vector": VECTOR}
                    httpx.post(f"{url}/fingerprint", json=body).raise_for_status()
                    return url
            raise AssertionError("the sidecar did not start")

        yield start


@contextmanager
def nginx(folder: Path, location: str) -> Iterator[str]:
    """nginx with this location block; gives its address."""
    (port,) = free_ports(1)
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; pid {folder}/nginx.pid; error_log stderr;
        events {{ }}
        http {{
            access_log off;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            server {{ listen 127.0.0.1:{port}; {location} }}
        }}
        """
    )
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
            client.get(url)
        yield url
    finally:
        process.terminate()
        process.wait()


def assert_all_views_work(page: Page, url: str) -> None:
    """Loaded, live, walked through by its links, and each view loaded by its own address."""
    page.goto(url)
    page.wait_for_selector("[data-testid=connection][data-phase=live]", timeout=PATIENCE_MS)
    page.wait_for_function(ONE_FINGERPRINT, timeout=PATIENCE_MS)
    for name in ("Map", "Clusters", "Timeline", "Runs", "Compare", "Live"):
        page.get_by_role("navigation", name="Views").get_by_role("link", name=name).click()
        page.wait_for_function("name => document.title.startsWith(name)", arg=name)
        assert page.url.startswith(url)
        page.reload()
        page.wait_for_selector("[data-testid=connection][data-phase=live]", timeout=PATIENCE_MS)
        assert page.title().startswith(name)


def test_below_a_prefix_that_the_proxy_takes_off(browser: Browser, sidecar: Start, tmp_path: Path) -> None:
    location = f"location /attn/ {{ proxy_pass {sidecar()}/; {FORWARD_UPGRADE} {NAME_THE_HOST} }}"
    with nginx(tmp_path, location) as url, browser.new_context() as context:
        assert_all_views_work(context.new_page(), f"{url}/attn/")


def test_below_a_prefix_that_the_proxy_passes_on(browser: Browser, sidecar: Start, tmp_path: Path) -> None:
    up = sidecar("--root-path", "/attn")
    location = f"location /attn {{ proxy_pass {up}; {FORWARD_UPGRADE} {NAME_THE_HOST} }}"
    with nginx(tmp_path, location) as url, browser.new_context() as context:
        assert_all_views_work(context.new_page(), f"{url}/attn/")
        answer = httpx.get(f"{url}/attn", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"].endswith("/attn/")) == (307, True)
        assert httpx.get(f"{url}/attn/openapi.json").json()["servers"] == [{"url": "/attn"}]


def test_a_proxy_with_its_defaults_is_told_what_is_missing(browser: Browser, sidecar: Start, tmp_path: Path) -> None:
    """First the flag of the sidecar, then, with it, what the proxy lacks: one line each. The page works."""
    up = sidecar()
    with nginx(tmp_path, f"location / {{ proxy_pass {up}; }}") as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        refused = page.wait_for_selector("[data-testid=live-refused]", timeout=PATIENCE_MS)
        assert refused is not None
        assert f"start the sidecar with --cors-origin {url} to allow it" in refused.inner_text()
        page.wait_for_function(ONE_FINGERPRINT, timeout=PATIENCE_MS)
    allowed = f"location / {{ proxy_pass {up}; {NAME_THE_HOST} }}"
    with nginx(tmp_path, allowed) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        refused = page.wait_for_selector("[data-testid=live-refused]", timeout=PATIENCE_MS)
        assert refused is not None
        assert "Upgrade" in refused.inner_text()


def test_a_proxy_that_keeps_the_host_is_told_the_flag_on_the_page(
    browser: Browser, sidecar: Start, tmp_path: Path
) -> None:
    keeps = f"{FORWARD_UPGRADE} proxy_set_header Host explorer.example;"
    with nginx(tmp_path, f"location / {{ proxy_pass {sidecar()}; {keeps} }}") as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        assert "--allowed-host explorer.example" in page.inner_text("body")
    up = sidecar("--allowed-host", "explorer.example")
    location = f"location / {{ proxy_pass {up}; {keeps} {NAME_THE_HOST} }}"
    with nginx(tmp_path, location) as url, browser.new_context() as context:
        assert_all_views_work(context.new_page(), f"{url}/")
