"""Lay out the files of a whole model: what is linked, what is copied, and what is computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from surgery.checkpoint.header import TensorEntry
from surgery.checkpoint.index import SINGLE
from surgery.flow.draft import Draft
from surgery.flow.moved import Moved, moved_parts
from surgery.flow.shards import FileTask, Piece, held
from surgery.operate.dtypes import dtype_of
from surgery.operate.table import Row
from surgery.operate.values import Node, NotStoredError

ADDED = "model-added.safetensors"
"""The file of tensors that the base does not have, where the base has several files."""

SHARD_BYTES = 5_000_000_000
"""Size of a file where the base has none that could be followed."""

Nodes: TypeAlias = Callable[[str], Node]
"""Gives the node of a changed tensor of the result, by its first name."""


class Layout:
    """Lay out a whole model along the files of its base.

    A file in which nothing changed is taken over as it is; in the others, unchanged tensors are
    copied byte by byte, and ties that are stored twice are changed twice.

    Args:
        draft: the operation and the base's files.
        nodes: where changed tensors come from.
        trained: base tensors whose values differ from the base.
        live: gives a tensor of the result in memory, where the result is in memory.
    """

    def __init__(
        self,
        draft: Draft,
        nodes: Nodes,
        trained: frozenset[str] = frozenset(),
        live: Callable[[str], Tensor] | None = None,
    ) -> None:
        self.draft, self.nodes, self.live = draft, nodes, live
        names, self.rows = draft.naming.names, draft.rows
        self.owner = {key: name for name, keys in names.items() for key in keys}
        self.touched = {row.name for row in self.rows.values() if self._differs(row, trained)}
        self.moved = moved_parts(draft) if live is None else Moved()
        self.remade = self._remade()

    def tasks(self, folder: Path, seed: int) -> list[FileTask]:
        """Give the files to write, the index of several not among them.

        Raises:
            NotStoredError: a tensor cannot be written from files alone.
        """
        files = {name: list(self._kept(name)) for name in self.draft.headers}
        for place, piece in self._new(files):
            files.setdefault(place, []).append(piece)
        tasks = [self._task(folder, name, pieces, seed) for name, pieces in files.items() if pieces]
        return tasks or _split(folder, self._fresh(), seed)

    def _task(self, folder: Path, name: str, pieces: list[Piece], seed: int) -> FileTask:
        header = self.draft.headers.get(name)
        if header is None:
            return FileTask(folder / name, tuple(pieces), seed)
        same = len(pieces) == len(header.entries) and all(
            piece.node is header.entries.get(piece.name) for piece in pieces
        )
        whole = self.draft.files[name] if same else None
        return FileTask(folder / name, tuple(pieces), seed, header.metadata, whole)

    def _kept(self, file: str) -> Iterator[Piece]:
        """Give the tensors of one file of the base as they will be."""
        for key, entry in self.draft.headers[file].entries.items():
            if key in self.draft.naming.parts:
                if key in self.remade[1]:
                    yield held(key, self.remade[1][key])
                elif key not in self.remade[0] or key in self.moved.parts:
                    found = self.moved.parts.get(key, entry)
                    yield Piece(key, found.dtype, found.shape, found)
            elif key not in self.owner or self.owner[key] not in self._before:
                yield Piece(key, entry.dtype, entry.shape, entry)
            elif row := self.rows.get(self.owner[key]):
                yield self._piece(key, row, entry)

    def _piece(self, key: str, row: Row, entry: TensorEntry) -> Piece:
        if row.name in self.touched:
            return Piece(key, row.dtype, row.shape, self.nodes(row.name))
        if row.dtype == entry.dtype:
            return Piece(key, entry.dtype, entry.shape, entry)
        node = self.draft.resolver.stored_base(self.owner[key], row.shape, row.dtype)
        return Piece(key, row.dtype, row.shape, node)

    def _new(self, files: Mapping[str, list[Piece]]) -> Iterator[tuple[str, Piece]]:
        """Give the tensors that no file holds under their name yet, and their place."""
        place = next(iter(files)) if len(files) == 1 else ADDED
        known = {key for header in self.draft.headers.values() for key in header.entries}
        made = ((key, tensor) for key, tensor in self.remade[1].items() if key not in known)
        yield from ((place, held(key, tensor)) for key, tensor in made)
        if not files:
            return
        for key, entry in self.moved.parts.items():
            if key not in known:
                yield place, Piece(key, entry.dtype, entry.shape, entry)
        fresh = [row for row in dict.fromkeys(self.rows.values()) if self._is_new(row)]
        stored_as = self._stored_as(fresh)
        for row in fresh:
            if name := stored_as.get(row.name):
                yield place, Piece(name, row.dtype, row.shape, self.nodes(row.name))
        others = [row.name for row in fresh if row.name not in stored_as]
        yield from ((place, held(key, one)) for key, one in self._converted(others).items())

    def _converted(self, names: list[str]) -> dict[str, Tensor]:
        """Give new tensors in the form in which files hold such ones."""
        if names and self.live is None:
            raise NotStoredError(names[0], "has no name in files that hold it as it is")
        tensors = {name: self.live(name) for name in names} if self.live else {}
        model = self.draft.operation.patient.model
        return self.draft.source.store_as(model, self.draft.naming, tensors) if names else {}

    def _is_new(self, row: Row) -> bool:
        naming, names = self.draft.naming, (row.name, *row.aliases)
        known = (naming.names, naming.converted, self.moved.names)
        return not any(name in table for name in names for table in known)

    def _stored_as(self, rows: list[Row]) -> dict[str, str]:
        """Give the name in files of each new tensor that is stored as it is."""
        metas = {r.name: torch.empty(r.shape, dtype=dtype_of(r.dtype), device="meta") for r in rows}
        known = {id(tensor): name for name, tensor in metas.items()}
        model = self.draft.operation.patient.model
        found = self.draft.source.store_as(model, self.draft.naming, metas) if rows else {}
        return {known[id(tensor)]: key for key, tensor in found.items() if id(tensor) in known}

    def _remade(self) -> tuple[frozenset[str], dict[str, Tensor]]:
        """Give the stored parts of converted tensors that change, and what they become."""
        naming, made = self.draft.naming, self.rows
        gone = {n for n in naming.converted if n not in made or made[n].name in self.touched}
        keys = frozenset(key for key, targets in naming.parts.items() if gone & set(targets))
        needed = {name for key in keys for name in naming.parts[key] if name in made}
        if not needed - self.moved.names:
            return keys, {}
        if self.live is None:
            first = min(needed - self.moved.names)
            raise NotStoredError(first, f"is stored in another form ({naming.converted[first]})")
        model = self.draft.operation.patient.model
        tensors = {name: self.live(made[name].name) for name in sorted(needed)}
        return keys, self.draft.source.store_as(model, naming, tensors)

    def _fresh(self) -> dict[str, Tensor]:
        """Give all tensors of a result whose base has no files to follow."""
        if self.live is None:
            raise NotStoredError("the base", "is in no safetensors files")
        tensors = {row.name: self.live(row.name) for row in dict.fromkeys(self.rows.values())}
        model = self.draft.operation.patient.model
        return self.draft.source.store_as(model, self.draft.naming, tensors)

    def _differs(self, row: Row, trained: frozenset[str]) -> bool:
        return row.name in self.draft.operation.plan.slots or row.name in trained

    @cached_property
    def _before(self) -> frozenset[str]:
        rows = (row for row in self.draft.operation.plan.before if row.persistent)
        return frozenset(name for row in rows for name in (row.name, *row.aliases))


def index_of(tasks: list[FileTask]) -> str:
    """Write the index of several files, as transformers reads it."""
    listed = {piece.name: task.path.name for task in tasks for piece in task.pieces}
    size = sum(task.bytes for task in tasks)
    data = {"metadata": {"total_size": size}, "weight_map": dict(sorted(listed.items()))}
    return json.dumps(data, indent=2) + "\n"


def _split(folder: Path, tensors: Mapping[str, Tensor], seed: int) -> list[FileTask]:
    """Split tensors into files of bounded size."""
    groups: list[list[Piece]] = [[]]
    for key, tensor in sorted(tensors.items()):
        piece = held(key, tensor)
        if groups[-1] and sum(p.bytes for p in groups[-1]) + piece.bytes > SHARD_BYTES:
            groups.append([])
        groups[-1].append(piece)
    count = len(groups)
    names = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    names = names if count > 1 else [SINGLE]
    return [
        FileTask(folder / name, tuple(group), seed)
        for name, group in zip(names, groups, strict=True)
    ]
