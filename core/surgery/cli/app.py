"""The command ``surgery``: its subcommands are imported when they are run."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "inspect": (
        "surgery.cli.inspect:inspect",
        "Show what a model is made of and what each part does.",
    ),
    "plan": (
        "surgery.cli.plan:plan",
        "Show the exact change that a recipe makes; no weight is read.",
    ),
    "check": (
        "surgery.cli.check:check",
        "Check that a recipe's result holds together; no weight is read.",
    ),
    "diagnose": (
        "surgery.cli.diagnose:diagnose",
        "Find the first surgery that breaks a model, where, and why.",
    ),
    "apply": (
        "surgery.cli.apply:apply",
        "Make the change of a recipe, prove it, and write the result.",
    ),
    "train": ("surgery.cli.train:train", "Apply a recipe's surgeries and fine-tune, with guards."),
    "launch": (
        "surgery.cli.launch:launch",
        "Print what starts a training on several devices or machines.",
    ),
    "report": (
        "surgery.cli.report:report",
        "Write a page of HTML on what was done to a model.",
    ),
    "merge": ("surgery.cli.merge:merge", "Fold adapters into their weights."),
    "undo": ("surgery.cli.undo:undo", "Write a checkpoint without one of its surgeries, or any."),
    "verify": ("surgery.cli.verify:verify", "Check an output: files, tensors, values and base."),
    "diff": ("surgery.cli.diff:diff", "Show in what two checkpoints differ."),
    "doctor": (
        "surgery.cli.doctor:doctor",
        "Examine this installation, or a model; nothing is changed.",
    ),
    "extract": (
        "surgery.cli.extract:extract",
        "Write the difference of two checkpoints as an adapter.",
    ),
    "adopt": (
        "surgery.cli.adopt:adopt",
        "Turn a checkpoint of another tool into safetensors with a journal.",
    ),
    "import": (
        "surgery.cli.imports:import_",
        "Take over what another tool made of a model, as a checkpoint.",
    ),
    "plugins": ("surgery.cli.plugins:plugins", "List plugins, what they offer, what is broken."),
    "new": ("surgery.cli.new:new", "Start a plugin of your own."),
    "recipes": ("surgery.cli.recipes:recipes", "List the shipped recipes, or copy one."),
    "migrate": (
        "surgery.cli.migrate:migrate",
        "Bring a recipe file to the present version of the format.",
    ),
    "lock": ("surgery.cli.lock:lock", "Write down all that a recipe's result depends on."),
    "completion": (
        "surgery.cli.completion:completion",
        "Print what makes a shell complete this command.",
    ),
    "schema": ("surgery.cli.schema:schema", "Print the JSON Schema of recipes, for editors."),
}
"""Place and short help of each subcommand, in the order of ``surgery --help``."""


class LazyGroup(click.Group):
    """Know the subcommands by name and short help; import one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing or cmd_name.startswith("-"):
                return None
            raise click.exceptions.NoSuchCommand(cmd_name, possibilities=COMMANDS, ctx=ctx)
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and short helps without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 failed, 2 mistake in the recipe or the command line, "
    "4 damaged data, 5 locked, 130 interrupted.",
)
@click.version_option(package_name="model-surgery", prog_name="surgery")
def surgery() -> None:
    """Model surgery as code: plan, apply and prove changes to PyTorch models."""
