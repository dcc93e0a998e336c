"""``surgery new plugin``: all of a package, or an error and nothing."""

from __future__ import annotations

import compileall
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from surgery.cli import main

FILES = {
    ".github/workflows/test.yml", ".gitignore", "README.md", "pyproject.toml", "recipe.yaml",
    "src/acme_shrink/__init__.py", "src/acme_shrink/py.typed", "src/acme_shrink/scale.py",
    "tests/test_scale.py",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_package_is_complete_and_nothing_stands_beside_it(tmp_path: Path) -> None:
    assert main(["new", "plugin", "acme-shrink"]) == 0
    assert os.listdir() == ["acme-shrink"]
    assert files(tmp_path / "acme-shrink") == FILES
    assert compileall.compile_dir(tmp_path / "acme-shrink", quiet=1)
    texts = [path.read_text("utf-8") for path in Path("acme-shrink").rglob("*.*") if path.is_file()
             and path.suffix != ".pyc"]  # fmt: skip
    assert not any("<<" in text or ">>" in text for text in texts)
    project = Path("acme-shrink/pyproject.toml").read_text("utf-8")
    assert 'name = "acme-shrink"' in project
    assert '[project.entry-points.surgery]\nacme_shrink = "acme_shrink"' in project
    assert f"model-surgery>={version('model-surgery')}" in project
    for name in ("recipe.yaml", ".github/workflows/test.yml"):
        assert yaml.safe_load(Path("acme-shrink", name).read_text("utf-8"))


def test_another_folder_can_be_named() -> None:
    assert main(["new", "plugin", "acme.shrink", "a/b"]) == 0
    assert files(Path("a/b")) == FILES


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My Shrink", "write 'my-shrink'"),
        ("../up", "write 'up'"),
        ("1st", "write 'st'"),
        ("-", "expected a name such as 'acme-shrink'"),
        ("é", "expected a name such as 'acme-shrink'"),
        ("json", "write 'acme-json'"),
        ("class", "write 'acme-class'"),
        ("torch", "write 'acme-torch'"),
        ("model-surgery", "write 'acme-model-surgery'"),
    ],
)
def test_a_bad_name_is_refused_and_a_good_one_proposed(name: str, said: str, capsys: Any) -> None:
    assert main(["new", "plugin", "--", name]) == 2
    assert said in capsys.readouterr().err
    assert os.listdir() == []


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_what_stands_there_is_left_alone(kind: str, capsys: Any) -> None:
    target = Path("acme-shrink")
    {"file": target.touch, "folder": target.mkdir, "broken link": lambda: target.symlink_to("x")}[
        kind
    ]()
    assert main(["new", "plugin", "acme-shrink"]) == 1
    assert "a folder that does not exist" in capsys.readouterr().err
    assert os.listdir() == ["acme-shrink"]


def test_a_disk_that_refuses_leaves_nothing(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    written: list[str] = []
    write = Path.write_text

    def fails(path: Path, text: str, *more: Any) -> int:
        written.append(path.name)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        return write(path, text, *more)

    monkeypatch.setattr(Path, "write_text", fails)
    assert main(["new", "plugin", "acme-shrink"]) == 1
    assert "disk full" in capsys.readouterr().err
    assert os.listdir() == []
