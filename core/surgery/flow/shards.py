"""Write the files of a checkpoint, several at a time, on threads or on any executor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from surgery.checkpoint.dtypes import size_of
from surgery.checkpoint.header import TensorEntry
from surgery.checkpoint.place import Way, place_file
from surgery.checkpoint.reading import File
from surgery.checkpoint.trouble import in_units
from surgery.checkpoint.writer import NewEntry, write_tensors
from surgery.errors import RefusedError
from surgery.flow.jobs import run_elsewhere, run_jobs
from surgery.operate.values import Held, Node, memory_for, parts_of, pieces_of

if TYPE_CHECKING:
    from torch import Tensor

Advance: TypeAlias = Callable[[int], object]
"""Called with each number of bytes that was written, from several threads."""


@dataclass(frozen=True)
class Piece:
    """A tensor of a file that is written.

    Attributes:
        name: its name in the file.
        dtype: its dtype by torch's name.
        shape: its shape.
        node: where its values come from.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    node: Node

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * size_of(self.dtype)


@dataclass(frozen=True)
class FileTask:
    """A file to write.

    Attributes:
        path: where.
        pieces: its tensors.
        seed: the recipe's seed.
        metadata: free text of the file.
        same_as: a file that holds just these bytes already, to be linked or copied whole.
        way: ``copy`` where it may not be linked.
    """

    path: Path
    pieces: tuple[Piece, ...]
    seed: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    same_as: File | None = None
    way: Way = "auto"

    @property
    def bytes(self) -> int:
        """Size of its tensors in bytes."""
        return sum(piece.bytes for piece in self.pieces)

    @property
    def memory(self) -> int:
        """Bytes that must be in memory at once: those of the most costly tensor."""
        computed = (p.node for p in self.pieces if not isinstance(p.node, TensorEntry))
        return max(map(memory_for, computed), default=0) if self.same_as is None else 0

    @property
    def holds(self) -> bool:
        """Tell whether a tensor in memory is written, or used."""
        nodes = (part for piece in self.pieces for part in parts_of(piece.node))
        return any(isinstance(node, Held) for node in nodes)


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: the file.
        how: ``written``, or how a whole file was taken over, as ``place_file`` says.
        digest: its size and sha256, where it was written.
        not_finite: names of computed tensors that hold NaN or infinity.
        computed: number of tensors that were computed.
    """

    path: Path
    how: str
    digest: dict[str, Any] | None = None
    not_finite: tuple[str, ...] = ()
    computed: int = 0


def write_file(task: FileTask, progress: Advance = lambda count: None) -> Written:
    """Write one file; a run that is killed leaves nothing under its name, so it can be repeated.

    Args:
        task: the file.
        progress: called with the bytes of each tensor.

    Raises:
        SurgeryError: a file that is read is damaged, or a surgery computed what it had not
            planned.
    """
    part = task.path.with_name(f".{task.path.name}.{uuid4().hex}.part")
    bad: list[str] = []
    digest: dict[str, Any] | None = None
    try:
        if task.same_as is not None:
            how = place_file(task.same_as, part, task.way)
            progress(task.bytes)
        else:
            entries = [_entry(piece, task.seed, bad) for piece in task.pieces]
            sha256, how = write_tensors(part, entries, task.metadata, progress), "written"
            digest = {"size": part.stat().st_size, "sha256": sha256}
        os.replace(part, task.path)
    finally:
        part.unlink(missing_ok=True)
    computed = sum(not isinstance(piece.node, TensorEntry) for piece in task.pieces)
    return Written(task.path, how, digest, tuple(bad), 0 if task.same_as else computed)


def _entry(piece: Piece, seed: int, bad: list[str]) -> NewEntry:
    if isinstance(piece.node, TensorEntry):
        return NewEntry(piece.name, piece.dtype, piece.shape, piece.node)
    return NewEntry(piece.name, piece.dtype, piece.shape, partial(_produce, piece, seed, bad))


def _produce(piece: Piece, seed: int, bad: list[str]) -> Iterator[Tensor]:
    from surgery.checks.invariants import is_finite

    for values in pieces_of(piece.node, seed):
        if not is_finite(values) and piece.name not in bad[-1:]:
            bad.append(piece.name)
        yield values


def write_files(
    tasks: Sequence[FileTask],
    *,
    memory: int | None = None,
    executor: Executor | None = None,
    progress: Advance = lambda count: None,
) -> list[Written]:
    """Write files, several at a time.

    What is in memory is written by threads of this process, whatever the executor.

    Args:
        tasks: the files.
        memory: bytes of tensors that may be in memory at once; no bound if None.
        executor: where to run them; threads of this process if None.
        progress: called with bytes as they are written.

    Raises:
        RefusedError: one tensor alone needs more memory than there may be.
        SurgeryError: a file cannot be written; the others are given up.
    """
    if executor is None or isinstance(executor, ThreadPoolExecutor):
        return _here(tasks, executor, memory, progress)
    there = [task for task in tasks if not task.holds]
    here = [task for task in tasks if task.holds]
    return _elsewhere(there, executor, memory, progress) + _here(here, None, memory, progress)


def at_once(tasks: Sequence[FileTask], memory: int | None, most: int) -> int:
    """Give the number of files to write at a time, in a bounded memory.

    Args:
        tasks: the files.
        memory: bytes of tensors that may be in memory at once; no bound if None.
        most: how many there are workers for.

    Raises:
        RefusedError: one tensor alone needs more.
    """
    most = min(most, len(tasks)) or 1
    needed = max((task.memory for task in tasks), default=0)
    if memory is None or not needed:
        return most
    if needed > memory:
        raise RefusedError(
            "--memory",
            f"at least {in_units(needed)}, which the largest tensor and its sources take",
            in_units(memory),
            "give more, or leave out what changes that tensor",
        )
    return max(1, min(most, memory // needed))


def _here(
    tasks: Sequence[FileTask], given: Executor | None, memory: int | None, progress: Advance
) -> list[Written]:
    """Write files on threads of this process."""
    stop = Event()

    def advance(count: int) -> None:
        if stop.is_set():
            raise InterruptedError
        progress(count)

    def give_up(running: list[Future[Any]]) -> None:
        stop.set()
        wait(running)

    count = at_once(tasks, memory, len(tasks) if given else len(os.sched_getaffinity(0)))
    with _single_threaded(), nullcontext(given) if given else ThreadPoolExecutor(count) as pool:
        return run_jobs(
            tasks,
            lambda task: pool.submit(write_file, task, advance),
            at_once=count,
            give_up=give_up,
        )


def _elsewhere(
    tasks: Sequence[FileTask], executor: Executor, memory: int | None, progress: Advance
) -> list[Written]:
    """Write files in other processes, and remove what those that were killed left behind."""
    written = run_elsewhere(
        write_file,
        tasks,
        executor,
        named=lambda task: task.path.name,
        at_once=at_once(tasks, memory, len(tasks)),
        done=lambda task: progress(task.bytes),
    )
    for folder in {task.path.parent for task in tasks}:
        for part in folder.glob(".*.part"):
            part.unlink(missing_ok=True)
    return written


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Let each thread calculate alone, so that results do not depend on how many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def held(name: str, tensor: Any) -> Piece:
    """Give the piece of a tensor in memory."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Piece(name, dtype, tuple(tensor.shape), Held(tensor))
