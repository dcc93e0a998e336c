"""Open a checkpoint of another tool; tensors stay on disk until they are written."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.header import TensorEntry
from surgery.checkpoint.index import PICKLES
from surgery.checkpoint.pickles import foreign_classes, read_pickle
from surgery.checkpoint.stored import weight_files
from surgery.checkpoint.strict import show, show_path
from surgery.checkpoint.tensors import TensorReader
from surgery.errors import IntegrityError, PatientError

_DISTRIBUTED = ".metadata"


@dataclass(frozen=True)
class Legacy:
    """What a checkpoint of another tool holds.

    Attributes:
        tree: containers inside each other, with tensors or places of tensors as leaves.
        files: the files that hold it, by name.
        left_out: classes whose objects were not made.
        notes: what its reader should know.
    """

    tree: Any
    files: dict[str, Path]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_legacy(path: Path, *, leave_out_objects: bool = False) -> Legacy:
    """Open a torch pickle, a safetensors file, or a folder of either; no code in it is run.

    Pickles are mapped into memory, so that a tensor is read when it is used.

    Args:
        path: the file or folder.
        leave_out_objects: read past objects of classes that torch does not hold for safe; they
            are not made, and neither imported nor run.

    Raises:
        PatientError: nothing of the kind is there, it is not readable, or it names classes.
        IntegrityError: a file is damaged.
    """
    files = _files(path)
    if all(file.suffix == ".safetensors" for file in files):
        return Legacy(dict(TensorReader(*files).entries), {file.name: file for file in files})
    left_out = sorted({name for file in files for name in foreign_classes(file)})
    if left_out and not leave_out_objects:
        raise _foreign(path, left_out)
    notes = [note for file in files for note in _check_sums(file)]
    trees = [read_pickle(file, mapped=True, left_out=left_out) for file in files]
    tree = trees[0] if len(trees) == 1 else _joined(path, trees)
    return Legacy(tree, {file.name: file for file in files}, tuple(left_out), tuple(notes))


def _foreign(path: Path, classes: list[str]) -> PatientError:
    shown = ", ".join(show(name) for name in classes[:10])
    more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
    return PatientError(
        show_path(path), "tensors and plain containers only", f"classes {shown}{more}",
        "give --leave-out-objects to read past such objects; nothing of theirs is run",
    )  # fmt: skip


def _files(path: Path) -> list[Path]:
    """Find the weight files of a folder, or the one that a path names."""
    if (path / _DISTRIBUTED).exists() or any(path.glob("*.distcp")):
        raise PatientError(
            show_path(path), "one checkpoint file", "a folder of torch.distributed.checkpoint",
            "join it first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            "FOLDER FILE.pt",
        )  # fmt: skip
    if path.is_dir() and not any(path.glob("*.safetensors*")):
        alone = sorted(file for file in path.iterdir() if file.suffix in PICKLES)
        if len(alone) == 1:
            return alone
    if path.is_file() and path.suffix != ".safetensors":
        return [path]
    return weight_files(path)


def _joined(path: Path, trees: list[Any]) -> dict[str, Any]:
    """Join the shards of one state dict."""
    found: dict[str, Any] = {}
    for tree in trees:
        if not isinstance(tree, Mapping):
            raise PatientError(show_path(path), "shards of tensors by name", type(tree).__name__)
        twice = found.keys() & tree.keys()
        if twice:
            name = ascii(sorted(map(str, twice))[0])
            raise IntegrityError(show_path(path), "each name in one shard", f"{name} in two")
        found.update(tree)
    return found


def _check_sums(file: Path) -> list[str]:
    """Compare every part of an archive with its checksum, which mapped reading does not do."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = [part for part in archive.infolist() if part.file_size]
            bad = [part.filename for part in parts if not _sound(archive, part)]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []  # the reader of the pickle says what is wrong with the archive
    if parts and len(bad) == len(parts):
        return [f"{file.name} was saved without checksums: damage in it would go unseen"]
    if bad:
        found = f"another one in {bad[0]!a}"
        raise IntegrityError(show_path(file), "the checksum of each part", found)
    return []


def _sound(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(part) as data:
            while data.read(1 << 20):
                pass
    except (zipfile.BadZipFile, EOFError):
        return False
    return True


def is_leaf(item: Any) -> bool:
    """Tell whether an item of a tree is a tensor or the place of one."""
    import torch

    return isinstance(item, torch.Tensor | TensorEntry)
