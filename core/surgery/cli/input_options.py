"""What ``check`` and ``diagnose`` share: inputs of a forward, stated by shape."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from surgery.flow.check import Inputs

    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType

_SIZE = r"[0-9]+(?:[x,][0-9]+)*"


class Sides(_Type):
    """Read the size of an image: one number, or height and width."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Give height and width in pixels."""
        if not re.fullmatch(r"[1-9][0-9]*(?:x[1-9][0-9]*)?", value):
            self.fail(f"expected pixels such as 1024 or 768x1024 (height first), got {value!r}")
        height, _, width = value.partition("x")
        return int(height), int(width or height)


class Shape(_Type):
    """Read an input by its shape, such as ``pixel_values=1x3x224x224:float32``."""

    name = "input"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, tuple[int, ...], str | None]:
        """Give name, shape and dtype."""
        found = re.fullmatch(rf"([^=:]+)=({_SIZE})(?::(\w+))?", value)
        if found is None:
            self.fail(
                f"expected NAME=SHAPE or NAME=SHAPE:DTYPE, SHAPE as 1x3x224x224, got {value!r}"
            )
        sizes = tuple(map(int, re.split("[x,]", found[2])))
        return found[1], sizes, found[3]


_OPTIONS = (
    click.option(
        "--input",
        "inputs",
        multiple=True,
        type=Shape(),
        metavar="NAME=SHAPE[:DTYPE]",
        help="An input of the forward, such as pixel_values=1x3x224x224; repeatable.",
    ),
    click.option(
        "--image-size",
        type=Sides(),
        metavar="SIZE",
        help="Pixels of the images, such as 1024, or 768x1024 (height first).",
    ),
)


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--input`` and ``--image-size``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def inputs_of(
    inputs: Sequence[tuple[str, tuple[int, ...], str | None]], image_size: tuple[int, int] | None
) -> Inputs:
    """Give what the options state.

    Raises:
        RecipeError: an input is stated twice.
    """
    from surgery.anatomy.stated import Stated
    from surgery.errors import RecipeError
    from surgery.flow.check import Inputs

    for name, count in Counter(name for name, _, _ in inputs).items():
        if count > 1:
            raise RecipeError(f"--input {name}", "one shape", f"{count} of them")
    return Inputs({name: Stated(shape, dtype) for name, shape, dtype in inputs}, image_size)
