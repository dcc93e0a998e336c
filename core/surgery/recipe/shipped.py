"""The recipes that come with the package: list them, find one, copy one to edit it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import OutputError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_PACKAGE = "surgery_recipes"
_SUFFIX = ".yaml"


def shipped() -> dict[str, Traversable]:
    """Give the shipped recipes by name."""
    try:
        entries = list(files(_PACKAGE).iterdir())
    except (ModuleNotFoundError, FileNotFoundError):
        return {}
    found = {e.name.removesuffix(_SUFFIX): e for e in entries if e.name.endswith(_SUFFIX)}
    return dict(sorted(found.items()))


def find_shipped(name: str, where: str = "recipe") -> Traversable:
    """Find a shipped recipe.

    Args:
        name: its name, such as ``quickstart``.
        where: how errors name the place that asks for it.

    Raises:
        RecipeError: there is none of that name.
    """
    known = shipped()
    if name not in known:
        hint = did_you_mean(name, known)
        raise RecipeError(where, "the name of a shipped recipe", repr(name), hint)
    return known[name]


def summary(recipe: Traversable) -> str:
    """Give the first comment line of a recipe that is meant for readers."""
    lines = (line.strip() for line in recipe.read_text(encoding="utf-8").splitlines())
    comments = (line.lstrip("# ") for line in lines if line.startswith("#"))
    return next((c for c in comments if c and not c.startswith("yaml-language-server")), "")


def copy_shipped(name: str, target: Path) -> Path:
    """Copy a shipped recipe; an existing file is never overwritten.

    Args:
        name: the recipe's name.
        target: a file, or a folder that then holds ``NAME.yaml``.

    Returns:
        The file that was written.

    Raises:
        RecipeError: there is no such recipe.
        OutputError: the file exists, or cannot be written.
    """
    content = find_shipped(name).read_bytes()
    file = target / f"{name}{_SUFFIX}" if target.is_dir() else target
    try:
        with file.open("xb") as out:
            out.write(content)
    except FileExistsError:
        raise OutputError(
            str(file), "a name that is free", "an existing file", "give another name"
        ) from None
    except OSError as error:
        raise OutputError(str(file), "a file to write", error.strerror or str(error)) from None
    return file
