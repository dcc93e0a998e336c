"""Laws of the page: it is whole, it is harmless, and it says what is so."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from surgery.errors import OutputError
from surgery.report.html.page import page_html, write_page
from surgery.report.html.plan import plan_html
from surgery.report.html.story import Story
from tests.report.stories import HOSTILE, operated, story
from tests.report.strict import strictly


@pytest.fixture(params=["", HOSTILE], ids=["plain", "hostile"])
def told(tmp_path: Path, request: pytest.FixtureRequest) -> Story:
    return story(tmp_path, request.param)


def test_a_page_has_every_part_and_nothing_that_runs_or_is_fetched(told: Story) -> None:
    page = page_html(told)
    read = strictly(page)
    assert read.doctype == "doctype html"
    parts = ("anatomy", "plan", "proof", "training", "guards", "environment", "recipe")
    assert [name for name in read.ids() if name in parts] == list(parts)
    charts = ("Loss", "accuracy", "Gradient norm", "Update share", "Learning rate", "Memory")
    assert all(chart in read.text for chart in charts)
    assert not re.search(r"url\(|@import|https?:", page)


def test_what_strangers_wrote_is_shown_as_text(tmp_path: Path) -> None:
    page = page_html(story(tmp_path, HOSTILE))
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    text = strictly(page).text
    assert text.count("<script>document") >= 10
    assert "\\x1b[31m" in text


def test_the_policy_allows_the_style_and_nothing_else(tmp_path: Path) -> None:
    page = page_html(story(tmp_path))
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert style
    assert policy
    digest = b64encode(sha256(style[1].encode()).digest()).decode()
    assert policy[1].replace("&#39;", "'") == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert page.count("<style") == 1


def test_sites_are_marked_before_and_after_and_layers_without_are_apart(tmp_path: Path) -> None:
    text = strictly(page_html(story(tmp_path))).text
    before, _, after = text.partition("After")
    assert "up 1 lora Linear [16, 8]" in before
    assert "up 1 lora + added" not in before
    assert "1-2 x2 Block" in before
    assert "1-2 x2 Block" in after
    assert "up 1 lora added Linear [16, 8] + bias [16] 144 parameters + 48 added" in after
    assert "0 freeze" not in before


def test_the_plan_says_what_becomes_of_tensors(tmp_path: Path) -> None:
    text = strictly(page_html(story(tmp_path))).text
    assert "added layers.1-2.up.lora_default_A x2 [2, 8] float32 128 B yes" in text
    assert "now frozen head.weight [4, 8] float32 128 B no" in text
    assert "acme 1.0" in text


def test_guards_say_what_they_found(tmp_path: Path) -> None:
    text = strictly(page_html(story(tmp_path))).text
    assert "moved error moved: lora" in text
    assert "loss error found nothing" in text
    assert "ranks error not checked: one process" in text


def test_a_plan_shows_itself_in_a_notebook() -> None:
    _, operation = operated(HOSTILE)
    plan = operation.plan
    assert plan._repr_html_() == plan_html(plan)
    text = strictly(plan_html(plan)).text
    assert "lora" in text
    assert "<script>document" in text


def test_a_page_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    page, target = page_html(story(tmp_path)), tmp_path / "page.html"
    write_page(page, target)
    write_page(page + " ", target)
    assert target.read_text() == page + " "
    target.write_text("notes of mine")
    with pytest.raises(OutputError, match="--force"):
        write_page(page, target)
    assert target.read_text() == "notes of mine"
    write_page(page, target, force=True)
    assert target.read_text() == page
    for wrong in (tmp_path, tmp_path / "none" / "page.html"):
        with pytest.raises(OutputError):
            write_page(page, wrong)
    assert not list(tmp_path.glob(".*"))
