"""Signals that ask a process to end: the step is finished first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def asked_to_end(stop: Callable[[], object]) -> Iterator[None]:
    """Call back on SIGTERM and Ctrl-C for a while, in place of ending.

    Outside the main thread, which alone may take signals, nothing is called.

    Args:
        stop: called in the main thread, between two instructions.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
