"""Where files are computed: threads, processes, or a cluster of dask."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from surgery.errors import MissingExtraError, RecipeError

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

_WANTED = "threads:N, processes:N or dask:ADDRESS"
_T = TypeVar("_T")
_halted: Callable[[], bool] = lambda: False  # noqa: E731


@contextmanager
def executor_of(text: str | None) -> Iterator[Executor | None]:
    """Give the executor of a description, and shut it down at the end.

    Args:
        text: such as ``processes:4`` or ``dask:tcp://10.0.0.1:8786``; None for the threads of
            this process, as many as it has cores.

    Raises:
        RecipeError: the description is none.
        MissingExtraError: dask is not installed.
    """
    if text is None:
        yield None
        return
    kind, _, rest = text.partition(":")
    if kind == "dask" and rest:
        with _dask(rest) as executor:
            yield executor
    elif kind in ("threads", "processes") and rest.isdecimal() and int(rest) > 0:
        with ThreadPoolExecutor(int(rest)) if kind == "threads" else Processes(int(rest)) as pool:
            yield pool
    else:
        raise RecipeError("--executor", _WANTED, repr(text))


class Processes(Executor):
    """Run tasks in processes of their own; when one is killed, the next task gets new ones.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._context = get_context("spawn")
        self._stop = self._context.Event()
        self._pool = self._made()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Hand a task to the processes.

        Raises:
            BrokenExecutor: new processes died at once.
        """
        with _uninterrupted():  # processes that are started now never see Ctrl-C
            try:
                return self._pool.submit(fn, *args, **kwargs)
            except BrokenExecutor:
                self._pool.shutdown()
                self._pool = self._made()
                return self._pool.submit(fn, *args, **kwargs)

    def give_up(self, running: list[Future[Any]]) -> None:
        """Let running tasks end at their next step, and wait for that."""
        self._stop.set()
        wait(running)
        self._stop.clear()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; running tasks end first."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _made(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.count, self._context, _begin, (self._stop,))


def halted() -> bool:
    """Tell, in a process of :class:`Processes`, whether its work is not wanted any more."""
    return _halted()


def _begin(stop: Event) -> None:
    """Set a new process up: it ends with its parent, however that ends."""
    global _halted
    _halted = stop.is_set
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back, in this thread and for good in the processes that it starts."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    """Connect to a running cluster; its workers must see the same files under the same paths."""
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise MissingExtraError("--executor", "distributed", "cluster") from None
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise RecipeError(
            "--executor", "the address of a running scheduler", f"{address} ({line})"
        ) from None
    with client:
        yield client.get_executor(pure=False)
