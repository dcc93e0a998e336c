"""The page on the command line, out of the click commands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from surgery.cli.app import surgery

from .text import escaped, table


def every(
    command: click.Command = surgery, path: str = "surgery"
) -> Iterator[tuple[str, click.Command]]:
    """Give every command with its name in full, in the order of the help."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, f"{path} {name}"
            yield from every(found, f"{path} {name}")


def page() -> str:
    """Give the page on all commands."""
    parts = [_command(path, command) for path, command in every()]
    return "\n\n".join(["# Commands", escaped(surgery.epilog or ""), *parts])


def _command(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    said = escaped(inspect.cleandoc(command.help or "").replace("\b\n", ""))
    known = (p for p in command.get_params(context) if isinstance(p, click.Option))
    options = table(("option", "meaning"), (_option(p, context) for p in known if not p.hidden))
    return f"## {path}\n\n```text\n{usage}\n```\n\n{said}\n\n{options}"


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    names, said = option.get_help_record(context) or ("", "")
    return f"`{names}`", escaped(said)
