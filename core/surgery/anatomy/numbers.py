"""Layer numbers as recipes write them: ``4``, ``-1``, ``4-11``, ``0-11/2``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from surgery.errors import RecipeError

_FORM = re.compile(r"(-?[0-9]{1,9})(?:-(-?[0-9]{1,9}))?(?:/([1-9][0-9]{0,8}))?")


@dataclass(frozen=True, slots=True)
class LayerRange:
    """Name some layers of any container.

    Attributes:
        first: the first of them; negative numbers count from the end.
        last: the last, included, or beyond it by less than the stride.
        stride: from one to the next.
    """

    first: int
    last: int
    stride: int = 1

    def of(self, count: int) -> range:
        """Give the numbers, from 0, that are meant of a container of some layers."""
        first, last = (n + count if n < 0 else n for n in (self.first, self.last))
        return range(first, last + 1, self.stride)

    def fits(self, count: int) -> bool:
        """Tell whether a container of some layers has everything that is named."""
        first, last = (n + count if n < 0 else n for n in (self.first, self.last))
        return 0 <= first <= last < count


def layer_range(text: str, where: str = "layers") -> LayerRange:
    """Read one entry of ``layers:``.

    Args:
        text: a number, a range or a range with a stride.
        where: how errors name the place.

    Raises:
        RecipeError: the text is no such entry, or its range runs backwards.
    """
    found = _FORM.fullmatch(text.strip())
    if not found:
        wanted = "a layer such as 4 or -1, a range such as 4-11 or 0-11/2"
        raise RecipeError(where, wanted, repr(text))
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first and (first < 0) == (last < 0):
        instead = f"write {last}-{first}"
        raise RecipeError(where, "a range that rises", repr(text), instead)
    return LayerRange(first, last, int(found[3] or 1))


def ranges_text(numbers: Iterable[int]) -> str:
    """Write numbers as ranges, such as ``3-5,8``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)
