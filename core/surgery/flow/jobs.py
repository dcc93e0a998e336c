"""Hand tasks to an executor, a bounded number at a time, and outlive workers that die."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from surgery.errors import PluginError, SurgeryError
from surgery.flow.executors import Processes, halted
from surgery.hooks.discover import load_file, local_files

_Task = TypeVar("_Task")
_Done = TypeVar("_Done")

LIVES = 3
"""How often in a row all workers may die before any of them finishes a task."""


@dataclass(frozen=True)
class Packed:
    """A task as bytes, for a process that has not loaded the local plugins yet.

    Attributes:
        data: the pickled function and task.
        plugins: files of local plugins, which the data may refer to.
        where: how errors name the task.
    """

    data: bytes
    plugins: tuple[Path, ...]
    where: str


def pack(function: Callable[..., Any], task: object, where: str) -> Packed:
    """Pack a task for another process.

    Raises:
        PluginError: a surgery gave values that cannot be sent, such as a nested function.
    """
    try:
        data = pickle.dumps((function, task))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        found = " ".join(str(error).split())[:200]
        wanted = "values that another process can compute: functions and classes of modules"
        raise PluginError(where, wanted, found, "leave --executor out") from None
    needed = (file for name, file in local_files().items() if name.encode() in data)
    return Packed(data, tuple(needed), where)


def run_packed(packed: Packed) -> Any:
    """Run a packed task, on one thread of this process.

    Raises:
        SurgeryError: the task failed, or this process cannot read it.
    """
    import torch

    torch.set_num_threads(1)
    try:
        for path in packed.plugins:
            load_file(path)
        function, task = pickle.loads(packed.data)
    except (ImportError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        found = " ".join(str(error).split())[:200]
        wanted = "a worker that has the same packages and plugins installed"
        raise PluginError(packed.where, wanted, found) from None
    try:
        return function(task, _check)
    except (SurgeryError, OSError):
        raise
    except Exception as error:
        raise SurgeryError(packed.where, "a file that can be written", _line(error)) from None


def _line(error: Exception) -> str:
    """Write an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _check(count: int) -> None:
    """Stop where nobody wants the result any more."""
    if halted():
        raise InterruptedError


def run_elsewhere(
    function: Callable[..., _Done],
    tasks: Sequence[_Task],
    executor: Executor,
    *,
    named: Callable[[_Task], str],
    at_once: int,
    done: Callable[[_Task], object],
) -> list[_Done]:
    """Run a function on tasks, in other processes or on other machines.

    Args:
        function: takes a task and what it calls now and then with a number; of a module.
        tasks: what to do; picklable.
        executor: where.
        named: gives how errors name a task.
        at_once: how many may be under way at a time.
        done: called with each task that is finished.

    Raises:
        SurgeryError: a task failed, or the executor did.
    """

    def submit(task: _Task) -> Future[_Done]:
        return executor.submit(run_packed, pack(function, task, named(task)))

    give_up = executor.give_up if isinstance(executor, Processes) else wait
    try:
        return run_jobs(tasks, submit, at_once=at_once, done=done, give_up=give_up)
    except (SurgeryError, OSError):
        raise
    except Exception as error:
        raise SurgeryError("--executor", "workers that run their tasks", _line(error)) from None


def run_jobs(
    tasks: Sequence[_Task],
    submit: Callable[[_Task], Future[_Done]],
    *,
    at_once: int,
    done: Callable[[_Task], object] = lambda task: None,
    give_up: Callable[[list[Future[Any]]], object] = wait,
) -> list[_Done]:
    """Run tasks, a bounded number at a time; the first error ends all.

    Args:
        tasks: what to do.
        submit: hands one task to an executor.
        at_once: how many may be under way at a time.
        done: called with each task that is finished.
        give_up: waits for what is under way and cannot be cancelled, after an error.

    Returns:
        What the tasks gave, in their order.

    Raises:
        SurgeryError: a task failed, or workers die again and again.
    """
    jobs = _Jobs(submit, at_once, done)
    try:
        return jobs.run(tasks)
    except BaseException:
        give_up([future for future in jobs.running if not future.cancel()])
        raise


class _Jobs(Generic[_Task, _Done]):
    """Tasks under way; the arguments are those of :func:`run_jobs`."""

    def __init__(
        self,
        submit: Callable[[_Task], Future[_Done]],
        at_once: int,
        done: Callable[[_Task], object],
    ) -> None:
        self.submit, self.at_once, self.done = submit, at_once, done
        self.running: dict[Future[_Done], int] = {}
        self.deaths = 0

    def run(self, tasks: Sequence[_Task]) -> list[_Done]:
        waiting, results = list(range(len(tasks)))[::-1], {}
        while waiting or self.running:
            while waiting and len(self.running) < self.at_once:
                number = waiting.pop()
                self.running[self.submit(tasks[number])] = number
            for future in self._finished():
                number = self.running.pop(future)
                if _is_broken(future):
                    waiting.append(number)
                else:
                    results[number] = future.result()
                    self.done(tasks[number])
        return [results[number] for number in range(len(tasks))]

    def _finished(self) -> set[Future[_Done]]:
        """Wait for some tasks to finish, or for all where the workers died."""
        finished = wait(self.running, return_when=FIRST_COMPLETED).done
        if any(map(_is_broken, finished)):
            finished = wait(self.running).done
        self.deaths = self.deaths + 1 if all(map(_is_broken, finished)) else 0
        if self.deaths >= LIVES:
            raise SurgeryError(
                "--executor",
                "workers that live",
                f"workers that were killed {self.deaths} times in a row",
                "is there enough memory? give fewer of them, or --memory",
            )
        return finished


def _is_broken(future: Future[Any]) -> bool:
    """Tell whether a task was lost with the process that ran it."""
    return not future.cancelled() and isinstance(future.exception(), BrokenExecutor)
