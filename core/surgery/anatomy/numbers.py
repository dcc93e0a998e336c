"""Layer numbers as recipes write them: ``4``, ``-1``, ``4-11``, ``0-11/2``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from surgery.errors import RecipeError

_FORM = re.compile(r"(-?\d+)(?:-(-?\d+))?(?:[/:]([1-9]\d*))?")


def layer_numbers(text: str, count: int) -> set[int]:
    """Give the layers that one entry names, of a container of some layers.

    Args:
        text: a number, a range or a range with a stride; negative numbers count from the end.
        count: how many layers the container has.

    Returns:
        Numbers from 0; those that the container does not have are in it too, negative ones that
        lie before the first layer as negative numbers.

    Raises:
        RecipeError: the text is no such entry, or its range runs backwards.
    """
    found = _FORM.fullmatch(text.strip())
    if not found:
        raise RecipeError(
            f"layers {text!r}",
            "a layer such as 4 or -1, a range such as 4-11 or 0-11/2",
            repr(text),
        )
    first, last = (_from_start(int(n), count) for n in (found[1], found[2] or found[1]))
    if last < first:
        raise RecipeError(
            f"layers {text!r}", "a range that rises", f"{first} to {last} of {count} layers"
        )
    return set(range(first, last + 1, int(found[3] or 1)))


def _from_start(number: int, count: int) -> int:
    return number + count if number < 0 else number


def ranges_text(numbers: Iterable[int]) -> str:
    """Write numbers as ranges, such as ``3-5,8``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)
