"""The hook that a ``conftest.py`` may implement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.operate.source import Source


def pytest_surgery_patients(folder: Path) -> Mapping[str, Source]:  # type: ignore[empty-body]
    """Give patients by name, to be held against the laws beside those of the zoo.

    Args:
        folder: an empty one, for files of theirs.
    """
