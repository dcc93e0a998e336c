"""What a shell completes: recipes, plugins' offers, roles and paths; and the script for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from surgery.cli.session import Session, common

if TYPE_CHECKING:
    from surgery.hooks.registry import Registry

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
"""What click calls with what stands there so far."""

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_SURGERY_COMPLETE"
"""Environment variable by which the shell asks for completions."""


def recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a recipe: a shipped one, or a file."""
    from surgery.recipe.shipped import shipped

    return [*_beginning(incomplete, shipped()), *paths(ctx, param, incomplete)]


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a model: a folder, ``SOURCE:``, or a recipe."""
    sources = [f"{name}:" for name in _known().names("source")]
    return [*_beginning(incomplete, sources), *recipes(ctx, param, incomplete)]


def roles(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a role: a built-in one, or one that a family adds."""
    from surgery.anatomy.site import ROLES

    added = [role for family in _known().families() for role in family.roles]
    return _beginning(incomplete, dict.fromkeys([*ROLES, *added]))


def offers(kind: str) -> Complete:
    """Give what completes the name of something that plugins offer, such as a surgery."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return _beginning(incomplete, _known().names(kind))

    return complete


def paths(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a path by itself."""
    return [CompletionItem(incomplete, type="file")]


def _known() -> Registry:
    """Give what plugins offer; what is broken is left out."""
    from surgery.hooks.registry import registry

    return registry(())


def _beginning(incomplete: str, names: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@common
def completion(session: Session, shell: str) -> None:
    """Print what makes a shell complete this command.

    For bash: `surgery completion bash >> ~/.bashrc`; for zsh likewise with ~/.zshrc; for fish:
    `surgery completion fish > ~/.config/fish/completions/surgery.fish`.
    """
    from surgery.cli.app import surgery

    kind = get_completion_class(shell)
    assert kind is not None
    text = kind(surgery, {}, "surgery", VARIABLE).source()
    session.result({"shell": shell, "script": text}, text)
