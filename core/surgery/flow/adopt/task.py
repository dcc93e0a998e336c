"""What is asked of an adoption, and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from surgery.checkpoint.legacy.compare import Component
from surgery.checkpoint.legacy.read import Legacy
from surgery.checkpoint.legacy.reading import Wishes
from surgery.checkpoint.legacy.resolve import Resolved
from surgery.checkpoint.legacy.shapes import Shown
from surgery.checkpoint.strict import show_path
from surgery.flow.adopt.sizes import Fitted
from surgery.operate.patient import Patient
from surgery.operate.source import Source

GIGABYTE = 10**9


@dataclass(frozen=True)
class Task:
    """What to adopt, and how.

    Attributes:
        path: the file or folder.
        like: what declares the structure: a folder, ``SOURCE:NAME`` or a recipe; or None.
        wishes: what the user says about the checkpoint.
        drops: globs over names in the file, with or without wrappers' names, to leave out.
        leave_out_objects: read past objects of foreign classes.
        infer: fit the numbers of the declared structure to the file's shapes.
        numbers: numbers of the structure that the user states.
        defaults: take the defaults of numbers that nothing shows.
        shard_bytes: size above which weights are written in several files.
    """

    path: Path
    like: str | None = None
    wishes: Wishes = field(default_factory=Wishes)
    drops: tuple[str, ...] = ()
    leave_out_objects: bool = False
    infer: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)
    defaults: bool = False
    shard_bytes: int = 5 * GIGABYTE


@dataclass(frozen=True)
class Found:
    """What a checkpoint was found to hold.

    Attributes:
        task: what was asked.
        legacy: the opened checkpoint.
        resolved: the name of every tensor.
        components: the comparison with the declared structure; empty without one.
        shown: sizes that names and shapes show.
        fitted: numbers of the structure, and where each is from; empty unless asked for.
        scales: of adapters to split off: alpha, scaling and where each is from.
        source: the declared structure's source.
        patient: the structure on meta.
        companions: files of the declared structure that travel along, by name.
        notes: what its reader should know.
    """

    task: Task
    legacy: Legacy
    resolved: Resolved
    components: tuple[Component, ...] = ()
    shown: tuple[Shown, ...] = ()
    fitted: tuple[Fitted, ...] = ()
    scales: tuple[float, bool, Mapping[str, str]] | None = None
    source: Source | None = None
    patient: Patient | None = None
    companions: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Tell whether every tensor of a declared structure is there."""
        return bool(self.components) and all(one.complete for one in self.components)

    @property
    def where(self) -> str:
        """How errors name the checkpoint."""
        return show_path(self.task.path)
