"""The colours of roles: one for each kind of part, the same on a terminal and on a page."""

from __future__ import annotations

COLOURS = {
    "layer": "bold blue",
    "attention": "cyan",
    "mlp": "magenta",
    "norm": "yellow",
    "embedding": "green",
    "patch_embed": "green",
    "head": "red",
    "resampler": "bright_green",
    "other": "bright_blue",
}
"""How a terminal shows a role, by its first word; ``other`` stands for what plugins add."""


def colour_of(role: str) -> str:
    """Give the key of ``COLOURS`` under which a role falls."""
    first = role.partition(".")[0]
    return first if first in COLOURS else "other"
