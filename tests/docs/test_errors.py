"""Each code of an error has a page, and what the page shows does happen."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from surgery import errors
from surgery.cli import run as command_line
from tests.docs import bases, kit
from tests.docs.kit import Reader

__all__ = ["folder"]
folder = kit.folder
SHOWN = [
    "conflict", "drift", "error", "integrity", "locked", "missing-extra", "output", "patient",
    "plugin", "problems", "proof", "recipe", "refused", "selection", "training", "unexpected",
    "usage",
]  # fmt: skip
OF_THE_COMMAND_LINE = {"usage": 2, "unexpected": 1, "interrupted": command_line.INTERRUPTED}


def classes(cls: type[errors.SurgeryError] = errors.SurgeryError) -> list[type]:
    return [cls, *(found for one in cls.__subclasses__() for found in classes(one))]


def statuses() -> dict[str, int]:
    """Give the exit status of each code of this package's own errors."""
    own = (one for one in classes() if one.__module__.startswith("surgery"))
    return {one.code: one.exit_status for one in own} | OF_THE_COMMAND_LINE


def test_codes_differ() -> None:
    own = [one.code for one in classes() if one.__module__.startswith("surgery")]
    assert len(own) == len(set(own))


def test_all_errors_are_defined_in_one_module() -> None:
    names = "|".join(one.__name__ for one in classes())
    derived = re.compile(rf"^class \w+\((?:errors\.)?({names})\b", re.M)
    found = [path for top in ("core", "plugins") for path in (kit.ROOT / top).rglob("*.py")
             if derived.search(path.read_text("utf-8"))]  # fmt: skip
    assert [path.name for path in found] == ["errors.py"]


def test_the_command_line_has_no_other_codes() -> None:
    text = Path(command_line.__file__).read_text()
    assert set(re.findall(r'"code": "(\w+)"', text)) == set(OF_THE_COMMAND_LINE)


def test_each_code_has_a_page_and_a_line_in_the_list() -> None:
    pages = {path.stem for path in (kit.DOCS / "errors").glob("*.md")} - {"index"}
    assert pages == set(statuses())
    listed = re.findall(
        r"^\| \[`([\w-]+)`\]\((.+?)\) \| (.+?) \|", kit.page("errors/index.md"), re.M
    )
    assert [code for code, _, _ in listed] == sorted(pages)
    for code, target, status in listed:
        assert target == f"{code}.md"
        assert status == str(statuses()[code]) or code == "problems"


@pytest.mark.parametrize("code", sorted({*SHOWN, "interrupted"}))
def test_a_page_says_status_cause_and_cure(code: str) -> None:
    text = kit.page(f"errors/{code}.md")
    assert text.startswith(f"# {code}\n\nExit status ")
    assert f"Exit status {statuses()[code]}." in text or code == "problems"
    assert re.findall(r"^## (\w+)", text, re.M) == ["Cause", "Cure"]


@pytest.mark.parametrize("code", SHOWN)
def test_what_a_page_shows_happens(
    code: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases.base(folder)
    monkeypatch.setitem(sys.modules, "transformers", sys.modules["transformers"])
    reader = Reader()
    reader.read(f"errors/{code}.md")
    *before, (line, status) = reader.statuses
    assert status == {"problems": 2}.get(code, statuses()[code])
    assert not any(other for _, other in before)
    told = code.replace("problems", "recipe")
    assert f"[{told}]" in reader.said or code in OF_THE_COMMAND_LINE
    again = Reader(names=reader.names)
    again.run(kit.Block("bash", "", f"{line} --json"))
    assert f'"code": "{told}"' in again.said


def test_the_list_shows_what_json_says(folder: Path) -> None:
    Reader().read("errors/index.md")
