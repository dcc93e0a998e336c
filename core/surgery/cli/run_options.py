"""What the commands that write checkpoints share: where and how files are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.progress import bytes_bar
from surgery.cli.session import Session
from surgery.cli.sizes import in_bytes

if TYPE_CHECKING:
    from surgery.flow.run import Run, Way

_OPTIONS = (
    click.option("--force", is_flag=True, help="Replace an existing output, by one rename."),
    click.option(
        "--stream", "way", flag_value="stream",
        help="Compute the tensors file by file; no model is in memory.",
    ),
    click.option(
        "--live", "way", flag_value="live", help="Load the model, and prove it by a forward."
    ),
    click.option(
        "--memory", callback=in_bytes, metavar="SIZE",
        help="Bytes of tensors that may be in memory at once, such as 2GB.",
    ),
    click.option(
        "--executor", metavar="WHERE",
        help="Where files are computed: threads:N, processes:N or dask:ADDRESS.",
    ),
    click.option(
        "--no-links", "link", is_flag=True, flag_value=False, default=True,
        help="Copy unchanged files of the base instead of linking them.",
    ),
)  # fmt: skip


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextmanager
def run_of(session: Session, options: dict[str, Any]) -> Iterator[Run]:
    """Make the run that the options describe, and show its progress."""
    from surgery.flow.executors import executor_of
    from surgery.flow.run import Run
    from surgery.flow.write import Engine

    way: Way = options.pop("way") or "auto"
    memory, where = options.pop("memory"), options.pop("executor")
    lock, seen = Lock(), [0, 0]
    with executor_of(where) as executor, bytes_bar(session, "write") as show:

        def total(count: int) -> None:
            seen[1] = count

        def advance(count: int) -> None:
            with lock:
                seen[0] += count
                show(seen[0], seen[1])

        made = Engine(memory, executor, advance, total, options.pop("link"))
        yield Run(way, options["force"], made, lambda what: session.remark(f"{what} ..."))
