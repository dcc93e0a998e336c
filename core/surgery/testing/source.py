"""The source ``zoo``: patients of the zoo whose weights lie in files, as those of a base do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from surgery.checkpoint.dtypes import CODES
from surgery.checkpoint.index import INDEX, open_checkpoint
from surgery.checkpoint.tensors import TensorReader
from surgery.checkpoint.writer import NewEntry, write_tensors
from surgery.hooks.discover import Plugin
from surgery.hooks.registry import Registry
from surgery.hooks.specs import hookimpl
from surgery.operate.dtypes import name_of
from surgery.operate.source import Source
from surgery.operate.table import named_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgery.operate.patient import Patient

SHARDS = 2


class ZooSource(Source):
    """Read a patient of the zoo from a folder that ``save`` wrote."""

    name: ClassVar[str] = "zoo"
    explicit: ClassVar[bool] = True

    breed: str = Field(description="Name of the breed.")
    path: str = Field(description="Folder of its safetensors files.")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Dtype of its parameters."
    )

    def build(self) -> Patient:
        """Build the structure on meta."""
        from surgery.testing.zoo import patient

        return patient(self.breed, self.dtype, "meta")

    def load(self) -> Patient:
        """Read the weights; computed tables are computed."""
        from surgery.testing.zoo import patient

        found = patient(self.breed, self.dtype)
        reader = TensorReader(*self.weights().values())
        for name, tensor, _ in named_tensors(found.model):
            if name in reader.entries:
                tensor.data.copy_(reader.get(name))
        return found

    def weights(self) -> Mapping[str, Path]:
        """Give the checked files."""
        return open_checkpoint(Path(self.path))

    def companions(self) -> Mapping[str, Path]:
        """Give nothing: the breed says how the model is built."""
        return {}


def save(breed: str, folder: Path, dtype: Literal["float32", "bfloat16"] = "float32") -> ZooSource:
    """Write the weights of a patient of the zoo into a new folder, in several files.

    Args:
        breed: name of the breed.
        folder: where; it is made.
        dtype: of the parameters.

    Returns:
        The source that reads them.
    """
    from surgery.testing.zoo import patient

    folder.mkdir(parents=True)
    files: dict[str, list[NewEntry]] = {f"part-{n}.safetensors": [] for n in range(SHARDS)}
    seen: set[int] = set()
    turn = cycle(files)
    for name, tensor, persistent in named_tensors(patient(breed, dtype).model):
        if persistent and id(tensor) not in seen and name_of(tensor.dtype) in CODES:
            seen.add(id(tensor))
            entry = NewEntry(name, name_of(tensor.dtype), tuple(tensor.shape), tensor.detach)
            files[next(turn)].append(entry)
    for file, entries in files.items():
        write_tensors(folder / file, entries)
    where = {entry.name: file for file, entries in files.items() for entry in entries}
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    return ZooSource(breed=breed, path=str(folder), dtype=dtype)


def zoo_sources(folder: Path) -> dict[str, Callable[[], ZooSource]]:
    """Give what makes each patient of the zoo, by breed; one is written when it is called for.

    Args:
        folder: where they are written, each once.
    """
    from surgery.testing.zoo import ZOO

    return {breed: cache(partial(save, breed, folder / breed)) for breed in ZOO}


class _Hooks:
    """Offer the source."""

    @hookimpl
    def surgery_sources(self) -> Sequence[type[Source]]:
        """Give the source of the zoo."""
        return (ZooSource,)


def with_zoo(known: Registry) -> Registry:
    """Give a registry that knows the source ``zoo`` too."""
    return known.with_plugins([Plugin("surgery-zoo", "1", "zoo", _Hooks())])
