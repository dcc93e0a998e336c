"""What all commands have in common, whatever they do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from surgery.cli.app import COMMANDS, surgery
from surgery.errors import SurgeryError

PAGE = Path(__file__).parents[2] / "docs" / "looking.md"


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(surgery)
    for name in COMMANDS:
        command = surgery.get_command(context, name)
        assert command is not None
        yield name, command
        for below, one in getattr(command, "commands", {}).items():
            yield f"{name} {below}", one


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda one: str(one))
def test_every_command_can_be_quiet_and_speak_json(name: str, command: click.Command) -> None:
    options = {option for param in command.params for option in param.opts}
    assert {"--json", "--quiet", "--plugin", "--traceback"} <= options, name


def kinds(kind: type[SurgeryError]) -> Iterator[type[SurgeryError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


def test_every_exit_status_is_documented() -> None:
    rows = re.findall(r"^\| `(\d+)` \|", PAGE.read_text("utf-8"), re.M)
    raised = {str(kind.exit_status) for kind in kinds(SurgeryError)}
    assert raised | {"0", "130"} <= set(rows)
    shown = re.findall(r"(\d+) \w+", str(surgery.epilog))
    assert set(rows) <= set(shown)
