"""``surgery new``: start something of one's own."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.resources import files
from keyword import iskeyword
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from surgery.cli.session import Session, common
from surgery.errors import OutputError, RecipeError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_NAME = re.compile(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*")
_TAKEN = frozenset({"model-surgery", "surgery", "torch", "pytest", "pydantic", "hatchling"})


@click.group()
@common
def new(session: Session) -> None:
    """Start a plugin of your own."""


@new.command()
@click.argument("name")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@common
def plugin(session: Session, name: str, folder: Path | None) -> None:
    """Write a package with one surgery into FOLDER, by default ./NAME, which must not exist.

    It has an entry point, tests, a README and a file for continuous integration; it installs, and
    passes its own tests, as it is.
    """
    values = _values(name)
    target = folder or Path(name)
    _write(target, _rendered(values))
    session.result({"folder": str(target), "plugin": name}, str(target))
    session.remark(f"next: cd {target} && pip install -e '.[test]' && surgery plugins && pytest")


def _write(target: Path, entries: Iterable[tuple[str, str]]) -> None:
    """Write files into a new folder: all of them, or none.

    Raises:
        OutputError: something stands there, or the disk refuses.
    """
    from surgery.checkpoint.durable import settle
    from surgery.checkpoint.trouble import clear_errors

    if os.path.lexists(target):
        hint = "choose another: surgery new plugin NAME FOLDER"
        raise OutputError(str(target), "a folder that does not exist", "one that does", hint)
    with clear_errors(target, 0):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=".surgery-") as hidden:
            made = Path(hidden, "package")
            made.mkdir()
            for path, text in entries:
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                (made / path).write_text(text, "utf-8")
            settle(made)
            made.rename(target)


def _values(name: str) -> dict[str, str]:
    """Give what the templates are filled with.

    Raises:
        RecipeError: the name cannot be that of a distribution with a module of its own.
    """
    from importlib.metadata import version

    module = re.sub(r"[-_.]", "_", name)
    wanted = "a name such as 'acme-shrink': small letters, digits, hyphens"
    if not _NAME.fullmatch(name):
        instead = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")
        hint = f"write '{instead}'" if _NAME.fullmatch(instead) else ""
        raise RecipeError("NAME", wanted, f"{name!a}", hint)
    taken = name in _TAKEN or module in sys.stdlib_module_names or iskeyword(module)
    if taken:
        found = f"'{name}', whose module would hide another"
        raise RecipeError("NAME", wanted, found, f"write 'acme-{name}'")
    return {"name": name, "module": module, "version": version("model-surgery")}


def _rendered(values: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Give path and text of each file."""
    root = files("surgery.cli") / "templates" / "plugin"
    for path, file in _tree(root):
        text = file.read_text("utf-8")
        for key, value in values.items():
            text = text.replace(f"<<{key}>>", value)
        yield _placed(path, values["module"]), text


def _placed(path: str, module: str) -> str:
    """Give the path of what a template makes."""
    path = path.removesuffix(".template").replace("src/module/", f"src/{module}/")
    return f".{path}" if path.startswith("git") else path


def _tree(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    """Give every file below a folder, with its path."""
    for one in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = f"{above}{one.name}"
        if one.is_dir():
            yield from _tree(one, f"{path}/")
        else:
            yield path, one
