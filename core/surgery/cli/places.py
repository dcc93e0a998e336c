"""Folders on the command line: paths of this machine, or URLs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from surgery.checkpoint.urls import folder_at, is_url

if TYPE_CHECKING:
    from surgery.checkpoint.urls import Folder


class _Place(click.ParamType):  # type: ignore[type-arg]
    """Take a path as a ``Path`` and a URL as text."""

    name = "place"

    def convert(self, value: Any, param: Any, ctx: Any) -> str | Path:
        return value if is_url(value) else Path(value)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class _Target(click.ParamType):  # type: ignore[type-arg]
    """Take where to write, absolute, or behind a URL."""

    name = "target"

    def convert(self, value: Any, param: Any, ctx: Any) -> Folder:
        return folder_at(value) if isinstance(value, str) else value  # type: ignore[no-any-return]

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


PLACE = _Place()
"""Something to read."""

TARGET = _Target()
"""A folder to write."""
