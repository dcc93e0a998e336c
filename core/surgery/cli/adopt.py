"""``surgery adopt``: a checkpoint of another tool becomes safetensors with a journal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.progress import bytes_bar
from surgery.cli.session import Session, common
from surgery.cli.sizes import in_bytes

if TYPE_CHECKING:
    from surgery.flow.adopt.task import Task

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType


class _Pair(_Type):
    """Two texts around an equals sign; either may be empty."""

    name = "OLD=NEW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        old, sign, new = str(value).partition("=")
        if not sign:
            self.fail(f"{value!r} has no '='", param, ctx)
        return old.strip("."), new.strip(".")


class _Number(_Pair):
    """A name and a number around an equals sign."""

    name = "NAME=NUMBER"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        name, text = super().convert(value, param, ctx)
        for kind in (int, float):
            try:
                return name, kind(text)
            except ValueError:
                continue
        return self.fail(f"{text!r} is no number", param, ctx)


@click.command()
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--output", "-o", metavar="DIR", type=click.Path(path_type=Path),
              help="Where to write; without it nothing is written.")  # fmt: skip
@click.option("--like", metavar="MODEL",
              help="The structure: a folder, SOURCE:NAME or a recipe.")  # fmt: skip
@click.option("--component", "components", multiple=True, metavar="PREFIX",
              help="Demand only this part of the structure; repeatable.")  # fmt: skip
@click.option("--key", metavar="KEY", help="The state dict to take, keys joined by dots.")
@click.option("--prefix", type=_Pair(), help="What names begin with: in the file = in the model.")
@click.option("--rename", "renames", multiple=True, type=_Pair(),
              help="Replace whole parts of names; repeatable.")  # fmt: skip
@click.option("--drop", "drops", multiple=True, metavar="GLOB",
              help="Tensors to leave out, such as 'loss.**'; repeatable.")  # fmt: skip
@click.option("--adapters", type=click.Choice(["split", "drop"]),
              help="Write LoRA adapters into folders of their own, or leave them out.")  # fmt: skip
@click.option("--lora-alpha", type=float, help="Alpha of adapters to split off.")
@click.option("--lora-scaling", type=click.Choice(["plain", "rslora"]),
              help="Scale of adapters: alpha / rank, or alpha / sqrt(rank).")  # fmt: skip
@click.option("--spectral-axis", type=click.IntRange(min=0),
              help="Axis of spectral norms that do not show theirs.")  # fmt: skip
@click.option("--leave-out-objects", is_flag=True,
              help="Read past objects of foreign classes; nothing of theirs is run.")  # fmt: skip
@click.option("--infer", is_flag=True, help="Fit the numbers of the structure to the shapes.")
@click.option("--set", "numbers", multiple=True, type=_Number(),
              help="State a number of the structure; repeatable.")  # fmt: skip
@click.option("--defaults", is_flag=True, help="Take defaults of numbers that nothing shows.")
@click.option("--shard-size", "shard_bytes", callback=in_bytes, default="5GB", show_default=True,
              help="Write several files above this size.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing output, by one rename.")
@click.option("--trust-remote-code", is_flag=True,
              help="Consent to run the code that comes with a structure.")  # fmt: skip
@common
def adopt(session: Session, path: Path, **options: Any) -> None:
    """Turn a checkpoint of another tool into safetensors with a journal.

    PATH is a torch pickle (Lightning, DDP, FSDP, PEFT, a plain state dict), a safetensors file,
    or a folder with either. No code in it is run.
    """
    from surgery.flow.adopt.examine import examine
    from surgery.flow.adopt.write import adopt as write
    from surgery.operate.trust import CONSENT
    from surgery.report.adopt import adopt_json, adopt_text

    CONSENT.set(options["trust_remote_code"])

    def report(what: str) -> None:
        session.remark(f"{what} ...")

    found, adopted = examine(_task(path, options), session.registry, report), None
    if options["output"] is not None:
        with bytes_bar(session, "write") as progress:
            adopted = write(
                found, options["output"], force=options["force"], report=report, progress=progress
            )
    text = "" if session.json else adopt_text(found, adopted)
    session.result(adopt_json(found, adopted), text)


def _task(path: Path, options: dict[str, Any]) -> Task:
    """Gather the options; those that need a declared structure are refused without one."""
    from surgery.checkpoint.legacy.reading import Wishes
    from surgery.flow.adopt.task import Task

    for name in ("components", "infer", "numbers", "defaults"):
        if options[name] and options["like"] is None:
            option = {"components": "component", "numbers": "set"}.get(name, name)
            raise click.UsageError(f"--{option} needs a structure: give --like")
    wished = ("key", "prefix", "renames", "components", "adapters", "lora_alpha", "lora_scaling")
    return Task(
        path,
        like=options["like"],
        wishes=Wishes(**{n: options[n] for n in wished}, spectral_axis=options["spectral_axis"]),
        drops=options["drops"],
        leave_out_objects=options["leave_out_objects"],
        infer=options["infer"],
        numbers=dict(options["numbers"]),
        defaults=options["defaults"],
        shard_bytes=options["shard_bytes"],
    )
