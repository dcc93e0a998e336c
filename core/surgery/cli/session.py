"""What all commands have in common: their shared options, and how they print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.report.text import clean

if TYPE_CHECKING:
    from surgery.hooks.registry import Registry


@dataclass(frozen=True)
class Session:
    """Hold the shared options of one command.

    Attributes:
        json: True to print one JSON object on stdout instead of text.
        quiet: True to print no remarks.
        plugins: local plugins.
    """

    json: bool = False
    quiet: bool = False
    plugins: tuple[Path, ...] = ()

    @cached_property
    def registry(self) -> Registry:
        """What the plugins offer; read when it is first asked for.

        Raises:
            PluginError: a local plugin cannot be loaded.
        """
        from surgery.hooks.registry import registry

        return registry(self.plugins)

    def result(
        self, data: Mapping[str, Any], text: str, *, ok: bool = True, styled: bool = False
    ) -> None:
        """Print what a command is for on stdout.

        Args:
            data: JSON values, for ``--json``.
            text: the same for people.
            ok: False where the command found something wrong.
            styled: True where the text carries colours, and what others wrote in it is clean.
        """
        if self.json:
            click.echo(json.dumps({"ok": ok, "schema": 1, **data}, allow_nan=False))
        elif text:
            click.echo(text if styled else clean(text))

    def remark(self, text: str) -> None:
        """Print a remark on stderr, unless quiet."""
        if not self.quiet:
            click.echo(clean(text), err=True)

    def complain(self, text: str) -> None:
        """Print what is wrong on stderr, also when quiet."""
        click.echo(clean(f"surgery: {text}"), err=True)


_OPTIONS = (
    click.option("--json", is_flag=True, help="Print one JSON object on stdout."),
    click.option("--quiet", "-q", is_flag=True, help="Print results and errors only."),
    click.option(
        "--plugin",
        "plugins",
        multiple=True,
        metavar="FILE.py",
        type=click.Path(path_type=Path),
        help="Also load a local plugin; may be given several times.",
    ),
    click.option("--traceback", is_flag=True, help="Show where an error was raised."),
)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the shared options; it gets a ``Session`` as its first argument."""

    @wraps(command)
    def wrapped(
        *arguments: Any,
        json: bool,
        quiet: bool,
        plugins: tuple[Path, ...],
        traceback: bool,
        **options: Any,
    ) -> Any:
        context = click.get_current_context()
        above = context.find_object(Session) or Session()
        given = (json or above.json, quiet or above.quiet, (*above.plugins, *plugins))
        context.obj = session = Session(*given)
        return command(session, *arguments, **options)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
