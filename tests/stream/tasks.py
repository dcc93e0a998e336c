"""Small tasks that behave well, wait, fail or die; light, since other processes import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgery.checkpoint.tensors import TensorReader
from surgery.errors import IntegrityError, Problems, RecipeError
from surgery.flow.shards import FileTask, Piece
from surgery.operate.edits import Init
from surgery.operate.values import Made


@dataclass(frozen=True)
class Odd:
    """Fill with ones; wait, fail or die first, the first time."""

    what: str = ""
    mark: str = ""

    def __call__(self, tensor: torch.Tensor, generator: torch.Generator) -> None:
        first = bool(self.mark) and not os.path.exists(self.mark)
        if first:
            Path(self.mark).write_text(str(os.getpid()))
        if self.what == "die" and (first or not self.mark):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "wait" and first:
            time.sleep(60)
        if self.what == "fail":
            raise ZeroDivisionError("one by zero")
        if self.what == "refuse":
            raise Problems("here", [IntegrityError("a", "b", "c"), RecipeError("d", "e", "f")])
        tensor.fill_(1.0)


def made_task(path: Path, fill: Any = Odd()) -> FileTask:
    node = Made("w", (8,), "float32", Init(fill))
    return FileTask(path, (Piece("w", "float32", (8,), node),))


def tasks_with(folder: Path, odd: Odd) -> list[FileTask]:
    """Give five tasks, of which one is odd."""
    fills = [odd if number == 2 else Odd() for number in range(5)]
    return [made_task(folder / f"{n}.safetensors", fill) for n, fill in enumerate(fills)]


def assert_complete(tasks: Sequence[FileTask]) -> None:
    folder = tasks[0].path.parent
    assert {path.name for path in folder.iterdir()} == {task.path.name for task in tasks}
    for task in tasks:
        assert torch.equal(TensorReader(task.path).get("w"), torch.ones(8))


def compute_nothing(task: object, progress: object) -> None:
    """Do nothing with a task."""


def threads_now(task: object, progress: object) -> int:
    """Give the number of torch's threads."""
    return torch.get_num_threads()
