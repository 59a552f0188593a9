"""Clusters, Timeline, Runs and Compare: what they say is what the sidecar says, and each state has its way out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from explorer_stack import PATIENCE_MS, ROOT
from playwright.sync_api import Browser, Page, Route

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.environ.get("ATTN_E2E_FAKE") == "1", reason="the fake sidecar has no runs to compare"),
]

AXE = ROOT / "ui" / "node_modules" / "axe-core" / "axe.min.js"
SERIOUS = "() => axe.run().then(found => found.violations.filter(one => ['serious', 'critical'].includes(one.impact)))"
READY = {
    "/live": "[role=option]",
    "/map": "[data-testid=map]",
    "/views/clusters": "table tbody a",
    "/views/timeline": "[data-testid=hours]",
    "/views/runs": "[data-testid=run-detail]",
    "/views/compare": "[data-testid=compared]",
}


@pytest.fixture
def unsettled(browser: Browser) -> Iterator[Page]:
    """A page whose sidecar is made to fail: Chromium notes each failed answer on the console, so it may speak."""
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    opened.close()


def first_column(page: Page, label: str) -> list[str]:
    return [text.strip() for text in page.locator(f"[aria-label='{label}'] tbody th").all_inner_texts()]


@pytest.mark.parametrize("path", READY)
def test_axe_finds_nothing_serious(page: Page, explorer_url: str, path: str) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(f"{explorer_url}{path}")
        page.wait_for_selector(READY[path])
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found: list[dict[str, Any]] = page.evaluate(SERIOUS)
        said = [{"rule": one["id"], "at": [node["html"][:200] for node in one["nodes"][:3]]} for one in found]
        assert said == [], json.dumps({"scheme": scheme, "found": said}, indent=1)


@pytest.mark.parametrize("path", READY)
def test_a_phone_shows_the_whole_width(browser: Browser, explorer_url: str, path: str) -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 844})
    phone.set_default_timeout(PATIENCE_MS)
    phone.goto(f"{explorer_url}{path}")
    phone.wait_for_selector(READY[path])
    width = phone.evaluate("document.documentElement.scrollWidth")
    phone.close()
    assert width == 390


def test_clusters_are_listed_and_one_opens_by_keyboard(page: Page, explorer_url: str) -> None:
    clusters = httpx.get(f"{explorer_url}/clusters").json()["clusters"]
    by_size = sorted(clusters, key=lambda cluster: -cluster["size"])
    page.goto(f"{explorer_url}/views/clusters")
    page.wait_for_selector("table tbody a")
    assert first_column(page, "Clusters, largest first") == [cluster["cluster_label"] for cluster in by_size]
    page.locator("table tbody a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-testid=cluster-detail]")
    assert page.url.endswith(f"cluster={by_size[0]['cluster_id']}")
    page.reload()
    page.wait_for_selector("[data-testid=cluster-detail]")
    assert page.locator("[aria-label='Typical fingerprint with its spread'] tbody tr").count() == 20
    page.go_back()
    page.wait_for_selector("[data-testid=cluster-detail]", state="detached")


def test_the_timeline_has_the_hours_and_leads_to_their_maps(page: Page, explorer_url: str) -> None:
    hours = httpx.get(f"{explorer_url}/zones/timeline").json()["hours"]
    page.goto(f"{explorer_url}/views/timeline")
    page.wait_for_selector("[data-testid=hours]")
    page.get_by_role("button", name="Clusters").click()
    page.wait_for_url("**/views/timeline?by=cluster")
    page.reload()
    page.wait_for_selector("[aria-label='Shares by cluster and hour']")
    page.get_by_role("button", name="Zones").click()
    page.wait_for_selector("[aria-label='Shares by zone and hour']")
    row = page.locator("[aria-label='Shares by zone and hour'] tbody tr").first
    newest_model_hours = [hour for hour in hours if f"{hour['num_fingerprints']:,}" in row.inner_text()]
    assert newest_model_hours
    row.locator("a").click()
    page.wait_for_url("**/map?hour=*")
    assert newest_model_hours[0]["hour_utc"] in page.url


def test_drift_is_shown_or_its_absence_is(page: Page, explorer_url: str) -> None:
    online = httpx.get(f"{explorer_url}/stats").json()["online"]
    page.goto(f"{explorer_url}/views/timeline")
    panel = page.locator("[data-testid=drift]")
    panel.wait_for()
    if online is None:
        assert "--online" in panel.inner_text()
    elif online["drift"] is None:
        assert online["not_judged"] in panel.inner_text()
    else:
        assert f"{online['drift_bound']:.2f}" in panel.inner_text()


def test_runs_are_listed_and_one_is_restored_from_its_url(page: Page, explorer_url: str) -> None:
    runs = httpx.get(f"{explorer_url}/runs").json()["runs"]
    page.goto(f"{explorer_url}/views/runs")
    page.wait_for_selector("[data-testid=run-detail]")
    assert first_column(page, "Runs, newest first") == [run["run_id"] for run in runs]
    oldest = runs[-1]["run_id"]
    page.get_by_role("link", name=oldest, exact=True).click()
    page.wait_for_url(f"**/views/runs?run={oldest}")
    page.reload()
    page.wait_for_selector(f"[data-testid=run-detail] >> text={oldest}")


def test_a_comparison_says_what_the_sidecar_says(page: Page, explorer_url: str) -> None:
    runs = [run["run_id"] for run in httpx.get(f"{explorer_url}/runs").json()["runs"] if run["available"]]
    if len(runs) < 2:
        page.goto(f"{explorer_url}/views/compare")
        page.wait_for_selector("text=There are no two runs to compare")
        return
    a, b = runs[-1], runs[0]
    answer = httpx.get(f"{explorer_url}/compare", params={"a_run": a, "b_run": b}).json()
    page.goto(f"{explorer_url}/views/compare?a={a}&b={b}")
    page.wait_for_selector("[data-testid=compared]")
    assert first_column(page, "Zone shares with intervals") == [zone["zone"] for zone in answer["zones"]]
    assert first_column(page, "Features by effect") == [one["name"] for one in answer["features"]]


def refuse(status: int, problem: dict[str, str]) -> Callable[[Route], None]:
    def answer(route: Route) -> None:
        route.fulfill(status=status, content_type="application/problem+json", body=json.dumps(problem))

    return answer


@pytest.mark.parametrize(
    ("path", "asked"),
    [("clusters", "/clusters"), ("timeline", "/zones/timeline"), ("runs", "/runs?*"), ("compare", "/compare?*")],
)
def test_a_failed_answer_says_the_mend_and_is_asked_again(
    unsettled: Page, explorer_url: str, path: str, asked: str
) -> None:
    problem = {"title": "The store is locked", "detail": "for this test", "mend": "Wait for the test to end"}
    unsettled.route(f"{explorer_url}{asked}", refuse(503, problem))
    unsettled.goto(f"{explorer_url}/views/{path}")
    alert = unsettled.locator("[role=alert]")
    alert.wait_for()
    assert "The store is locked" in alert.inner_text()
    assert "Wait for the test to end" in alert.inner_text()
    unsettled.unroute(f"{explorer_url}{asked}")
    unsettled.get_by_role("button", name="Try again").click()
    unsettled.wait_for_selector(READY[f"/views/{path}"])


def test_a_sidecar_that_wants_a_token_is_given_one(unsettled: Page, explorer_url: str) -> None:
    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer opened":
            headers = {key: value for key, value in route.request.headers.items() if key != "authorization"}
            route.continue_(headers=headers)
        else:
            refuse(401, {"title": "A token is wanted"})(route)

    unsettled.route(f"{explorer_url}/runs*", guard)
    unsettled.goto(f"{explorer_url}/views/runs")
    unsettled.get_by_role("textbox", name="Token").fill("opened")
    unsettled.get_by_role("button", name="Open").click()
    unsettled.wait_for_selector("[data-testid=run-detail]")


def test_nothing_discovered_yet_says_what_to_do(unsettled: Page, explorer_url: str) -> None:
    status = json.dumps({"status": "unavailable", "what_to_do": []})
    unsettled.route("**/discovery/status", lambda route: route.fulfill(content_type="application/json", body=status))
    unsettled.goto(f"{explorer_url}/views/clusters")
    unsettled.wait_for_selector("text=discovery not available")
    assert "latest" in unsettled.locator("main").inner_text()


def test_grounding_says_what_each_sentence_attended_to(page: Page, explorer_url: str) -> None:
    listed = httpx.get(f"{explorer_url}/requests", params={"limit": 50}).json()["requests"]
    answers = (httpx.get(f"{explorer_url}/requests/{one['request_id']}").json() for one in listed)
    chosen = next(
        answer for answer in answers if answer["ended_at_us"] and (answer["grounding"] or {}).get("sentences")
    )
    page.goto(f"{explorer_url}/live?request={chosen['request_id']}")
    sentences = page.locator("[data-testid=grounding] ol > li")
    sentences.first.wait_for()
    assert sentences.count() == len(chosen["grounding"]["sentences"])
    assert "sink" in sentences.first.inner_text()
