"""Find the files that options of a recipe name: samples to train on, adapters, lists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from surgery.recipe.recipe import Recipe


def named_files(recipe: Recipe) -> dict[str, dict[str, Path]]:
    """Give the files that a recipe names beside its base.

    An option names files where its text is a path of one, of a folder, or a glob of some. In data
    sets every such text counts; elsewhere only one with a slash or a dot in it, since a folder
    may have the name of any option. What those files name in turn is not looked at.

    Args:
        recipe: the recipe.

    Returns:
        By the place of the option, such as ``train.data[0].path``: the files, by their names in
        the folder that holds them all.
    """
    found = {}
    for place, options, always in _options(recipe):
        for at, text in _texts(options.model_dump(mode="json"), place):
            if always or "/" in text or "." in text:
                found[at] = _files(text)
    return {at: files for at, files in sorted(found.items()) if files}


def _options(recipe: Recipe) -> Iterator[tuple[str, BaseModel, bool]]:
    """Give what has options: its place, itself, and whether all its texts may be paths."""
    for number, step in enumerate(recipe.steps):
        yield f"surgeries[{number}].with", step.surgery, False
    if recipe.patient is not None and not recipe.patient.weights():
        yield "patient", recipe.patient, False
    if recipe.train is not None:
        yield "train.objective", recipe.train.objective, False
        for number, one in enumerate(recipe.train.data):
            yield f"train.data[{number}]", one, True
        if recipe.train.evaluation is not None:
            yield "train.evaluation", recipe.train.evaluation, True


def _texts(value: Any, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _texts(one, f"{at}.{key}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _texts(one, f"{at}[{number}]")
    elif isinstance(value, str) and 0 < len(value) < 4096 and "\0" not in value:
        yield at, value


def _files(text: str) -> dict[str, Path]:
    """Give the files that a text names, by their names in the folder that holds them."""
    path = Path(text).expanduser()
    try:
        if path.is_file():
            return {path.name: path}
        if path.is_dir():
            inside = (Path(root, name) for root, _, names in os.walk(path) for name in names)
            return {p.relative_to(path).as_posix(): p for p in sorted(inside) if p.is_file()}
        matching = glob(str(path)) if has_magic(text) else []
    except (OSError, ValueError):
        return {}
    files = sorted(Path(one) for one in matching if Path(one).is_file())
    top = os.path.commonpath([file.parent for file in files]) if files else ""
    return {file.relative_to(top).as_posix(): file for file in files}
