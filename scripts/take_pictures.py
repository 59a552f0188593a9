"""The README's pictures, taken from the running demo: `make demo` in one terminal, `make pictures` in another."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--enable-unsafe-swiftshader",
]


def take_live(page: Page, url: str) -> None:
    """An answer of the demo, with one of its later tokens pinned."""
    requests = httpx.get(f"{url}/requests", params={"limit": 50}).json()["requests"]
    chosen = next(one for one in requests if (one["num_output_tokens"] or 0) >= 60)
    page.goto(f"{url}/live?request={chosen['request_id']}&token=40")
    page.locator("[data-testid=token-detail]").wait_for()
    page.screenshot(path=IMAGES / "live.png")


def take_map(page: Page, url: str) -> None:
    """The published map, coloured by zone."""
    page.goto(f"{url}/map")
    page.wait_for_function("() => Number(document.querySelector('[data-testid=map]')?.dataset.drawnPoints ?? 0) > 0")
    page.screenshot(path=IMAGES / "map.png")


def main(argv: list[str] | None = None) -> int:
    """Take both pictures."""
    parser = argparse.ArgumentParser(prog="make pictures", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:9009", help="the demo's sidecar (default: %(default)s)")
    arguments = parser.parse_args(argv)
    chromium = shutil.which("chromium")
    if chromium is None:
        print("take_pictures: no chromium on the PATH: apt-get install chromium", file=sys.stderr)
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light")
        take_live(page, arguments.url)
        take_map(page, arguments.url)
        browser.close()
    for name in ("live.png", "map.png"):
        print(f"{IMAGES / name}: {(IMAGES / name).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
