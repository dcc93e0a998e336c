"""``surgery check``: contracts and a forward on meta, before a weight is read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.recipe_options import read, recipe_options
from surgery.cli.session import Session, common

if TYPE_CHECKING:
    from surgery.anatomy.stated import Stated

_SIZE = r"[0-9]+(?:[x,][0-9]+)*"


class Sides(click.ParamType):
    """Read the size of an image: one number, or height and width."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Give height and width in pixels."""
        if not re.fullmatch(r"[1-9][0-9]*(?:x[1-9][0-9]*)?", value):
            self.fail(f"expected pixels such as 1024 or 768x1024 (height first), got {value!r}")
        height, _, width = value.partition("x")
        return int(height), int(width or height)


class Shape(click.ParamType):
    """Read an input by its shape, such as ``pixel_values=1x3x224x224:float32``."""

    name = "input"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, tuple[int, ...], str | None]:
        """Give name, shape and dtype."""
        found = re.fullmatch(rf"([^=:]+)=({_SIZE})(?::(\w+))?", value)
        if found is None:
            self.fail(f"expected NAME=SHAPE or NAME=SHAPE:DTYPE, SHAPE as 1x3x224x224, got {value!r}")
        sizes = tuple(map(int, re.split("[x,]", found[2])))
        return found[1], sizes, found[3]


@click.command()
@recipe_options
@click.option(
    "--input", "inputs", multiple=True, type=Shape(), metavar="NAME=SHAPE[:DTYPE]",
    help="An input of the forward, such as pixel_values=1x3x224x224; repeatable.",
)
@click.option(
    "--image-size", type=Sides(), metavar="SIZE",
    help="Pixels of the images, such as 1024, or 768x1024 (height first).",
)
@common
def check(
    session: Session,
    recipe: str,
    sets: tuple[str, ...],
    inputs: tuple[tuple[str, tuple[int, ...], str | None], ...],
    image_size: tuple[int, int] | None,
    **options: Any,
) -> int:
    """Check all contracts of a recipe's result and a forward; no weight is read.

    RECIPE is a file, or the name of a shipped recipe (see `surgery recipes`). The forward computes
    nothing, so it takes seconds and little memory for a model of any size. Its inputs are those of
    the recipe, `check: {inputs: {pixel_values: [1, 3, 224, 224]}}`; what is not stated is guessed.
    The exit status is 0 where nothing failed, 1 where something did.
    """
    given = read(session, recipe, sets, options["output"], options["trust_remote_code"])
    from surgery.anatomy.stated import Stated
    from surgery.flow.check import Inputs, check_recipe
    from surgery.report.check import complaint, examined_json, examined_text

    stated: dict[str, Stated] = {name: Stated(shape, dtype) for name, shape, dtype in inputs}
    found = check_recipe(given, session.registry, Inputs(stated, image_size))
    session.result(examined_json(found), examined_text(found), ok=found.ok)
    if not found.ok:
        session.complain(complaint(found))
    return 0 if found.ok else 1
