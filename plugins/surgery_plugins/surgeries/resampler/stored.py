"""A connector's own weights in a file: where its tensors are, and what is said about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.header import read_header
from surgery.checkpoint.tensors import TensorReader
from surgery.errors import IntegrityError, PatientError
from surgery_plugins.surgeries.resampler.infer import Inferred, infer_one
from surgery_plugins.surgeries.resampler.kind import Kind, Value

METADATA = ("surgery.resampler", "resampler_config")
"""Keys under which metadata of a connector stand: in a file's header, or in ``config.json``."""


@dataclass(frozen=True)
class Stored:
    """The tensors of a file, and the metadata beside them.

    Attributes:
        path: file or folder.
        shapes: shapes of all its tensors by name.
        said: metadata of a connector, and where they stand.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    said: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    def find(self, kind: str | None, prefix: str | None, known: Mapping[str, Value]) -> Inferred:
        """Find the one connector among the tensors.

        Raises:
            IntegrityError: there is none, or there are several.
        """
        return infer_one(self.shapes, str(self.path), kind=kind, prefix=prefix, known=known)

    def kind(self) -> str | None:
        """Give the kind that metadata say, or None."""
        return next((str(said["kind"]) for _, said in self.said if "kind" in said), None)

    def sizes(self, kind: Kind) -> dict[str, tuple[Value, str]]:
        """Give the sizes that metadata say, and where they say it."""
        found: dict[str, tuple[Value, str]] = {}
        for where, said in self.said:
            values = {**said, **said.get("sizes", {})}
            ours = {kind.metadata.get(name, name): value for name, value in values.items()}
            for name, value in {**kind.implied(values), **ours}.items():
                if name in kind.all_sizes and isinstance(value, int | float | bool | str):
                    found.setdefault(name, (value, where))
        return found


def open_stored(path: str, metadata: bool) -> Stored:
    """Read names, shapes and metadata of a connector's weights; headers alone.

    Args:
        path: a safetensors file, or a folder with such files.
        metadata: False to take no notice of metadata.

    Raises:
        IntegrityError: the file or its metadata are damaged.
        PatientError: there is no such file, or it is no safetensors file.
    """
    place = Path(path).expanduser()
    if not place.exists() or (place.is_file() and place.suffix != ".safetensors"):
        raise PatientError(
            str(place),
            "a safetensors file, or a folder with some",
            "no such file" if not place.exists() else f"a file that ends in {place.suffix!r}",
            "re-save a file of another format with `surgery adopt`",
        )
    reader = TensorReader(place)
    shapes = {name: entry.shape for name, entry in reader.entries.items()}
    files = sorted({e.file for e in reader.entries.values() if isinstance(e.file, Path)})
    said = [one for file in files for one in _said(file)] if metadata else []
    return Stored(place, shapes, tuple(said))


def _said(file: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Give the metadata in a file's header and in the config.json beside it."""
    header = read_header(file).metadata
    found: list[tuple[str, Mapping[str, Any]]] = [
        (f"metadata {key} of {file.name}", _parsed(header[key], f"{file}: {key}"))
        for key in METADATA
        if key in header
    ]
    config = file.parent / "config.json"
    if config.is_file():
        beside = _parsed(config.read_text("utf-8"), str(config))
        found += [
            (f"{key} of config.json", beside[key])
            for key in METADATA
            if isinstance(beside.get(key), dict)
        ]
    return found


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        value = error
    if not isinstance(value, dict):
        raise IntegrityError(
            where,
            "metadata as a JSON object",
            f"text that is none ({value})"[:200],
            "mend it, or write `metadata: false` to go by the tensors' shapes",
        )
    return value
