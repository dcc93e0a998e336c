"""The weight files of a folder: safetensors, or torch pickles that hold nothing but tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.index import file_inside, open_checkpoint
from surgery.checkpoint.pickles import read_pickle
from surgery.errors import IntegrityError, PatientError

if TYPE_CHECKING:
    from torch import Tensor

PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def is_pickled(folder: Path) -> bool:
    """Tell whether a folder has its weights in torch pickles alone."""
    named = (folder / PICKLE).is_file() or (folder / PICKLE_INDEX).is_file()
    return named and not any(folder.glob("*.safetensors*"))


def weight_files(folder: Path) -> dict[str, Path]:
    """Give the weight files of a folder by name, checked.

    Raises:
        PatientError: there are none, or a pickle holds more than tensors by name; the message
            lists the classes that it names.
        IntegrityError: a file is damaged or missing, or a name or link leads out of the folder.
    """
    if not is_pickled(folder):
        return open_checkpoint(folder)
    files = _pickles(folder)
    for path in files.values():
        _state(path)
    return files


def first_dtype(folder: Path) -> Any:
    """Give the dtype of the first floating tensor in a folder's pickles, or None."""
    tensors = (tensor for path in _pickles(folder).values() for tensor in _state(path).values())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def _state(path: Path) -> Mapping[str, Tensor]:
    """Read tensors by name, and demand that a pickle holds nothing else."""
    import torch

    found = read_pickle(path)
    wanted = "tensors by name, such as a state dict"
    instead = "save the model's own state dict, as safetensors"
    if not isinstance(found, Mapping):
        raise PatientError(str(path), wanted, f"a {type(found).__name__}", instead)
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            held = f"a {type(value).__name__} under {name!a}"[:200]
            raise PatientError(str(path), wanted, held, instead)
    return found


def _pickles(folder: Path) -> dict[str, Path]:
    """Give the pickles that an index names, or the only one; each lies in the folder."""
    if not (folder / PICKLE_INDEX).is_file():
        return {PICKLE: file_inside(folder, PICKLE)}
    names = _listed(file_inside(folder, PICKLE_INDEX))
    return {name: file_inside(folder, name, PICKLE_INDEX) for name in names}


def _listed(index: Path) -> list[str]:
    """Give the file names of an index."""
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(str(index), "an index with a weight_map", repr(error)[:200]) from None
    for name in names:
        if not isinstance(name, str):
            raise IntegrityError(str(index), "the name of a file in the folder", repr(name))
    return sorted(names)
