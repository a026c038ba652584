"""The report in a real browser: no request, no error, charts that zoom together, both colour schemes, a phone, no scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MOMENTS = """() => [...document.querySelectorAll('#chart svg g[aria-label^="X-axis"]')].map(axis =>
    [...axis.querySelectorAll('.role-axis-label text')].map(label => parseFloat(label.textContent)))
    .filter(labels => labels.length).map(labels => Math.max(...labels))"""
LINES = "() => [...document.querySelectorAll('#chart svg g.mark-line path')].map(path => path.getAttribute('d'))"


@pytest.fixture
def tab(browser: Any, report: Path) -> Iterator[Any]:
    """The page, its charts drawn; `said` and `asked` list what the console said and what was asked of the network."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_selector("#chart svg")
    yield page
    context.close()


def last_moments(page: Any) -> list[float]:
    """The last label of every time axis that has labels: the panels' lowest, then the overview's."""
    return [float(label) for label in page.evaluate(MOMENTS)]


def wait_until_panels_end(page: Any, *, before: float = 1e9, after: float = -1) -> None:
    page.wait_for_function(
        f"(ends) => {{ const at = ({MOMENTS})()[0]; return at < ends[0] && at > ends[1]; }}", arg=[before, after]
    )


def test_the_page_asks_the_network_for_nothing_and_says_nothing(tab: Any, report: Path) -> None:
    tab.wait_for_load_state("networkidle")
    assert [url for url in tab.asked if not url.startswith("data:")] == [report.as_uri()]
    assert tab.said == []


def test_the_interactive_chart_takes_the_place_of_the_static_one(tab: Any) -> None:
    assert tab.is_visible("#chart svg")
    assert not tab.is_visible("#chart-static")


def test_a_brush_in_the_overview_zooms_all_charts_at_once(tab: Any) -> None:
    before, lines = last_moments(tab), tab.evaluate(LINES)
    assert before == [60, 60]
    tab.evaluate("() => document.querySelector('#chart').scrollIntoView({block: 'end'})")
    box = tab.query_selector("#chart svg").bounding_box()
    y = box["y"] + box["height"] - 60  # within the overview, which is the last
    tab.mouse.move(box["x"] + 150, y)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 400, y, steps=8)
    tab.mouse.up()
    wait_until_panels_end(tab, before=30)
    assert last_moments(tab)[-1] == 60, "the overview keeps the whole run"
    moved = [old != new for old, new in zip(lines, tab.evaluate(LINES), strict=True)]
    assert all(moved), "every line of every panel is drawn anew"


def test_a_button_zooms_to_a_fault_and_back_from_the_keyboard(tab: Any) -> None:
    tab.get_by_role("button", name="partition").focus()
    tab.keyboard.press("Enter")
    wait_until_panels_end(tab, before=45)
    tab.get_by_role("button", name="whole run").press("Space")
    wait_until_panels_end(tab, after=55)


def test_colours_follow_the_readers_scheme_in_text_and_charts(tab: Any) -> None:
    colours = (
        "() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        " getComputedStyle(document.querySelector('#chart svg g.mark-line path')).stroke]"
    )
    tab.emulate_media(color_scheme="light")
    light = tab.evaluate(colours)
    tab.emulate_media(color_scheme="dark")
    dark = tab.evaluate(colours)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert brightness(light[0]) > 200 > 100 > brightness(dark[0])
    assert brightness(light[1]) < 100 < 200 < brightness(dark[1])


def brightness(colour: str) -> float:
    """From `rgb(r, g, b)`, 0 to 255."""
    parts = [float(part) for part in colour.strip("rgba()").split(",")[:3]]
    return sum(parts) / 3


def test_a_phone_needs_no_sideways_scrolling(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(report.as_uri())
    page.wait_for_selector("#chart svg")
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    page.close()


def test_without_scripts_all_figures_and_static_charts_are_there(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.is_visible("#chart-static svg")
    assert page.is_visible("text=Passed:")
    assert not page.is_visible("#zoom")
    context.close()


def test_every_section_has_a_heading_and_every_table_has_headers(tab: Any) -> None:
    assert tab.evaluate("() => [...document.querySelectorAll('table')].filter(t => !t.querySelector('th')).length") == 0
    assert (
        tab.evaluate(
            "() => [...document.querySelectorAll('section[aria-labelledby]')]"
            ".filter(s => !document.getElementById(s.getAttribute('aria-labelledby'))).length"
        )
        == 0
    )
    assert tab.evaluate("() => document.querySelectorAll('h1').length") == 1


def test_charts_are_pictures_with_a_description_for_those_who_cannot_see_them(tab: Any) -> None:
    described = tab.evaluate(
        "() => [...document.querySelectorAll('[role=img]')].map(one => one.getAttribute('aria-label'))"
    )
    assert len(described) == 3
    assert all(described)
