"""Draw compositions of surgeries, for property tests with hypothesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.errors import MissingExtraError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Entries = Sequence[Mapping[str, Any]]
"""Steps as a recipe writes them."""


def compositions(menu: Mapping[str, Entries], most: int = 3) -> SearchStrategy[list[str]]:
    """Draw names of a menu: different ones, in any order.

    Args:
        menu: steps by name; those of one name are done together.
        most: how many names at most.

    Raises:
        MissingExtraError: hypothesis is not installed.
    """
    try:
        from hypothesis import strategies
    except ImportError:
        raise MissingExtraError("surgery.testing", "hypothesis", "dev") from None
    names = strategies.sampled_from(sorted(menu))
    return strategies.lists(names, min_size=1, max_size=most, unique=True)


def steps_of_names(menu: Mapping[str, Entries], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Give the steps of some names of a menu, in their order."""
    return [step for name in names for step in menu[name]]
