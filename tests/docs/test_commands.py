"""Commands, surgeries and places that pages name in passing exist."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from surgery.cli.app import surgery
from surgery.hooks.offers import KINDS
from surgery.hooks.registry import registry
from tests.docs import kit

PAGES = ["README.md", *kit.every_page()]
_INLINE = re.compile(r"`(surgery [a-z][^`]*)`")


def text_of(name: str) -> str:
    return (kit.ROOT / name).read_text("utf-8") if name == "README.md" else kit.page(name)


def commands(text: str) -> list[str]:
    """Give every command, of blocks and in passing."""
    shown = re.findall(r"^\$? ?(surgery [a-z].*)$", text, re.M)
    inline = [" ".join(found.split()) for found in _INLINE.findall(text)]
    return [one for one in (*shown, *inline) if "COMMAND" not in one]


def named(line: str) -> tuple[click.Command, list[str], click.Context]:
    """Give the command that a line names, what follows it, and its context."""
    command: click.Command = surgery
    context = click.Context(surgery, info_name="surgery")
    words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, line
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    return command, words, context


@pytest.mark.parametrize("name", PAGES)
def test_every_command_has_the_options_that_a_page_gives_it(name: str) -> None:
    for line in commands(text_of(name)):
        command, words, context = named(line)
        known = {flag for one in command.get_params(context) for flag in one.opts}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known or name == "errors/usage.md", f"{name}: {line}: {given - known}"


@pytest.mark.parametrize("name", PAGES)
def test_every_offer_that_a_page_names_exists(name: str) -> None:
    known = {offered for kind in KINDS for offered in registry().names(kind)}
    uses = set(re.findall(r"\buse: ([a-z][\w-]*[\w])\b(?!/)", text_of(name)))
    assert uses <= known, uses - known


def test_pages_do_name_commands() -> None:
    assert sum(len(commands(text_of(name))) for name in PAGES) > 100
