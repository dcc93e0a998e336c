"""``surgery doctor``: examine this installation, or a model as plugins know to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.session import Session, common

if TYPE_CHECKING:
    from surgery.checks.check import Check
    from surgery.hooks.registry import Registry
    from surgery.operate.doctor import Doctor
    from surgery.operate.patient import Patient


class Doctors(click.Group):
    """Know the doctors of all plugins as subcommands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the doctors' names."""
        return list(_registry(ctx).names("doctor"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make the command of one doctor; its fields are the options."""
        known = _registry(ctx)
        if cmd_name not in known.names("doctor"):
            return None
        return _command(known.offer("doctor", cmd_name).value)


@click.group(cls=Doctors, invoke_without_command=True)
@common
def doctor(session: Session) -> int:
    """Examine this installation, or a model; nothing is changed.

    Without a command: versions, devices, optional packages, plugins and disks. The exit status is
    1 where something is wrong.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return 0
    from surgery.flow.environment import environment

    return _told(session, "environment", environment(session.registry))


def _registry(context: click.Context) -> Registry:
    from surgery.hooks.registry import registry

    return registry(context.params.get("plugins") or ())


def _command(cls: type[Doctor]) -> click.Command:
    @common
    def run(session: Session, patient: str, weights: bool, **options: Any) -> int:
        return _examine(session, cls(**options), patient, weights)

    wrapped: Any = run
    parameters = getattr(wrapped, "__click_params__", [])[::-1]
    return click.Command(
        cls.name,
        callback=wrapped,
        help=f"{cls.__doc__}\n\nPATIENT is a folder, SOURCE:NAME or a recipe.",
        params=[click.Argument(["patient"]), *_options(cls), _WEIGHTS, *parameters],
    )


_WEIGHTS = click.Option(["--weights"], is_flag=True, help="Read the weights too, and look at them.")


def _options(cls: type[Doctor]) -> list[click.Parameter]:
    return [
        click.Option(
            [f"--{name.replace('_', '-')}", name],
            multiple=isinstance(field.default, tuple),
            is_flag=field.annotation is bool,
            default=field.default,
            help=field.description,
        )
        for name, field in cls.model_fields.items()
    ]


def _examine(session: Session, doctor: Doctor, given: str, weights: bool) -> int:
    folder = Path(given).expanduser()
    patient = _patient(session, given, weights)
    checks = list(doctor.examine(patient, folder if folder.is_dir() else None))
    for note in patient.notes:
        session.remark(note)
    return _told(session, doctor.name, checks)


def _told(session: Session, name: str, checks: list[Check]) -> int:
    """Print checks, and give the exit status that they come to."""
    from surgery.checks.check import FAILED
    from surgery.report.outcome import check_lines

    bad = [one for one in checks if one.status == FAILED]
    data = {"doctor": name, "checks": [one.to_json() for one in checks]}
    session.result(data, "\n".join(check_lines(checks)), ok=not bad)
    for one in bad:
        session.complain(f"{one.name}: {one.detail}")
    return 1 if bad else 0


def _patient(session: Session, given: str, weights: bool) -> Patient:
    from surgery.flow.structure import build_structure

    return build_structure(given, session.registry, weights=weights)
