"""The HTML report in headless Chromium: what a person sees, points at, zooms, sorts and filters, and what it costs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from big_run import big_run
from playwright.sync_api import Browser, Page, sync_playwright

from affinity_tester.core.replay import judge_again
from affinity_tester.report import html as html_module
from affinity_tester.report.html import html_text
from affinity_tester.report.record import read_record
from affinity_tester.report.recorded_run import load

pytestmark = [pytest.mark.debian, pytest.mark.xdist_group("html_report")]  # its module's fixtures are made once

_CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if _CHROMIUM is None:
        pytest.skip("needs headless Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def troubles() -> Iterator[list[str]]:
    """What the console told, what failed and what was requested: nothing, at the end of each test."""
    told: list[str] = []
    yield told
    assert told == []


def opened(browser: Browser, path: Path, text: str, troubles: list[str], *, width: int = 1300) -> Page:
    """A page with the report, of which nothing but the file itself is requested."""
    path.write_text(text, encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: None if request.url == path.as_uri() else troubles.append(request.url))
    page.goto(path.as_uri())
    return page


@pytest.fixture(scope="module")
def small() -> str:
    return html_text(load(big_run(24, 60, changes=40, losses=30)))


@pytest.fixture(scope="module")
def large() -> str:
    return html_text(load(big_run(1_000, 600, changes=700, losses=3_000)))


def rows(page: Page) -> list[list[str]]:
    """The shown rows of the table of sessions."""
    found: list[list[str]] = page.eval_on_selector_all(
        "#sessions tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return found


def column(page: Page, name: str) -> list[str]:
    heads = page.eval_on_selector_all("#sessions thead th", "cells => cells.map(cell => cell.textContent)")
    at = heads.index(name)
    return [row[at] for row in rows(page)]


def number(text: str) -> float:
    return float(text.replace(",", ""))


def pixels(page: Page) -> str:
    drawn: str = page.eval_on_selector("#lanes", "canvas => canvas.toDataURL()")
    return drawn


def test_it_opens_with_the_verdict_the_timeline_and_the_table(browser, tmp_path, small, troubles):
    page = opened(browser, tmp_path / "report.html", small, troubles)
    assert page.inner_text("p.verdict") == "FAIL: 40 violations"
    assert page.is_visible("#lanes")
    assert page.locator(".uplot").count() == 3
    assert len(rows(page)) == 24
    assert [number(text) for text in column(page, "violations")] == sorted(
        (number(text) for text in column(page, "violations")), reverse=True
    )


def test_pointing_tells_what_and_when(browser, tmp_path, small, troubles):
    page = opened(browser, tmp_path / "report.html", small, troubles)
    canvas = page.locator("#lanes")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None

    said = set()
    for y in range(60, int(box["height"]) - 5, 100):
        for x in range(240, int(box["width"]), 97):
            page.mouse.move(box["x"] + x, box["y"] + y)
            if page.is_visible("#tip"):
                said.update(page.inner_text("#tip").split("\n"))
    assert any(line.startswith("affinity-tester-7c9d8b6f5-") for line in said)
    assert any(re.fullmatch(r"1 violation|(?!1 )[\d,]+ violations", line) for line in said)
    assert not any(re.fullmatch(r"(?!1 )[\d,]+ violation|1 probes lost", line) for line in said)
    assert any("probes lost" in line for line in said)
    assert any(line.startswith("p99 ") for line in said)
    assert any("x_address changed 10.240.0." in line for line in said)

    page.mouse.move(5, 5)
    assert page.is_hidden("#tip")


def test_a_range_is_zoomed_by_dragging_and_back_by_a_double_click(browser, tmp_path, small, troubles):
    page = opened(browser, tmp_path / "report.html", small, troubles)
    box = page.locator("#lanes").bounding_box()
    assert box is not None
    whole = pixels(page)

    page.mouse.move(box["x"] + 500, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 700, box["y"] + 100, steps=3)
    page.mouse.up()
    page.mouse.move(5, 5)
    near = pixels(page)
    assert near != whole

    page.locator("#lanes").dblclick(position={"x": 600, "y": 100})
    page.mouse.move(5, 5)
    assert pixels(page) == whole

    page.click("button:text-is('+')")
    page.click("button:text-is('▶')")
    page.focus("#lanes")
    page.keyboard.press("ArrowLeft")
    assert pixels(page) not in (whole, near)
    page.keyboard.press("0")
    assert pixels(page) == whole


def test_a_range_that_is_dragged_on_a_chart_is_zoomed_everywhere(browser, tmp_path, small, troubles):
    page = opened(browser, tmp_path / "report.html", small, troubles)
    whole = pixels(page)
    over = page.locator(".uplot .u-over").first
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 50, steps=3)
    page.mouse.up()
    assert pixels(page) != whole
    assert re.search(r"violations\s*\d", page.inner_text(".u-legend >> nth=0"))


def test_the_table_sorts_filters_and_turns_its_pages(browser, tmp_path, large, troubles):
    page = opened(browser, tmp_path / "report.html", large, troubles)
    assert len(rows(page)) == 100
    assert "1 to 100 of 1,000" in page.inner_text("#sessions .tools")
    first = rows(page)[0][0]

    page.click("#sessions button[title='the next rows']")
    assert "101 to 200 of 1,000" in page.inner_text("#sessions .tools")
    assert rows(page)[0][0] != first

    page.click("#sessions th >> text=session >> nth=0")
    names = column(page, "session")
    assert names == sorted(names)
    page.click("#sessions th >> text=session >> nth=0")
    names = column(page, "session")
    assert names == sorted(names, reverse=True)

    page.fill("#sessions input[type=search]", "pool1-000002")
    assert set(column(page, "node")) == {"pool1-000002"}
    assert "of 1,000 in all" in page.inner_text("#sessions .tools")
    page.fill("#sessions input[type=search]", "no such thing")
    assert rows(page) == []
    page.fill("#sessions input[type=search]", "")
    page.check("#sessions input[type=checkbox]")
    assert all(number(text) > 0 for text in column(page, "changes"))


def test_the_table_fits_a_wide_window(browser, tmp_path, large, troubles):
    page = opened(browser, tmp_path / "report.html", large, troubles)
    assert page.eval_on_selector("#sessions .wide", "box => box.scrollWidth <= box.clientWidth")


def test_an_incident_is_folded_and_its_flag_opens_it(browser, tmp_path, repo, troubles):
    events = repo / "tests" / "data" / "real" / "60-nodeport-collision.np.jsonl.gz"
    run = load(judge_again(read_record(events, on_truncated=troubles.append), lambda rules: rules))
    page = opened(browser, tmp_path / "report.html", html_text(run), troubles)
    assert page.locator("details.incident[open]").count() == 0
    assert page.locator("details.incident").count() == len(run.incidents) > 0

    canvas = page.locator("#lanes")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    for x in range(230, int(box["width"]), 4):
        page.mouse.move(box["x"] + x, box["y"] + 30)
        if "click to read" in (page.inner_text("#tip") if page.is_visible("#tip") else ""):
            page.mouse.click(box["x"] + x, box["y"] + 30)
            break
    assert page.locator("details.incident[open]").count() == 1
    assert page.locator("details.incident[open] pre").is_visible()


def test_a_link_opens_an_incident_that_is_folded_among_many(browser, tmp_path, repo, troubles, monkeypatch):
    monkeypatch.setattr(html_module, "FIRST", 0)
    events = repo / "tests" / "data" / "real" / "60-nodeport-collision.np.jsonl.gz"
    run = load(judge_again(read_record(events, on_truncated=troubles.append), lambda rules: rules))
    path = tmp_path / "report.html"
    page = opened(browser, path, html_text(run), troubles)
    first = page.locator("details.incident").first
    assert not first.is_visible()
    page.goto(f"{path.as_uri()}#{first.get_attribute('id')}")
    page.reload()
    assert first.locator("pre").is_visible()
    troubles.clear()  # with the part of the page in it, the address is another one


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(browser, tmp_path, small, troubles, scheme):
    page = opened(browser, tmp_path / "report.html", small, troubles, width=500)
    page.emulate_media(color_scheme=scheme)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 500
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]


def test_a_thousand_sessions_print_on_few_pages(browser, tmp_path, large, troubles):
    page = opened(browser, tmp_path / "report.html", large, troubles)
    printed = tmp_path / "report.pdf"
    page.pdf(path=printed, format="A4", landscape=True)
    assert 1 <= printed.read_bytes().count(b"/Type /Page\n") <= 20


def test_on_paper_the_timeline_stands_in_pieces_that_fit_a_page(browser, tmp_path, large, troubles):
    page = opened(browser, tmp_path / "report.html", large, troubles)
    whole = pixels(page)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    pieces = page.eval_on_selector_all(".printed canvas", "all => all.map(each => each.height)")
    assert sum(pieces) == page.eval_on_selector("#lanes", "canvas => canvas.height")
    assert max(pieces) <= 200
    assert page.is_hidden("#lanes")
    assert page.eval_on_selector(".uplot canvas", "canvas => canvas.offsetWidth") <= 700

    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".printed canvas").count() == 0
    assert pixels(page) == whole


def test_without_scripts_the_verdict_and_the_incidents_are_there(browser, tmp_path, small):
    path = tmp_path / "report.html"
    path.write_text(small, encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.inner_text("p.verdict") == "FAIL: 40 violations"
    assert page.is_hidden("#timeline")
    context.close()
