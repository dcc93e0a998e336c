"""Run the command and turn whatever happens into one clear message and an exit status."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from surgery.cli.app import surgery
from surgery.errors import Problems, SurgeryError
from surgery.report.text import clean

INTERRUPTED = 130
BROKEN_PIPE = 1


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; no exception gets out unless ``--traceback`` asks for it.

    Args:
        arguments: what follows the command's name; by default those of the process.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = surgery.main(given, prog_name="surgery", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except BrokenPipeError:
        return _broken_pipe()
    except (KeyboardInterrupt, click.Abort):
        return _report(given, "interrupted", {"code": "interrupted"}, INTERRUPTED)
    except Exception as error:
        if "--traceback" in given:
            raise
        return _failed(given, error)


def _failed(given: Sequence[str], error: Exception) -> int:
    if isinstance(error, click.ClickException):
        return _usage(given, error)
    if isinstance(error, SurgeryError):
        return _report(given, _coded(error), error.to_json(), error.exit_status)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror or error}"
    else:
        lines = str(error).strip().splitlines() or ["no message"]
        text = f"unexpected {type(error).__name__}: {lines[0]}; run again with --traceback"
    return _report(given, text, {"code": "unexpected", "where": "", "found": text}, 1)


def _coded(error: SurgeryError) -> str:
    """Give each message with its code, under which the documentation has cause and cure."""
    errors = error.problems if isinstance(error, Problems) else (error,)
    return "\n".join(f"{one} [{one.code}]" for one in errors)


def _usage(given: Sequence[str], error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    hint = f" (see `{context.command_path} --help`)" if context else ""
    text = error.format_message() + hint
    return _report(given, text, {"code": "usage", "found": error.format_message()}, error.exit_code)


def _report(given: Sequence[str], text: str, data: dict[str, Any], status: int) -> int:
    """Print a message for people on stderr and, where asked for, one for machines on stdout."""
    try:
        if "--json" in given:
            errors = data.get("problems", [data])
            click.echo(json.dumps({"ok": False, "schema": 1, "errors": errors}))
        click.echo(clean(f"surgery: {text}"), err=True)
    except BrokenPipeError:
        return _broken_pipe()
    return status


def _broken_pipe() -> int:
    """Keep the interpreter from complaining about the closed pipe when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
