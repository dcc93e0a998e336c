"""Render trees and tables as text: with colour on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 100_000
"""Columns where stdout is no terminal: no line is ever cut."""


def rendered(what: RenderableType) -> str:
    """Give what rich would print on stdout, as text."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else WIDTH, highlight=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get().rstrip("\n")
