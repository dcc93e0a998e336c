"""Do beside the planning what needs no plan: digest the base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

from surgery.checkpoint.digests import Progress

_T = TypeVar("_T")


@contextmanager
def ahead(call: Callable[[Progress], _T]) -> Iterator[Callable[[], _T]]:
    """Begin a call on a thread of its own, and give what waits for its result.

    The call is given what it must call now and then, by which it is ended with the block.

    Args:
        call: what to begin.

    Yields:
        A function that gives what the call gave, or raises what it raised.
    """
    stop = Event()

    def advance(count: int) -> None:
        if stop.is_set():
            raise InterruptedError

    with ThreadPoolExecutor(1, "ahead") as pool:
        future = pool.submit(call, advance)
        try:
            yield future.result
        finally:
            stop.set()
