"""The page on hooks: each hook, and the contract of what it gives."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pydantic import BaseModel

from surgery.hooks import specs

from .text import docstring

_IMPORT = re.compile(r"from (surgery\.\S+) import (\w+)")


def hooks() -> dict[str, type[Any]]:
    """Give the class that each hook's offers have, by the hook's name."""
    places = {name: place for place, name in _IMPORT.findall(inspect.getsource(specs))}
    found = {}
    for hook, function in inspect.getmembers(specs, inspect.isfunction):
        if hasattr(function, f"{specs.PROJECT}_spec"):
            (name,) = re.findall(r"(\w+)\]+$", str(function.__annotations__["return"]))
            found[hook] = getattr(import_module(places[name]), name)
    return found


def page() -> str:
    """Give the page on all hooks."""
    intro = (
        "# Hooks\n\nA hook is a function of a plugin, marked with `surgery.hookimpl`, that takes "
        "nothing and gives a sequence. [Write a plugin](../plugins.md) shows how. Methods marked "
        "*abstract* must be written, all others have a default."
    )
    return "\n\n".join([intro, *(_hook(name, cls) for name, cls in hooks().items())])


def _hook(name: str, cls: type[Any]) -> str:
    head = f"## {name}\n\n{docstring(getattr(specs, name))}"
    contract = f"**Contract**: `{cls.__module__}.{cls.__name__}`\n\n{docstring(cls)}"
    return "\n\n".join([head, contract, *(_method(key, one) for key, one in methods(cls))])


def methods(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    """Give the public methods and properties that a contract defines itself."""
    for name, value in vars(cls).items():
        public = not name.startswith("_") and not hasattr(BaseModel, name)
        if public and (inspect.isfunction(value) or isinstance(value, property)):
            yield name, value


def _method(name: str, value: Any) -> str:
    function = value.fget if isinstance(value, property) else value
    mark = " *abstract*" if getattr(function, "__isabstractmethod__", False) else ""
    shown = "" if isinstance(value, property) else _signature(function)
    return f"### `{name}{shown}`{mark}\n\n{docstring(function)}"


def _signature(function: Any) -> str:
    """Give a signature without quotes, whose types were left as text."""
    return (
        str(inspect.signature(function))
        .replace("'", "")
        .replace("(self, ", "(")
        .replace("(self)", "()")
    )
