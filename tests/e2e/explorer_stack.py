"""What the browser's tests share: which stack they look at, and how the browser is started."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "sidecar" / "attn_sidecar" / "static"
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # WebGL in software: without it a browser with no GPU gives no context, and the map says so.
    "--enable-unsafe-swiftshader",
]
DRIVER_NOISE = "GL Driver Message"
"""Chromium's own remark on reading software-drawn pixels back for a screenshot."""
PATIENCE_MS = 60_000
COLOURED_PIXELS = """() => {
  const map = document.querySelector('[data-testid=map]');
  const copy = Object.assign(document.createElement('canvas'), { width: map.width, height: map.height });
  const context = copy.getContext('2d', { willReadFrequently: true });
  context.drawImage(map, 0, 0);
  const { data } = context.getImageData(0, 0, map.width, map.height);
  let coloured = 0;
  for (let at = 0; at < data.length; at += 4) {
    const [r, g, b] = [data[at], data[at + 1], data[at + 2]];
    if (Math.max(r, g, b) - Math.min(r, g, b) > 40) coloured += 1;
  }
  return coloured;
}"""


@dataclass(frozen=True, kw_only=True)
class Served:
    """Where the explorer is served, and the model server to ask, if it is not busy by itself."""

    explorer_url: str
    model_url: str | None


@contextmanager
def fake_sidecar() -> Iterator[str]:
    """The explorer's fake sidecar on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "ui" / "dev" / "fake_sidecar.py"), "--port", str(port), "--points", "5000"]
    with subprocess.Popen(command) as fake:
        try:
            url = f"http://127.0.0.1:{port}"
            transport = httpx.HTTPTransport(retries=10)  # a refused connection is tried again with growing waits
            with httpx.Client(transport=transport) as client:
                client.get(f"{url}/health").raise_for_status()
            yield url
        finally:
            fake.terminate()
