"""The explorer over a sidecar of its own: long answers page by page, ids used again, a WebGL context that is lost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from explorer_stack import COLOURED_PIXELS, PATIENCE_MS
from playwright.sync_api import Browser, Page, Route

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests" / "sidecar"), str(ROOT / "tests" / "core")]

import sidecar_tools as tools  # noqa: E402

pytestmark = pytest.mark.e2e

TOKENS = 3000
KEEP_CONTEXTS = """
window.contexts = [];
const plain = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
  const context = plain.call(this, kind, ...rest);
  if (kind.startsWith('webgl') && context !== null && !window.contexts.includes(context)) window.contexts.push(context);
  return context;
};
"""
IS_DRAWN = "() => Number(document.querySelector('[data-testid=map]')?.dataset.drawnPoints ?? 0) > 0"
HELD = "() => Number(document.querySelector('[data-testid=answer]')?.dataset.numTokens ?? 0)"


@pytest.fixture(scope="module")
def served() -> None:
    """These tests start a sidecar of their own: the demo is not needed."""


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tools.SidecarProcess]:
    """A real sidecar with a long answer, an id that was used twice, a character of several tokens, and a run."""
    sidecar = tools.SidecarProcess(tmp_path_factory.mktemp("whole"))
    tools.publish_bundle(sidecar.discovery_dir, num_points=400)
    sidecar.client.post("/discovery/reload").raise_for_status()
    sender = tools.Sender(sidecar.zmq)
    later_us = tools.START_US + 60_000_000
    for text, at_us, count in (("first", tools.START_US, 4), ("second", later_us, 6)):
        started = tools.with_column(tools.request_row("started", request_id="same"), "at_us", [at_us])
        sender.send(tools.with_column(started, "prompt_token_texts", [[text]]), kind="requests")
        rows = tools.random_rows(count, seed=count, request_id="same", start_us=at_us + 1)
        texts = ["", "", "今", " is", " one", "."][:count]
        sender.send(tools.with_column(rows, "token_text", texts))
        ended = tools.with_column(tools.request_row("ended", request_id="same"), "at_us", [at_us + 5_000_000])
        sender.send(ended, kind="requests")
    sender.send(tools.request_row("started", request_id="long"), kind="requests")
    sender.send(tools.random_rows(TOKENS, request_id="long"))
    ended = tools.request_row("ended", request_id="long")
    sender.send(tools.with_column(ended, "num_output_tokens", [TOKENS]), kind="requests")
    sender.hear_all()
    sender.close()
    yield sidecar
    sidecar.stop()


@pytest.fixture(scope="module")
def url(sidecar: tools.SidecarProcess) -> str:
    """Where it serves the explorer."""
    return str(sidecar.http)


def test_a_long_answer_is_read_as_one_scrolls_and_says_so(page: Page, url: str) -> None:
    """It was cut after 8,192 tokens in silence."""
    page.goto(f"{url}/live?request=long")
    page.wait_for_selector(f"text=/ of {TOKENS:,} read/", timeout=PATIENCE_MS)
    before = page.evaluate(HELD)
    assert 512 <= before < TOKENS
    for _ in range(10):
        held = page.evaluate(HELD)
        if held == TOKENS:
            break
        page.evaluate("() => document.querySelector('[data-testid=missing-tokens]')?.scrollIntoView()")
        page.wait_for_function(f"() => ({HELD})() > {held}", timeout=PATIENCE_MS)
    page.wait_for_function(f"() => ({HELD})() === {TOKENS}", timeout=PATIENCE_MS)
    assert page.inner_text("[data-testid=num-tokens]") == f"{TOKENS:,}"
    assert page.query_selector("[data-testid=missing-tokens]") is None


def test_a_token_far_into_a_long_answer_is_opened_by_its_address(page: Page, url: str) -> None:
    page.goto(f"{url}/live?request=long&token=2500")
    page.wait_for_selector("[data-step='2500']", timeout=PATIENCE_MS)
    page.wait_for_function("() => document.querySelector('[data-step=\"2500\"]').ariaSelected === 'true'")
    in_view = """() => {
      const { top, bottom } = document.querySelector('[data-step="2500"]').getBoundingClientRect();
      return top > 0 && bottom < window.innerHeight;
    }"""
    page.wait_for_function(in_view, timeout=PATIENCE_MS)
    # What lies between is said, not left out.
    gaps = page.query_selector_all("[data-testid=missing-tokens]")
    assert len(gaps) >= 1
    assert page.query_selector("[data-step='1500']") is None


def test_two_answers_of_one_id_lead_to_one_another(page: Page, url: str) -> None:
    page.goto(f"{url}/live?request=same")
    page.wait_for_selector("[data-testid=same-id]", timeout=PATIENCE_MS)
    assert page.inner_text("[data-testid=num-tokens]") == "4"
    page.click("[data-testid=same-id] a")
    page.wait_for_function("() => document.querySelector('[data-testid=num-tokens]')?.textContent === '6'")
    assert "request=same%7E2" in page.url or "request=same~2" in page.url


def test_a_character_of_several_tokens_is_shown_once_and_each_token_can_be_pointed_at(page: Page, url: str) -> None:
    page.goto(f"{url}/live?request=same")
    page.wait_for_selector("[data-step='2']", timeout=PATIENCE_MS)
    answer = page.text_content("[data-testid=answer]") or ""
    assert answer.count("今") == 1
    assert "\ufffd" not in answer
    for step in (0, 1):
        part = page.query_selector(f"[data-step='{step}']")
        assert part is not None
        box = part.bounding_box()
        assert box is not None
        assert box["width"] > 2
        assert "part of a character" in (part.get_attribute("aria-label") or "")


def test_a_token_is_shown_where_it_falls_on_the_map(page: Page, url: str) -> None:
    page.goto(f"{url}/live?request=long&token=5")
    page.wait_for_selector("[data-testid=token-detail][data-step='5']", timeout=PATIENCE_MS)
    page.get_by_role("button", name="Show on the map").click()
    page.wait_for_function(IS_DRAWN, timeout=PATIENCE_MS)
    mark = page.wait_for_selector("[data-testid=place]", timeout=PATIENCE_MS)
    assert "at=" in page.url
    box, area = mark.bounding_box(), page.query_selector("[data-testid=map]").bounding_box()
    assert area["x"] <= box["x"] + box["width"] / 2 <= area["x"] + area["width"]
    assert area["y"] <= box["y"] + box["height"] / 2 <= area["y"] + area["height"]


def test_the_map_comes_back_when_its_context_is_lost(browser: Browser, url: str) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.add_init_script(KEEP_CONTEXTS)
    page.goto(f"{url}/map")
    page.wait_for_function(IS_DRAWN, timeout=PATIENCE_MS)
    page.wait_for_function(f"() => ({COLOURED_PIXELS})() > 100", timeout=PATIENCE_MS)
    for generation in (1, 2):
        # The newest that draws: one made to see whether there is WebGL at all has no extension loaded.
        page.evaluate("() => window.contexts.filter((one) => !one.isContextLost()).at(-1)"
                      ".getExtension('WEBGL_lose_context').loseContext()")  # fmt: skip
        page.wait_for_selector(f"[data-testid=map][data-generation='{generation}']", timeout=PATIENCE_MS)
        page.wait_for_function(IS_DRAWN, timeout=PATIENCE_MS)
        page.wait_for_function(f"() => ({COLOURED_PIXELS})() > 100", timeout=PATIENCE_MS)
    page.close()


def test_points_and_clusters_are_of_one_run(page: Page, url: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{url}/map?color=cluster")
    page.wait_for_function(IS_DRAWN, timeout=PATIENCE_MS)
    page.wait_for_selector("text=Cluster 3", timeout=PATIENCE_MS)
    clusters = [one for one in asked if "/clusters" in one]
    assert clusters
    assert all("run=2026-01-10T04-02-11" in one for one in clusters)


def test_a_lost_context_keeps_the_filter_and_the_colours(browser: Browser, url: str) -> None:
    # Not the fixture's page: the browser itself remarks on a lost context in the console.
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.add_init_script(KEEP_CONTEXTS)
    page.goto(f"{url}/map?color=cluster&hide=long_range")
    half = "() => document.querySelector('[data-testid=map]')?.dataset.drawnPoints === '200'"
    page.wait_for_function(half, timeout=PATIENCE_MS)
    page.evaluate("() => window.contexts.filter((one) => !one.isContextLost()).at(-1)"
                  ".getExtension('WEBGL_lose_context').loseContext()")  # fmt: skip
    page.wait_for_selector("[data-testid=map][data-generation='1']", timeout=PATIENCE_MS)
    page.wait_for_function(half, timeout=PATIENCE_MS)
    assert "color=cluster" in page.url
    assert "hide=long_range" in page.url
    page.close()


def test_a_run_that_is_swapped_between_points_and_clusters(page: Page, sidecar: tools.SidecarProcess) -> None:
    """The second run is served before the clusters are asked for: they are those of the points, then both follow."""
    answered: list[list[int]] = []

    def swap(route: Route) -> None:
        if not answered:
            tools.publish_bundle(sidecar.discovery_dir, run_id="2026-01-10T05-02-11", num_points=60, cluster_ids=(7, 9))
            sidecar.client.post("/discovery/reload").raise_for_status()
        response = route.fetch()
        answered.append([one["cluster_id"] for one in response.json()["clusters"]])
        route.fulfill(response=response)

    page.route("**/clusters?*", swap)
    page.goto(f"{sidecar.http}/map?color=cluster")
    page.wait_for_selector("text=Cluster 7", timeout=PATIENCE_MS)
    page.wait_for_function("() => document.querySelector('[data-testid=map]')?.dataset.drawnPoints === '60'")
    assert (answered[0], answered[-1]) == ([3, 5], [7, 9])
