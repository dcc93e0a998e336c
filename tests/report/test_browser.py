"""The page in a real browser, opened from disk: seen, used by keyboard, and harmless."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from surgery.report.html.page import page_html
from tests.report.browser import Browser, browsing
from tests.report.stories import HOSTILE, story

pytestmark = pytest.mark.slow
LIGHT, DARK = (0xFF, 0xFF, 0xFF), (0x14, 0x17, 0x1B)
CURVE = {"light": (0x0B, 0x5C, 0xAD), "dark": (0x7D, 0xB7, 0xF5)}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "page.html"
    file.write_text(page_html(story(tmp_path, HOSTILE)), encoding="utf-8")
    return file


@pytest.fixture
def browser(page: Path, tmp_path: Path) -> Iterator[Browser]:
    with browsing(page, tmp_path / "home") as found:
        yield found


def box(browser: Browser, selector: str, number: int = 0) -> tuple[int, int, int, int]:
    """Give the place of an element on the page, in pixels."""
    found = browser.value(
        f"(() => {{ const r = document.querySelectorAll({selector!r})[{number}]"
        ".getBoundingClientRect(); return [r.left + scrollX, r.top + scrollY,"
        " r.right + scrollX, r.bottom + scrollY].map(Math.round) })()"
    )
    assert found[2] > found[0]
    assert found[3] >= found[1]
    return tuple(found)


def colours(picture: Image.Image) -> dict[tuple[int, int, int], int]:
    """Count the pixels of each colour."""
    found = picture.getcolors(picture.width * picture.height) or []
    return {colour: count for count, colour in found}  # type: ignore[misc]


def near(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    """Count the pixels of about a colour."""
    return sum(
        count
        for found, count in colours(picture).items()
        if max(abs(a - b) for a, b in zip(found, colour, strict=True)) <= 12
    )


@pytest.mark.parametrize(("theme", "paper"), [("light", LIGHT), ("dark", DARK)])
def test_a_screenshot_shows_text_trees_marks_and_curves(
    browser: Browser, theme: str, paper: tuple[int, int, int]
) -> None:
    browser.theme(theme)
    picture = browser.picture()
    assert picture.getpixel((2, 2)) == paper
    assert near(picture, paper) > 0.2 * picture.width * picture.height
    for selector in ("h1", "#before .tree", "#after mark.added", "#plan table", ".passed", "pre"):
        part = picture.crop(box(browser, selector))
        assert len(colours(part)) > 8, f"{selector} is blank"
    assert browser.value("document.querySelectorAll('polyline.c0').length") >= 6
    for number in range(browser.value("document.querySelectorAll('polyline.c0').length")):
        left, top, right, bottom = box(browser, "polyline.c0", number)
        part = picture.crop((left - 2, top - 2, right + 2, bottom + 2))
        assert near(part, CURVE[theme]) > 100, f"curve {number} is not seen"
    if os.environ.get("SURGERY_SCREENSHOTS"):
        picture.save(Path(os.environ["SURGERY_SCREENSHOTS"]) / f"report-{theme}.png")


def test_nothing_is_asked_of_any_network_and_no_script_runs(browser: Browser, page: Path) -> None:
    asked = [e["params"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert {one["request"]["url"] for one in asked} == {page.resolve().as_uri()}
    refused = [
        e for e in browser.events if e.get("method") in ("Log.entryAdded", "Audits.issueAdded")
    ]
    assert refused == []
    assert browser.value("document.title").endswith("surgery report")
    assert browser.value("document.scripts.length") == 0
    assert browser.value("document.images.length") == 0


def test_the_policy_stops_a_script_that_were_there(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    inserted = "<script>document.title='owned'</script><p id=p style='color: rgb(1, 2, 3)'>x</p>"
    inserted += "<img src=x.png onerror=\"document.title='owned'\">"
    file.write_text(page_html(story(tmp_path)).replace("</main>", f"{inserted}</main>"))
    with browsing(file, tmp_path / "home") as browser:
        assert browser.value("document.title").endswith("surgery report")
        assert (
            browser.value("getComputedStyle(document.getElementById('p')).color") != "rgb(1, 2, 3)"
        )
        refused = [e for e in browser.events if e.get("method") == "Audits.issueAdded"]
        assert len(refused) >= 3


def test_the_style_holds_under_its_own_policy(browser: Browser) -> None:
    assert browser.value("getComputedStyle(document.body).marginTop") == "0px"


def test_a_keyboard_is_enough(browser: Browser) -> None:
    focused = "document.activeElement"
    browser.press("Tab", 9)
    assert browser.value(f"{focused}.className") == "skip"
    assert browser.value(f"{focused}.getBoundingClientRect().left >= 0")
    for _ in range(40):
        browser.press("Tab", 9)
        if browser.value(f"{focused}.tagName") == "SUMMARY":
            break
    unfolded = browser.value(f"{focused}.parentElement.open")
    assert browser.value(f"getComputedStyle({focused}).outlineStyle") == "solid"
    browser.press("Enter", 13, "\r")
    assert browser.value(f"{focused}.parentElement.open") is not unfolded
    browser.press(" ", 32, " ")
    assert browser.value(f"{focused}.parentElement.open") is unfolded


def test_a_narrow_window_needs_no_sideways_scrolling(page: Path, tmp_path: Path) -> None:
    with browsing(page, tmp_path / "home", width=500) as browser:
        wide, seen = browser.value("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen
