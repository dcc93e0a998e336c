from __future__ import annotations

import json
from importlib import import_module

import click
import pytest

from surgery.cli.app import COMMANDS, surgery
from tests.cli.conftest import Run

HEAVY = ("torch", "pydantic", "rich", "yaml", "pluggy", "transformers", "numpy", "surgery_plugins")
LOADED = """
import json, sys
from surgery.cli import main
try:
    status = main(sys.argv[1:])
finally:
    print(json.dumps([status, sorted(sys.modules)]), file=sys.stderr)
"""


def loaded(run: Run, *arguments: str) -> tuple[int, set[str]]:
    done = run(*arguments, code=LOADED)
    status, modules = json.loads(done.stderr.splitlines()[-1])
    return status, set(modules)


@pytest.mark.parametrize("arguments", [["--help"], [], ["-h"], ["no-such-command"]])
def test_help_imports_nothing_heavy(surgery_command: Run, arguments: list[str]) -> None:
    status, modules = loaded(surgery_command, *arguments)
    assert status == (0 if arguments and arguments[0].startswith("-") else 2)
    assert "click" in modules
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [["recipes"], ["schema"], ["plugins", "--help"]])
def test_commands_that_need_no_model_import_no_torch(
    surgery_command: Run, arguments: list[str]
) -> None:
    status, modules = loaded(surgery_command, *arguments, "--quiet")
    assert status == 0
    assert "torch" not in modules


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_the_short_help_that_is_shown(name: str) -> None:
    place, text = COMMANDS[name]
    module, _, attribute = place.partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.get_short_help_str(200).rstrip(".") == text.rstrip(".")


def test_help_lists_every_command_in_order(surgery_command: Run) -> None:
    lines = surgery_command("--help").stdout.splitlines()
    below = lines[lines.index("Commands:") + 1 : lines.index("", lines.index("Commands:"))]
    listed = [line.split()[0] for line in below if line[2:3].strip()]
    assert listed == list(COMMANDS)


def test_completion_knows_the_commands() -> None:
    context = click.Context(surgery)
    assert {item.value for item in surgery.shell_complete(context, "")} >= set(COMMANDS)
