"""The site builds, strictly, and needs nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs import kit

LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Loaded(HTMLParser):
    """Collect what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in LOADS and given.get("rel") != "canonical":
            self.found.append(given.get(LOADS[tag]) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    path = f"{kit.ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=kit.ROOT, env={**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    for name in kit.every_page():
        assert (site / name).with_suffix(".html").is_file(), name
    assert (site / "reference" / "surgeries.html").is_file()
    assert not list(site.rglob("*.py"))


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = [path for path in site.rglob("*.html") if path.name != "404.html"]
    assert len(pages) > 40
    for path in pages:
        loaded = Loaded()
        loaded.feed(path.read_text("utf-8"))
        assert loaded.found
        assert not [one for one in loaded.found if re.match(r"(\w+:)?//", one)], path
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text("utf-8"))


def test_options_are_found_by_the_search(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text("utf-8")
    assert "surgery launch" in index
    assert "pad_to_multiple_of" in index


def test_the_navigation_has_every_page(site: Path) -> None:
    text = (site / "index.html").read_text("utf-8")
    for name in kit.every_page():
        assert f'href="{Path(name).with_suffix(".html")}"' in text or name == "index.md", name


def test_the_links_of_the_readme_lead_somewhere() -> None:
    text = (kit.ROOT / "README.md").read_text("utf-8")
    places = [one for one in re.findall(r"\]\(([^)#]+)", text) if not one.startswith("http")]
    assert places
    assert all((kit.ROOT / one).is_file() for one in places), places


def test_pages_name_no_place_of_one_machine() -> None:
    for name in kit.every_page():
        assert not re.search(r"(?<![\w./])/(work|tmp|opt|home|root|Users)/", kit.page(name)), name
