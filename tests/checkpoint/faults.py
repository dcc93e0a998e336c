"""Make one call to the system fail, or end the process there."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from surgery.checkpoint import exchange

CALLS = [
    (os, "fsync"),
    (os, "rename"),
    (os, "mkdir"),
    (os, "chmod"),
    (os, "open"),
    (os, "unlink"),
    (os, "rmdir"),
    (builtins, "open"),
    (io, "open"),
    (shutil, "rmtree"),
    (exchange, "exchange"),
]
EXIT = 77


class Points:
    """Count the calls that may fail, and meet one of them with a fault."""

    def __init__(self, at: int, fault: Callable[[], None]) -> None:
        self.at, self.fault, self.seen = at, fault, 0

    def watched(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.seen += 1
            if self.seen == self.at:
                self.fault()
            return real(*args, **options)

        return call


@contextmanager
def fault_at(at: int, fault: Callable[[], None]) -> Iterator[Points]:
    """Meet the call of number ``at`` with a fault; 0 counts only."""
    points = Points(at, fault)
    with ExitStack() as stack:
        for module, name in CALLS:
            stack.enter_context(patch.object(module, name, points.watched(getattr(module, name))))
        yield points


def disk_full() -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupt() -> None:
    """Fail as a user does who presses Ctrl-C."""
    raise KeyboardInterrupt


def crash() -> None:
    """End the process as a power cut does: nothing is cleaned up."""
    os._exit(EXIT)


def in_fork(run: Callable[[], None]) -> int:
    """Run something in a child process, and give its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
