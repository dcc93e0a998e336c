"""How a checkpoint is made, whatever is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from surgery.flow.write import Engine

Way: TypeAlias = Literal["auto", "stream", "live"]
"""How to apply: as seems best, file by file, or on a model in memory."""

Report: TypeAlias = Callable[[str], object]
"""Called with what begins now, such as ``load``."""


@dataclass(frozen=True)
class Run:
    """Say how a checkpoint is made.

    Attributes:
        way: live, file by file, or as seems best; the tensors are the same.
        force: True to replace an existing output.
        engine: how files are written.
        report: called at the beginning of each part.
    """

    way: Way = "auto"
    force: bool = False
    engine: Engine = field(default_factory=Engine)
    report: Report = lambda what: None
