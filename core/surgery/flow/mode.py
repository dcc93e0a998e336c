"""Choose how a recipe is applied: on a model in memory, or file by file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.remote import RemoteFile
from surgery.checkpoint.trouble import in_units
from surgery.errors import RefusedError
from surgery.flow.draft import Draft
from surgery.flow.layout import Layout
from surgery.flow.run import Way
from surgery.flow.write import from_files
from surgery.operate.values import Node, NotStoredError


@dataclass(frozen=True)
class Mode:
    """How a recipe is applied.

    Attributes:
        streamed: True where tensors are computed file by file, and no model is in memory.
        why: the reason, as a clause.
    """

    streamed: bool
    why: str

    def __str__(self) -> str:
        return f"{'stream' if self.streamed else 'live'}: {self.why}"


def choose_mode(draft: Draft, whole: bool, way: Way = "auto", memory: int | None = None) -> Mode:
    """Choose how to apply a draft.

    Args:
        draft: the operation on meta, and the base's files.
        whole: True where a whole model is written.
        way: what the user asks for.
        memory: bytes of tensors that may be in memory, or None.

    Raises:
        RefusedError: the user asks for what cannot be done.
    """
    size, room = _size(draft), _room(memory)
    if way == "live":
        if memory is not None and size > memory:
            wanted = f"a base of at most {in_units(memory)}"
            raise RefusedError("--live --memory", wanted, in_units(size), "leave --live out")
        return Mode(False, "asked for")
    obstacle = _obstacle(draft, whole)
    if way == "stream":
        if obstacle:
            wanted = "tensors that can be computed from the base's files"
            raise RefusedError("--stream", wanted, obstacle, "leave --stream out")
        return Mode(True, "asked for")
    if obstacle:
        return Mode(False, obstacle)
    if any(isinstance(file, RemoteFile) for file in draft.files.values()):
        return Mode(True, "the base is behind a URL, and only what is needed is fetched")
    if size > room:
        return Mode(True, f"the base takes {in_units(size)}, and {in_units(room)} may be used")
    return Mode(False, f"the base takes {in_units(size)} of {in_units(room)} that may be used")


def _obstacle(draft: Draft, whole: bool) -> str:
    """Say why a draft cannot be applied file by file; an empty text where it can."""
    if not draft.files:
        return "the base has no safetensors files"
    values = from_files(draft)
    slots = draft.operation.plan.slots

    def node(name: str) -> Node:
        return values.slot(slots[name]) if name in slots else values.trained(name)

    try:
        for slot in (*slots.values(), *draft.operation.plan.folded):
            if slot.saved:
                values.slot(slot)
        if whole:
            Layout(draft, node, frozenset(draft.trained)).tasks(Path(), draft.operation.seed)
    except NotStoredError as error:
        return str(error)
    return ""


def _size(draft: Draft) -> int:
    """Give the bytes of the base."""
    return sum(row.bytes for row in draft.operation.plan.before)


def _room(memory: int | None) -> int:
    """Give the bytes that a model may take: what the user says, or half of what is free."""
    return memory if memory is not None else available_memory() // 2


def available_memory() -> int:
    """Give the bytes of memory that are free or can be made free, in this container if any."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    table = Path("/proc/meminfo")
    if table.is_file():
        lines = dict(line.split(":", 1) for line in table.read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else free
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free
