"""The page of a data map in a real browser: it draws, reads out a dot, and runs no text as code."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from test_report_browser import ARGS, CHROMIUM

from rubrica.cli import main

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}"),
]
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">{{7*7}} datum.mean"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of a map with hostile texts, ids and columns, open."""
    folder = tmp_path_factory.mktemp("map")
    rows = [
        {
            "id": f"{HOSTILE}{i}",
            "prompt": f"{HOSTILE} number {i}",
            "chosen": "willow bark " * (i % 5) + HOSTILE,
            "rejected": "root of willow",
            "reference": "willow bark and root",
            "a.b[0] <i>": HOSTILE[i % 2 :][:60],
        }
        for i in range(30)
    ]
    source = folder / "<u>in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit) as left:
        main(["map", str(source), "--scorer", "reference", "--out", str(folder / "out")])
    assert not left.value.code
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((folder / "out/map.html").as_uri())
        page.wait_for_selector("#chart svg")
        yield page
        assert [url for url in asked if not url.startswith("data:")] == [page.url]
        assert complaints == [] and "owned" not in page.title()
        chromium.close()


def dots(page: Any) -> int:
    return page.locator("#chart svg path[aria-roledescription=point]").count()


def test_every_prompt_is_a_dot_and_can_be_read(page: Any):
    assert dots(page) == 30
    page.locator("button[data-id]").first.click()
    shown = page.locator("#detail").inner_text()
    assert HOSTILE in shown and "score 0." in shown and "Suspect 1" in shown
    assert page.locator("#detail img, #detail script").count() == 0


def test_a_search_narrows_the_map(page: Any):
    page.fill("#find", "number 7")
    page.press("#find", "Enter")
    page.wait_for_function("document.getElementById('count').textContent === '1 of 30'")
    page.wait_for_function(
        "document.querySelectorAll('#chart svg path[aria-roledescription=point]').length === 1"
    )
    page.fill("#find", "")
    page.press("#find", "Enter")
    page.wait_for_function(
        "document.querySelectorAll('#chart svg path[aria-roledescription=point]').length === 30"
    )


def test_a_column_of_any_name_colours_the_map(page: Any):
    page.select_option("#colour", "a.b[0] <i>")
    page.wait_for_function("document.querySelectorAll('#chart svg .role-legend-label text').length === 2")
    colours = page.eval_on_selector_all(
        "#chart svg path[aria-roledescription=point]", "dots => dots.map((dot) => dot.getAttribute('fill'))"
    )
    assert len(set(colours)) == 2
