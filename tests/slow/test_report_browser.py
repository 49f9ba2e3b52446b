"""The report in a real browser: it fits the page, asks the network for nothing, runs no text as code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sample_run
from rubrica.reports import write_report

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = (1280, 390)

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=["plain", "hostile"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return write_report(sample_run.build(folder, hostile=request.param == "hostile"))


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in ("light", "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The report, open; on the way out nothing may have been asked for or complained about."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    yield page
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert complaints == []
    context.close()


def test_the_page_never_scrolls_sideways(page: Any) -> None:
    for opened in (False, True):
        if opened:
            page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        sizes = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert sizes[0] <= sizes[1]


def test_no_text_ran(page: Any) -> None:
    assert page.evaluate("window.pwned === undefined")


def test_labels_of_a_chart_do_not_overlap(page: Any) -> None:
    """Boxes of the texts of each visible chart, taken from the browser's own layout."""
    overlaps = page.evaluate(
        """() => {
          const found = [];
          for (const svg of document.querySelectorAll(".chart svg")) {
            if (svg.getBoundingClientRect().width === 0) continue;
            const boxes = [...svg.querySelectorAll(".role-axis text, .role-legend text")]
              .filter((t) => t.getAttribute("opacity") !== "0")
              .map((t) => [t.textContent, t.getBoundingClientRect()]);
            boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
              const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
              const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
              if (wide > 1 && high > 3) found.push(`${svg.getAttribute("aria-label")}: ${a} / ${b}`);
            }));
          }
          return found;
        }"""
    )
    assert overlaps == []


def test_charts_fit_their_column(page: Any) -> None:
    outside = page.evaluate(
        """() => [...document.querySelectorAll(".chart svg text, .ladder svg text")]
          .filter((t) => t.getBoundingClientRect().width > 0)
          .filter((t) => {
            const box = t.getBoundingClientRect();
            return box.left < -1 || box.right > document.documentElement.clientWidth + 1;
          }).map((t) => t.textContent)"""
    )
    assert outside == []


def test_a_chart_tells_its_numbers_on_touch(page: Any) -> None:
    bar = page.locator(".chart:visible .mark-rect [aria-roledescription=tip]").first
    bar.scroll_into_view_if_needed()
    bar.hover()
    told = page.locator("#tip")
    assert told.is_visible()
    assert told.text_content() == "All attacks · starter · 87.6 % (85.4–89.8) · n = 900 · wilson"
    box = told.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]


def test_all_questions_open_and_close_at_once(page: Any) -> None:
    opened = "document.querySelectorAll('#example-1 details[open]').length"
    every = page.evaluate("document.querySelectorAll('#example-1 details').length")
    assert every == 3 + 7  # principles and dimensions of the sample program
    button = page.locator("button[data-opens=example-1]")
    button.click()
    assert page.evaluate(opened) == every
    button.click()
    assert page.evaluate(opened) == 0


def test_contents_stand_beside_the_text_on_a_desktop_only(page: Any) -> None:
    beside = page.viewport_size["width"] == 1280
    assert page.locator("nav").is_visible() == beside
    if beside:
        page.locator("nav a", has_text="Cost").click()
        page.locator("nav a[aria-current=true]", has_text="Cost").wait_for()
        assert page.locator("nav").bounding_box()["y"] >= 0
