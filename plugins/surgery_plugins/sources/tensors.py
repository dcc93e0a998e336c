"""The source ``tensors``: safetensors files as they are, without a model or a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from surgery.checkpoint.base import look_at, weights_at
from surgery.checkpoint.dtypes import CODES
from surgery.checkpoint.header import check_name, read_header
from surgery.checkpoint.index import open_checkpoint
from surgery.checkpoint.reading import File
from surgery.checkpoint.strict import read_json, show, show_path
from surgery.checkpoint.tensors import TensorReader
from surgery.checkpoint.urls import is_url, local_path
from surgery.errors import IntegrityError, PatientError
from surgery.operate.patient import Patient
from surgery.operate.source import Source

OUTLINE = "tensors.json"
"""Names, dtypes and shapes of a base, beside a whole output that has others."""

Table = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype by torch's name, and shape, of each tensor by name."""


class TensorsSource(Source):
    """Read a state dict that has no model: a safetensors file, or a folder of one or of shards."""

    name: ClassVar[str] = "tensors"
    explicit: ClassVar[bool] = True

    path: str = Field(
        description="A safetensors file, a folder with one or with an index, or a folder's URL."
    )

    def build(self) -> Patient:
        """Build containers that the names describe, with their tensors on meta."""
        import torch

        from surgery.operate.dtypes import dtype_of
        from surgery_plugins.modules.container import tree_of

        return Patient(
            tree_of(
                (name, torch.empty(shape, dtype=dtype_of(dtype), device="meta"))
                for name, (dtype, shape) in self._table().items()
            )
        )

    def load(self) -> Patient:
        """Build containers that the names describe, and read their tensors."""
        from surgery_plugins.modules.container import tree_of

        reader = TensorReader(*self.weights().values())
        _check_names(reader.entries, self._place)
        return Patient(tree_of((name, reader.get(name)) for name in reader.entries))

    def weights(self) -> Mapping[str, File]:
        """Give the checked files."""
        if is_url(self.path) and local_path(self.path) is None:
            return weights_at(look_at(self.path))
        return open_checkpoint(self._place)

    def companions(self) -> Mapping[str, Path]:
        """Give nothing: a state dict is all there is."""
        return {}

    def outline(self) -> Mapping[str, str]:
        """Give names, dtypes and shapes; no configuration would say them."""
        return {OUTLINE: json.dumps(self._table(), indent=1) + "\n"}

    @property
    def _place(self) -> Path:
        return local_path(self.path) or Path(self.path).expanduser()

    def _table(self) -> Table:
        outline = self._place / OUTLINE
        if outline.is_file():
            return _read(outline)
        entries = {n: e for f in self.weights().values() for n, e in read_header(f).entries.items()}
        _check_names(entries, self._place)
        return {name: (entry.dtype, entry.shape) for name, entry in entries.items()}


def _read(outline: Path) -> Table:
    """Read an outline, which may come from a stranger."""
    data = read_json(outline)
    wanted = "a dtype and a shape for each tensor by name"
    if not isinstance(data, dict):
        raise IntegrityError(show_path(outline), wanted, show(data))
    for name, entry in data.items():
        check_name(f"{outline}: {show(name)}", name)
        if not (isinstance(entry, list) and len(entry) == 2 and _is_form(*entry)):
            raise IntegrityError(f"{outline}: {show(name)}", wanted, show(entry))
    _check_names(data, outline)
    return {name: (dtype, tuple(shape)) for name, (dtype, shape) in data.items()}


def _is_form(dtype: object, shape: object) -> bool:
    numbers = isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**60 for n in shape)
    return isinstance(dtype, str) and dtype in CODES and numbers


def _check_names(names: Mapping[str, object], place: Path) -> None:
    """Refuse names that begin with a dot: their first container would be the root itself."""
    for name in names:
        if name.startswith("."):
            raise PatientError(
                show_path(place), "names of tensors that do not begin with a dot", show(name)
            )
