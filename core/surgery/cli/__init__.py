"""The command line. Importing this imports nothing heavy; each command brings its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the command's name; by default those of the process.

    Returns:
        The exit status: 0 done, 1 failed, 2 a mistake in the recipe or the command line,
        4 damaged data, 5 locked by another process, 130 interrupted.
    """
    try:
        import gc

        from surgery.cli.run import run

        if arguments is None:  # the process is ours: imports make many objects and no garbage
            gc.set_threshold(100000)
        return run(arguments)
    except KeyboardInterrupt:  # it came before `run` could hear it
        print("surgery: interrupted", file=sys.stderr)
        return 130
