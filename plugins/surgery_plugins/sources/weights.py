"""The weight files of a folder: safetensors, or torch pickles that hold nothing but tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgery.checkpoint.index import open_checkpoint
from surgery.checkpoint.pickles import read_pickle
from surgery.errors import IntegrityError

PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def is_pickled(folder: Path) -> bool:
    """Tell whether a folder has its weights in torch pickles alone."""
    named = (folder / PICKLE).is_file() or (folder / PICKLE_INDEX).is_file()
    return named and not any(folder.glob("*.safetensors*"))


def weight_files(folder: Path) -> dict[str, Path]:
    """Give the weight files of a folder by name, checked.

    Raises:
        PatientError: there are none, or a pickle names classes; the message lists them.
        IntegrityError: a file is damaged, or an index leads out of the folder.
    """
    if not is_pickled(folder):
        return open_checkpoint(folder)
    files = _pickles(folder)
    for path in files.values():
        read_pickle(path)
    return files


def first_dtype(folder: Path) -> Any:
    """Give the dtype of the first floating tensor in a folder's pickles, or None."""
    tensors = (t for path in _pickles(folder).values() for t in read_pickle(path).values())
    return next((t.dtype for t in tensors if t.is_floating_point()), None)


def _pickles(folder: Path) -> dict[str, Path]:
    if not (folder / PICKLE_INDEX).is_file():
        return {PICKLE: folder / PICKLE}
    where = folder / PICKLE_INDEX
    try:
        names = sorted(set(json.loads(where.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(str(where), "an index with a weight_map", repr(error)[:200]) from None
    for name in names:
        inside = (folder / str(name)).resolve().parent == folder.resolve()
        if not isinstance(name, str) or Path(name).name != name or not inside:
            raise IntegrityError(str(where), "the name of a file in the folder", repr(name))
    return {name: folder / name for name in names}
