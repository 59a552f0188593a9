"""The explorer in a real browser: tokens stream into Live, points lie on the Map, and the console stays silent.

The stack is the demo's. ``ATTN_E2E_URL`` names another one that runs already (its sidecar's address) and
``ATTN_E2E_MODEL_URL`` its model server; without the second it is expected to be busy by itself. ``ATTN_E2E_FAKE=1``
puts the explorer's own fake sidecar in its place, for work on the pages alone.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator

import httpx
import pytest
from explorer_stack import COLOURED_PIXELS, PATIENCE_MS, Served
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.e2e

COUNT_TOKENS = "() => Number(document.querySelector('[data-testid=answer]')?.dataset.numTokens ?? 0)"
POINTS_ARE_DRAWN = "() => Number(document.querySelector('[data-testid=map]')?.dataset.drawnPoints ?? 0) > 0"


@pytest.fixture
def question(served: Served) -> Iterator[None]:
    """An answer being written while the test runs."""
    model_url = served.model_url
    if model_url is None:
        yield
        return
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": "Count from one to thirty in words, one a line."}],
        "max_tokens": 600,
        "ignore_eos": True,
        "stream": True,
        "return_attention_tokens": True,
    }
    failures: list[str] = []
    seen_enough = threading.Event()

    def ask() -> None:
        with httpx.stream("POST", f"{model_url.rstrip('/')}/v1/chat/completions", json=body, timeout=300) as answer:
            if answer.status_code != 200:
                failures.append(f"{answer.status_code}: {answer.read()[:300]!r}")
            for _ in answer.iter_lines():
                if seen_enough.is_set():
                    return

    asking = threading.Thread(target=ask)
    asking.start()
    yield
    seen_enough.set()
    asking.join(timeout=300)
    assert failures == []


def test_tokens_appear_in_live_while_an_answer_streams(page: Page, explorer_url: str, question: None) -> None:
    page.goto(f"{explorer_url}/live")
    page.wait_for_selector("[data-testid=connection][data-phase=live]")
    page.wait_for_selector("text=running")
    page.wait_for_function(f"({COUNT_TOKENS})() >= 3")
    before = page.evaluate(COUNT_TOKENS)
    page.wait_for_function(f"({COUNT_TOKENS})() > {before} && document.body.innerText.includes('running')")
    zones = page.eval_on_selector_all("[role=option]", "options => options.map(option => option.dataset.zone)")
    assert set(zones) <= {"syntax_floor", "semantic_bridge", "structure_ripple", "long_range", "diffuse"}


def test_a_token_shows_what_it_looked_back_at(page: Page, explorer_url: str, question: None) -> None:
    page.goto(f"{explorer_url}/live")
    page.wait_for_function(f"({COUNT_TOKENS})() >= 3")
    with_top_k = httpx.get(f"{explorer_url}/requests", params={"limit": 50}).json()["requests"]
    request_id, token = next(
        (request["request_id"], token)
        for request in with_top_k
        for token in httpx.get(f"{explorer_url}/requests/{request['request_id']}").json()["tokens"]
        if token["step"] >= 2 and token["topk_positions"]
    )
    page.goto(f"{explorer_url}/live?request={request_id}&token={token['step']}")
    detail = page.locator("[data-testid=token-detail]")
    detail.wait_for()
    strongest = token["topk_positions"][token["topk_probs"].index(max(token["topk_probs"]))]
    assert detail.locator("tbody tr button").first.get_attribute("title") == f"Position {strongest}"
    assert "%" in page.locator("[data-testid=residual]").inner_text()
    attended = page.eval_on_selector_all("[data-attended]", "all => all.map(one => Number(one.dataset.pos))")
    assert attended
    assert set(attended) <= set(token["topk_positions"])


def test_the_answer_is_walked_by_keyboard_and_the_url_restores_it(
    page: Page, explorer_url: str, question: None
) -> None:
    page.goto(f"{explorer_url}/live")
    page.wait_for_function(f"({COUNT_TOKENS})() >= 4")
    page.locator("[data-testid=answer]").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("[data-testid=token-detail][data-step='2']")
    assert page.locator("[data-testid=answer]").get_attribute("aria-activedescendant") == "token-2"
    page.reload()
    page.wait_for_selector("[data-testid=token-detail][data-step='2']")
    page.locator("[data-testid=answer]").focus()
    page.keyboard.press("Escape")
    page.wait_for_selector("[data-testid=token-detail]", state="detached")


def test_points_appear_on_the_map_and_the_legend_filters_them(page: Page, explorer_url: str) -> None:
    page.goto(f"{explorer_url}/map")
    page.wait_for_function(POINTS_ARE_DRAWN)
    drawn = int(page.locator("[data-testid=map]").get_attribute("data-drawn-points") or 0)
    status = httpx.get(f"{explorer_url}/discovery/status").json()
    assert page.locator("[data-testid=run-id]").inner_text() == status["run_id"]
    page.wait_for_function(f"({COLOURED_PIXELS})() > 100")
    rows = page.locator("aside [data-testid=legend-row]").all()
    counts = [int(row.get_attribute("data-count") or 0) for row in rows]
    assert sum(counts) == drawn
    largest = max(range(len(counts)), key=counts.__getitem__)
    name = rows[largest].get_attribute("data-name")
    rows[largest].click()
    page.wait_for_function(
        f"Number(document.querySelector('[data-testid=map]').dataset.drawnPoints) === {drawn - counts[largest]}"
    )
    assert f"hide={name}" in page.url
    page.reload()
    page.wait_for_function(
        f"Number(document.querySelector('[data-testid=map]')?.dataset.drawnPoints) === {drawn - counts[largest]}"
    )


@pytest.mark.skipif(os.environ.get("ATTN_E2E_FAKE") == "1", reason="the fake sidecar has no runs to compare")
def test_every_view_opens_from_its_link_and_from_its_url(page: Page, explorer_url: str) -> None:
    ready = {
        "Live": "[data-testid=answer]",
        "Map": "[data-testid=map]",
        "Clusters": "table tbody a",
        "Timeline": "table tbody a",
        "Runs": "[data-testid=run-detail]",
        "Compare": "[data-testid=compared]",
    }
    page.goto(f"{explorer_url}/live")
    for name, selector in ready.items():
        page.locator("nav a", has_text=name).click()
        page.wait_for_selector(selector)
        assert page.locator("nav a[aria-current=page]").inner_text() == name
        page.reload()
        page.wait_for_selector(selector)
        if name == "Clusters":
            page.locator("table tbody a").first.click()
            page.wait_for_selector("[data-testid=cluster-detail]")
            assert "cluster=" in page.url


def test_the_light_and_dark_pages_fit_a_phone(browser: Browser, explorer_url: str) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
        phone = context.new_page()
        phone.set_default_timeout(PATIENCE_MS)
        for path in ("/live", "/map"):
            phone.goto(f"{explorer_url}{path}")
            phone.wait_for_selector("[role=option]" if path == "/live" else "[data-testid=map]")
            width = phone.evaluate("document.documentElement.scrollWidth")
            assert width == 390, json.dumps({"scheme": scheme, "path": path, "scroll_width": width})
        assert phone.evaluate("document.documentElement.dataset.theme") == scheme
        context.close()
