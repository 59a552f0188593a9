"""Pictures of every view, taken from the running demo: `make demo` in one terminal, `make pictures` in another.

`--all FOLDER` takes each view at two sizes, light and dark, to be looked at after a change.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--enable-unsafe-swiftshader",
]
DESKTOP, PHONE = (1440, 900), (390, 844)
SCHEMES = ("light", "dark")
MAP = "[data-testid=map]"
POINTS_ARE_DRAWN = "() => Number(document.querySelector('[data-testid=map]')?.dataset.drawnPoints ?? 0) > 0"


def views(url: str) -> dict[str, tuple[str, str]]:
    """Each view's path and query on this sidecar's data, and what is there once it is drawn; Compare needs two runs."""
    requests = httpx.get(f"{url}/requests", params={"limit": 50}).json()["requests"]
    chosen = next(one for one in requests if (one["num_output_tokens"] or 0) >= 60)
    clusters = httpx.get(f"{url}/clusters").json()["clusters"]
    largest = max(clusters, key=lambda cluster: cluster["size"])["cluster_id"]
    found = {
        "live": (f"/live?request={chosen['request_id']}&token=40", "[data-testid=token-detail]"),
        "map": ("/map", MAP),
        "clusters": (f"/views/clusters?cluster={largest}", "[data-testid=cluster-detail]"),
        "timeline": ("/views/timeline", "[data-testid=hours]"),
        "runs": ("/views/runs", "[data-testid=run-detail]"),
    }
    if sum(run["available"] for run in httpx.get(f"{url}/runs").json()["runs"]) >= 2:
        found["compare"] = ("/views/compare", "[data-testid=compared]")
    return found


def take(page: Page, address: str, ready: str, path: Path) -> None:
    """One view, once it is drawn."""
    page.goto(address)
    page.locator(ready).wait_for()
    if ready == MAP:
        page.wait_for_function(POINTS_ARE_DRAWN)
    page.screenshot(path=path)


def take_each(
    browser: Browser, url: str, folder: Path, *, found: dict[str, tuple[str, str]], every_way: bool
) -> Iterator[Path]:
    """Each view for the documents, or in every size and scheme."""
    for size in (DESKTOP, PHONE) if every_way else (DESKTOP,):
        for scheme in SCHEMES if every_way else SCHEMES[:1]:
            page = browser.new_page(
                viewport={"width": size[0], "height": size[1]},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            for view, (address, ready) in found.items():
                path = folder / (f"{view}-{size[0]}-{scheme}.png" if every_way else f"{view}.png")
                take(page, f"{url}{address}", ready, path)
                yield path
            page.close()


def main(argv: list[str] | None = None) -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(prog="make pictures", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:9009", help="the demo's sidecar (default: %(default)s)")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every size and scheme, into this folder")
    parser.add_argument("views", nargs="*", help="only these views (default: all)")
    arguments = parser.parse_args(argv)
    chromium = shutil.which("chromium")
    if chromium is None:
        print("take_pictures: no chromium on the PATH: apt-get install chromium", file=sys.stderr)
        return 1
    folder: Path = arguments.all or IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    found = views(arguments.url)
    if unknown := set(arguments.views) - set(found):
        print(f"take_pictures: no view {', '.join(sorted(unknown))}; there are {', '.join(found)}", file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for path in take_each(
            browser,
            arguments.url,
            folder,
            found={name: found[name] for name in found if name in (arguments.views or found)},
            every_way=arguments.all is not None,
        ):
            print(f"{path}: {path.stat().st_size:,} bytes", flush=True)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
